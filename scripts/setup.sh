#!/usr/bin/env bash
# Prepares .venv: checks Python, installs the package (editable) with the pinned versions, and checks that MuJoCo can render.
# A stamp of everything that decides the result makes the second run instant.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1

VENV=.venv
STAMP="$VENV/vla_ros.stamp"
PYTHON="${PYTHON:-python3}"

say() { printf '[setup] %s\n' "$*"; }
fail() {
    printf '[setup] error: %s\n' "$@" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null || fail "$PYTHON not found; install Python 3.10 or newer (PYTHON=/path/to/python make setup)"
version="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$PYTHON is Python $version, vla_ros needs 3.10 or newer; choose another one: PYTHON=python3.11 make setup"

# The folder is part of the stamp: a venv that was moved or copied has wrong paths in its scripts.
wanted="$({ pwd; "$PYTHON" --version; cat setup.py pyproject.toml constraints.txt scripts/setup.sh; } | cksum)"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && [ -x "$VENV/bin/vla-ros" ]; then
    exit 0
fi

if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    fail "$PYTHON has no venv module; install it and run make again:" "    sudo apt-get install -y python$version-venv"
fi
if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null || ! grep -qsxF "$(pwd)" "$VENV/vla_ros.home"; then
    say "making $VENV with Python $version"
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV"
    pwd >"$VENV/vla_ros.home"
fi
# setuptools warns about every editable install; nothing is to be done about it
pip() { PYTHONWARNINGS=ignore "$VENV/bin/python" -m pip install --quiet "$@"; }

say "installing the pinned versions into $VENV (minutes on the first run)"
pip --upgrade pip "setuptools>=68" wheel
# torch first and alone: every other package that wants one then finds the pinned version in place.
pip -c constraints.txt torch
pip -c constraints.txt -e ".[dev]"
"$VENV/bin/python" -c 'import vla_ros.safety.filter, vla_ros.robots.image'  # compiled once, not by several nodes at their first start

system_check() {
    "$VENV/bin/python" -c 'import pinocchio' || return 1
    MUJOCO_GL="${MUJOCO_GL:-egl}" "$VENV/bin/python" - <<'PYTHON'
import mujoco

model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 2'/><geom size='.1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the rendered image is black"
PYTHON
}
packages="libegl1 libgl1 libgomp1"
if ! reason="$(system_check 2>&1)"; then
    say "the system libraries for rendering or kinematics are missing: $packages"
    say "  (found out by: $(printf '%s' "$reason" | tail -n 1))"
    command -v apt-get >/dev/null || fail "no apt-get here; install EGL, OpenGL and OpenMP runtime libraries by hand"
    if [ "$(id -u)" -ne 0 ]; then
        fail "run this once, then make again:" \
            "    sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages"
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $packages
    system_check || fail "MuJoCo still cannot render; the message above is its reason"
fi

printf '%s' "$wanted" >"$STAMP"
say "ready: $VENV/bin/vla-ros --help"
