"""What holds for all tests of the graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy


@pytest.fixture(autouse=True, scope="module")
def rclpy_ends_with_its_module() -> Iterator[None]:
    """A fixture that failed halfway must not leave its context to the next module's rclpy.init()."""
    yield
    rclpy.try_shutdown()
