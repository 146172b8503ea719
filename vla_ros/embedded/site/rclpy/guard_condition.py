"""Guard conditions: wake an executor from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.waitable import Waitable
from vla_ros.embedded import dds


class GuardCondition(Waitable):
    """Calls `callback` in the executor after trigger()."""

    def __init__(self, callback: Callable[[], Any] | None, callback_group: Any, context: Any = None) -> None:
        from rclpy.utilities import opened

        self.callback, self.callback_group = callback, callback_group
        self._trigger = dds.Trigger(opened(context).participant)
        self.conditions = (self._trigger.condition,)
        self._set = False

    def trigger(self) -> None:
        """Ask for one call."""
        self._set = True
        self._trigger.set()

    def take(self) -> Callable[[], Any] | None:
        if not self._set:
            return None
        self._trigger.clear()
        self._set = False
        return self.callback or (lambda: None)

    def destroy(self) -> None:
        """Delete the condition."""
        self._trigger.close()
