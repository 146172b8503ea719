"""Both kinds of install (ament and pip) hold the same things, and the scripts agree with the nodes."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CMAKE = (ROOT / "CMakeLists.txt").read_text()
SHARED = {"config", "launch", "urdf", "msg", "srv", "action"}


def test_every_node_has_its_script_in_the_ament_install() -> None:
    nodes = {file.stem for file in (ROOT / "vla_ros" / "nodes").glob("*_node.py")}
    scripts = {file.name for file in (ROOT / "scripts").glob("*_node")}
    assert nodes == scripts
    assert set(re.findall(r"scripts/(\w+_node)", CMAKE)) == scripts
    for name in scripts:
        script = ROOT / "scripts" / name
        assert os.access(script, os.X_OK), f"{name} is not executable"
        assert f"from vla_ros.nodes.{name} import main" in script.read_text()


def test_shared_folders_are_in_both_installs() -> None:
    installed = " ".join(re.findall(r"install\(DIRECTORY ([a-z ]+) DESTINATION share", CMAKE)).split()
    assert set(installed) == SHARED
    code = "import setuptools, runpy; setuptools.setup = lambda **k: print([sorted(k['data_files']), k['packages']])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; runpy.run_path('setup.py')"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    data_files, packages = ast.literal_eval(done.stdout)
    shipped = {file for _folder, files in data_files for file in files}
    expected = {str(f.relative_to(ROOT)) for top in SHARED for f in (ROOT / top).rglob("*") if f.is_file()}
    assert shipped == expected | {"package.xml"}
    folders = {file.parent for file in (ROOT / "vla_ros").rglob("__init__.py") if "site" not in file.parts}
    assert set(packages) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_interfaces_use_only_declared_packages() -> None:
    declared = set(re.search(r"DEPENDENCIES ([\w ]+)", CMAKE)[1].split())  # type: ignore[index]
    used = set()
    for folder in ("msg", "srv", "action"):
        for file in (ROOT / folder).iterdir():
            used |= set(re.findall(r"^(\w+)/\w+", file.read_text(), re.MULTILINE))
    assert used <= declared
    manifest = (ROOT / "package.xml").read_text()
    for package in declared:
        assert f"<depend>{package}</depend>" in manifest


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 13)])
def test_constraints_pin_each_package_once_per_python(version: tuple[int, int]) -> None:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, _semicolon, marker = line.partition(";")
        name, _equals, pinned = requirement.strip().partition("==")
        if marker:
            relation, bound = re.fullmatch(r' python_version (<|>=) "3\.(\d+)"', marker).groups()  # type: ignore[union-attr]
            if (version[1] < int(bound)) != (relation == "<"):
                continue
        assert name not in pins, f"{name} is pinned twice for {version}"
        pins[name] = pinned
    assert pins["torch"]
    assert all(pins.values())


def test_make_help_and_setup_script_are_sound() -> None:
    assert subprocess.run(["bash", "-n", "scripts/setup.sh"], cwd=ROOT, check=False).returncode == 0
    assert subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=False).returncode == 0
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "check", "setup", "clean"):
        assert f"make {target} " in shown
    quick = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", "QUICK=1"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert quick.splitlines()[-1] == ".venv/bin/vla-ros demo --quick"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('case "$*" in *"%d.%d"*) echo 3.8; exit;; *"(3, 10)"*) exit 1;; esac', "is Python 3.8, vla_ros needs 3.10"),
        (
            'case "$*" in *"%d.%d"*) echo 3.12; exit;; *ensurepip*) exit 1;; esac',
            "sudo apt-get install -y python3.12-venv",
        ),
    ],
)
def test_setup_says_what_is_missing(tmp_path: Path, body: str, message: str) -> None:
    folder = tmp_path / "a copy"
    (folder / "scripts").mkdir(parents=True)
    for name in ("scripts/setup.sh", "setup.py", "pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\nexit 0\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(folder / "scripts" / "setup.sh")],
        env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr
    assert not (folder / ".venv").exists()
