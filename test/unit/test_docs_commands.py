"""Every command in the fenced blocks of README and docs exists, and its words are understood."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

from vla_ros.cli import __main__ as cli
from vla_ros.cli import launch, message_yaml
from vla_ros.embedded.launch import declared_arguments
from vla_ros.embedded.launch.description import Argument
from vla_ros.paths import share

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = ("launch", "topic", "node", "param", "service", "action")  # of ros2, which `vla-ros` has as well
LEFT_OUT = {"...", "…"}


def commands(page: Path) -> list[list[str]]:
    """The words of each command of this package in a page."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), ";"]:
                if word in {"&&", "&", "|", ";"}:
                    found.append(words)
                    words = []
                elif word.endswith(";"):
                    found.append([*words, word[:-1]])
                    words = []
                else:
                    words.append(word)
    return [words for words in found if words[:1] == ["vla-ros"] or (words[:1] == ["ros2"] and words[1] in OURS)]


CASES = [(page.relative_to(ROOT), " ".join(words[1:]), words[1:]) for page in PAGES for words in commands(page)]


@functools.cache
def known_arguments(file: Path) -> dict[str, Argument]:
    """Of a launch file and of all that it may include."""
    files = [file, *(share() / "launch").rglob("*.launch.yaml")]
    return {argument.name: argument for f in reversed(files) for argument in declared_arguments(f)}


@pytest.mark.parametrize(("page", "words"), [(p, w) for p, _, w in CASES], ids=[f"{p}: {t}"[:90] for p, t, _ in CASES])
def test_it_is_understood(page: Path, words: list[str]) -> None:
    command = cli.find(words[0])
    module = importlib.import_module(command.module)
    complete = not LEFT_OUT & set(words)
    words = [word.split("|")[0] if ":=" in word else word for word in words[1:] if word not in LEFT_OUT]
    if not complete and words[:1] == ["sft"]:
        pytest.skip("only its beginning is shown")
    args = cli.parse_words(command, module, words)  # ends the process where argparse does not understand
    if command.name == "launch":
        file, given = launch.split_words(args.words)
        known = known_arguments(file)
        assert set(given) <= set(known), f"{page}: {set(given) - set(known)}"
        for name, value in given.items():
            assert not known[name].choices or value in known[name].choices, f"{page}: {name}:={value}"
        needed = {name for name, argument in known.items() if argument.default is None and argument in declared_arguments(file)}
        assert not complete or needed <= set(given), f"{page}: {needed - set(given)} missing"
    if command.name in ("action", "service") and words[:1] in (["send_goal"], ["call"]):
        kind, text = words[-2:] if words[-1].startswith("{") else (words[-1], "{}")
        package, _, name = kind.split("/")
        interface = getattr(importlib.import_module(f"{package}.{'action' if command.name == 'action' else 'srv'}"), name)
        message_yaml.fill((interface.Goal if command.name == "action" else interface.Request)(), text)


def test_there_are_many() -> None:
    pages = [str(page) for page, _, _ in CASES]
    assert pages.count("docs/robots.md") > 40
    assert pages.count("README.md") > 30
