#!/usr/bin/env bash
# `make test`. Graph tests run several processes in real time, which a machine that others share may stop for a second: files in
# which something failed run once more, whole (tests of a file build on one another) and in a fresh process. Both runs tell what
# failed; what fails twice has failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=.venv/bin/python
FAILED=.pytest_cache/v/cache/lastfailed

rm -f "$FAILED"
status=0
"$PYTHON" -m pytest test || status=$?
[ "$status" -eq 1 ] && [ -f "$FAILED" ] || exit "$status" # 1: tests failed; all else is no chance event
mapfile -t files < <("$PYTHON" -c 'import json, sys; print(*sorted({name.split("::")[0] for name in json.load(open(sys.argv[1]))}), sep="\n")' "$FAILED")
printf '\n[test] once more: %s\n' "${files[*]}"
exec "$PYTHON" -m pytest "${files[@]}"
