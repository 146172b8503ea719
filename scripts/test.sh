#!/usr/bin/env bash
# `make test`. What needs no graph runs in as many processes as there are cores; graph tests, which run several processes in real
# time themselves, one after the other. A machine that others share may stop these for a second: files in which something failed
# run once more, whole (tests of a file build on one another) and in a fresh process. Both runs tell what failed; what fails twice
# has failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=.venv/bin/python
FAILED=.pytest_cache/v/cache/lastfailed

rm -f "$FAILED"
failed=0
run() { # pytest's status 1: tests failed; all else is no chance event
    "$PYTHON" -m pytest "$@" || { failed=$?; [ "$failed" -eq 1 ] || exit "$failed"; }
}
run -n "$(nproc)" --maxprocesses 8 --dist loadfile test/unit test/property
run test/graph
[ "$failed" -eq 1 ] && [ -f "$FAILED" ] || exit "$failed"
mapfile -t files < <("$PYTHON" -c 'import json, sys; print(*sorted({name.split("::")[0] for name in json.load(open(sys.argv[1]))}), sep="\n")' "$FAILED")
printf '\n[test] once more: %s\n' "${files[*]}"
exec "$PYTHON" -m pytest "${files[@]}"
