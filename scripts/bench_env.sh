#!/usr/bin/env bash
# Prepares .venv-<name>, the environment of its own that a public benchmark runs in (their pins exclude each other and ours):
# the packages and versions of scripts/constraints-<name>.txt. A stamp makes the second run instant.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1

NAME="${1:-}"
CONSTRAINTS="scripts/constraints-$NAME.txt"
VENV=".venv-$NAME"
STAMP="$VENV/vla_ros.stamp"
PYTHON="${PYTHON:-python3}"

fail() {
    printf '[bench %s] error: %s\n' "$NAME" "$*" >&2
    exit 1
}

[ -n "$NAME" ] && [ -f "$CONSTRAINTS" ] || fail "$CONSTRAINTS not found; usage: scripts/bench_env.sh <name>, one of:" \
    "$(find scripts -name 'constraints-*.txt' | sed 's/.*constraints-\(.*\)\.txt/\1/' | xargs)"
command -v "$PYTHON" >/dev/null || fail "$PYTHON not found (PYTHON=/path/to/python make bench-$NAME)"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON has no venv module (Debian: python3-venv)"

# The folder is part of the stamp: a venv that was moved or copied has wrong paths in its scripts.
wanted="$({ pwd; "$PYTHON" --version; cat "$CONSTRAINTS" scripts/bench_env.sh; } | cksum)"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ]; then
    exit 0
fi
printf '[bench %s] installing the pinned versions into %s\n' "$NAME" "$VENV"
rm -rf "$VENV"
"$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet -r "$CONSTRAINTS"
printf '%s' "$wanted" >"$STAMP"
printf '[bench %s] ready: %s\n' "$NAME" "$VENV"
