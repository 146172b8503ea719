"""A goal as its server sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus

_ACTIVE = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)
_NEXT = {
    GoalStatus.STATUS_EXECUTING: (GoalStatus.STATUS_ACCEPTED,),
    GoalStatus.STATUS_CANCELING: (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING),
    GoalStatus.STATUS_SUCCEEDED: (GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING),
    GoalStatus.STATUS_ABORTED: (GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING),
    GoalStatus.STATUS_CANCELED: (GoalStatus.STATUS_CANCELING,),
}


class ServerGoalHandle:
    """State of one goal; the execute callback ends it with succeed(), abort() or canceled()."""

    def __init__(self, server: Any, info: Any, request: Any) -> None:
        self._server, self.info, self._request = server, info, request
        self.key = bytes(info.goal_id.uuid)
        self.ended: float | None = None  # time.monotonic() of the end
        self._status = GoalStatus.STATUS_ACCEPTED
        self._lock = threading.Lock()

    @property
    def request(self) -> Any:
        """The goal message."""
        return self._request

    @property
    def goal_id(self) -> Any:
        """Its UUID message."""
        return self.info.goal_id

    @property
    def status(self) -> int:
        """A number of action_msgs/GoalStatus."""
        return int(self._status)

    @property
    def is_active(self) -> bool:
        """Not at its end."""
        return self._status in _ACTIVE

    @property
    def is_cancel_requested(self) -> bool:
        """Whether a request to cancel was accepted."""
        return bool(self._status == GoalStatus.STATUS_CANCELING)

    def execute(self, execute_callback: Callable[[Any], Any] | None = None) -> None:
        """Start executing."""
        if not self.is_cancel_requested:
            self._to(GoalStatus.STATUS_EXECUTING)
        self._server.notify_execute(self, execute_callback)

    def publish_feedback(self, feedback: Any) -> None:
        """Send the action's Feedback message.

        Raises:
            TypeError: another message.
        """
        kind = self._server.action_type.Feedback
        if not isinstance(feedback, kind):
            raise TypeError(f"feedback: found {type(feedback)}, expected {kind}")
        if not self.is_active:
            return
        message = self._server.action_type.Impl.FeedbackMessage(goal_id=self.goal_id, feedback=feedback)
        self._server.publish_feedback(message)

    def succeed(self) -> None:
        """The goal is reached."""
        self._to(GoalStatus.STATUS_SUCCEEDED)

    def abort(self) -> None:
        """The goal is given up by the server."""
        self._to(GoalStatus.STATUS_ABORTED)

    def canceled(self) -> None:
        """The goal is canceled, as was asked."""
        self._to(GoalStatus.STATUS_CANCELED)

    def set_canceling(self) -> None:
        """A request to cancel was accepted."""
        self._to(GoalStatus.STATUS_CANCELING)

    def _to(self, status: int) -> None:
        from rclpy.exceptions import RCLError

        with self._lock:
            if self._status == GoalStatus.STATUS_ACCEPTED and status == GoalStatus.STATUS_ABORTED:
                self._status = GoalStatus.STATUS_EXECUTING
            if self._status not in _NEXT[status]:
                raise RCLError(f"Failed to update goal state: goal is in state {self._status}, cannot go to {status}")
            self._status = status
            if status not in _ACTIVE:
                self.ended = time.monotonic()
        self._server.publish_status()

    def destroy(self) -> None:
        """Forget the goal."""
        self._server.goals.pop(self.key, None)
