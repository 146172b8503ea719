"""The one error class of the package: what went wrong, where, what was found and what is expected."""

from __future__ import annotations


class VlaRosError(Exception):
    """Bad input or a broken environment; the message names file, key, found and expected, and the remedy if there is one."""
