"""Callback groups: which callbacks may run at the same time."""

from __future__ import annotations

import threading
from typing import Any


class CallbackGroup:
    """Base; an entity begins and ends each execution in its group."""

    def __init__(self) -> None:
        self.entities: set[Any] = set()
        self._lock = threading.Lock()

    def add_entity(self, entity: Any) -> None:
        """Put an entity in the group."""
        self.entities.add(entity)

    def has_entity(self, entity: Any) -> bool:
        """Whether an entity is in the group."""
        return entity in self.entities

    def can_execute(self, entity: Any) -> bool:
        """Whether a callback of `entity` could begin now."""
        raise NotImplementedError

    def beginning_execution(self, entity: Any) -> bool:
        """Claim the right to execute; False if another callback has it."""
        raise NotImplementedError

    def ending_execution(self, entity: Any) -> None:
        """Give the right back."""
        raise NotImplementedError


class ReentrantCallbackGroup(CallbackGroup):
    """All callbacks may run in parallel."""

    def can_execute(self, entity: Any) -> bool:
        return True

    def beginning_execution(self, entity: Any) -> bool:
        return True

    def ending_execution(self, entity: Any) -> None:
        return


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One callback at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._active: Any = None

    def can_execute(self, entity: Any) -> bool:
        return self._active is None

    def beginning_execution(self, entity: Any) -> bool:
        with self._lock:
            if self._active is not None:
                return False
            self._active = entity
            return True

    def ending_execution(self, entity: Any) -> None:
        with self._lock:
            if self._active is entity:
                self._active = None
