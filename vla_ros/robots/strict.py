"""Strict reading of YAML mappings (and of XML): every complaint names the file, the key, what was found and what is expected."""

from __future__ import annotations

import difflib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import yaml

from vla_ros.errors import VlaRosError


def load_yaml(path: Path) -> Section:
    """The file's top mapping.

    Raises:
        VlaRosError: file missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VlaRosError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from error
    except yaml.YAMLError as error:
        raise VlaRosError(f"{path}: not valid YAML: {error}") from error
    return Section(content, path, "")


def load_xml(path: Path) -> ET.Element:
    """The file's root element.

    Raises:
        VlaRosError: file missing, or not XML.
    """
    try:
        return ET.parse(path).getroot()
    except OSError as error:
        raise VlaRosError(f"{path}: cannot be read ({error.strerror})") from error
    except ET.ParseError as error:
        raise VlaRosError(f"{path}: not valid XML: {error}") from error


class Section:
    """One mapping of a YAML file that hands out typed values and knows where it is."""

    def __init__(self, content: Any, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        if not isinstance(content, dict):
            raise VlaRosError(f"{path}: {key or 'top level'}: found {type(content).__name__}, expected a mapping")
        self._content: dict[Any, Any] = content

    def keys(self) -> list[str]:
        return [str(k) for k in self._content]

    def check_keys(self, *allowed: str) -> Section:
        """Refuses keys outside `allowed` and names the closest valid one."""
        for key in self._content:
            if key not in allowed:
                close = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
                hint = f"did you mean '{close[0]}'? " if close else ""
                name, valid = self._name(str(key)), ", ".join(allowed)
                raise VlaRosError(f"{self.path}: unknown key '{name}'; {hint}valid keys: {valid}")
        return self

    def section(self, key: str) -> Section:
        return Section(self._get(key, "a mapping"), self.path, self._name(key))

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping of anything, for somebody else to check."""
        return dict(self.section(key)._content)

    def raw(self, key: str) -> Any:
        """Anything, for somebody else to check."""
        return self._get(key, "a value")

    def text(self, key: str) -> str:
        value = self._get(key, "text")
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "non-empty text")
        return value

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in options:
            raise self.wrong(key, f"one of {', '.join(options)}")
        return value

    def number(self, key: str, low: float = -float("inf"), high: float = float("inf")) -> float:
        """A finite number in [low, high]."""
        value = self._get(key, "a number")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(key, f"a number in [{low:g}, {high:g}]")
        return float(value)

    def integer(self, key: str, low: int, high: int = 1_000_000) -> int:
        value = self._get(key, "an integer")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"an integer in [{low}, {high}]")
        return value

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """A list of `length` numbers."""
        value = self._get(key, f"a list of {length} numbers")
        good = isinstance(value, list) and len(value) == length
        if not good or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
            raise self.wrong(key, f"a list of {length} numbers")
        return tuple(float(v) for v in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A non-empty list of distinct texts."""
        value = self._get(key, "a list of texts")
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
            raise self.wrong(key, "a non-empty list of texts")
        if len(set(value)) != len(value):
            raise self.wrong(key, "distinct entries")
        return tuple(value)

    def wrong(self, key: str, expected: str) -> VlaRosError:
        """The error for a present key with a wrong value."""
        return VlaRosError(f"{self.path}: {self._name(key)}: found {self._content.get(key)!r}, expected {expected}")

    def _get(self, key: str, expected: str) -> Any:
        if key not in self._content:
            raise VlaRosError(f"{self.path}: key '{self._name(key)}' is missing, expected {expected}")
        return self._content[key]

    def _name(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key
