"""Action clients."""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from action_msgs.msg import GoalInfo, GoalStatus, GoalStatusArray
from action_msgs.srv import CancelGoal
from unique_identifier_msgs.msg import UUID

from rclpy.qos import QoSProfile, qos_profile_action_status_default, qos_profile_default, qos_profile_services_default
from rclpy.task import Future


class ClientGoalHandle:
    """A goal as its client sees it."""

    def __init__(self, client: ActionClient, goal_id: Any, response: Any) -> None:
        self._client, self._goal_id, self._response = client, goal_id, response
        self._status = GoalStatus.STATUS_ACCEPTED if response.accepted else GoalStatus.STATUS_UNKNOWN

    @property
    def goal_id(self) -> Any:
        """Its UUID message."""
        return self._goal_id

    @property
    def accepted(self) -> bool:
        """Whether the server took it."""
        return bool(self._response.accepted)

    @property
    def stamp(self) -> Any:
        """When the server took it."""
        return self._response.stamp

    @property
    def status(self) -> int:
        """A number of action_msgs/GoalStatus, as last heard."""
        return int(self._status)

    def cancel_goal_async(self) -> Future:
        """Ask to cancel; future of CancelGoal.Response."""
        return self._client._cancel(self)

    def cancel_goal(self) -> Any:
        """Ask to cancel and wait; needs an executor that spins in another thread."""
        return _wait(self.cancel_goal_async())

    def get_result_async(self) -> Future:
        """Future of the response with `status` and `result`."""
        return self._client._get_result(self)

    def get_result(self) -> Any:
        """Wait for the result; needs an executor that spins in another thread."""
        return _wait(self.get_result_async())


class ActionClient:
    """Sends goals to an action server."""

    def __init__(
        self, node: Any, action_type: Any, action_name: str, *, callback_group: Any = None,
        goal_service_qos_profile: QoSProfile = qos_profile_services_default,
        result_service_qos_profile: QoSProfile = qos_profile_services_default,
        cancel_service_qos_profile: QoSProfile = qos_profile_services_default,
        feedback_sub_qos_profile: QoSProfile = qos_profile_default,
        status_sub_qos_profile: QoSProfile = qos_profile_action_status_default,
    ) -> None:  # fmt: skip
        self._node, self._action_type, self._action_name = node, action_type, action_name
        base, impl = f"{node.resolve_topic_name(action_name)}/_action", action_type.Impl
        options = {"callback_group": callback_group}
        self._goals = node.create_client(
            impl.SendGoalService, f"{base}/send_goal", qos_profile=goal_service_qos_profile, **options
        )
        self._cancels = node.create_client(CancelGoal, f"{base}/cancel_goal", qos_profile=cancel_service_qos_profile, **options)
        self._results = node.create_client(
            impl.GetResultService, f"{base}/get_result", qos_profile=result_service_qos_profile, **options
        )
        self._feedback = node.create_subscription(
            impl.FeedbackMessage, f"{base}/feedback", self._on_feedback, feedback_sub_qos_profile, **options
        )
        self._status = node.create_subscription(
            GoalStatusArray, f"{base}/status", self._on_status, status_sub_qos_profile, **options)  # fmt: skip
        self._feedback_callbacks: dict[bytes, Callable[[Any], Any]] = {}
        self._handles: weakref.WeakValueDictionary[bytes, ClientGoalHandle] = weakref.WeakValueDictionary()

    def send_goal_async(self, goal: Any, feedback_callback: Callable[[Any], Any] | None = None, goal_uuid: Any = None) -> Future:
        """Send a goal; future of a ClientGoalHandle.

        Raises:
            TypeError: not the action's Goal.
        """
        if not isinstance(goal, self._action_type.Goal):
            raise TypeError(f"goal: found {type(goal)}, expected {self._action_type.Goal}")
        goal_id = goal_uuid or UUID(uuid=np.frombuffer(uuid.uuid4().bytes, np.uint8))
        key = bytes(goal_id.uuid)
        if feedback_callback is not None:
            self._feedback_callbacks[key] = feedback_callback
        future = Future(executor=self._node.executor)
        request = self._action_type.Impl.SendGoalService.Request(goal_id=goal_id, goal=goal)
        answer = self._goals.call_async(request)

        def answered() -> None:
            if answer.cancelled():
                future.cancel()
                return
            handle = ClientGoalHandle(self, goal_id, answer.result())
            if handle.accepted:
                self._handles[key] = handle
            else:
                self._feedback_callbacks.pop(key, None)
            future.set_result(handle)

        answer.when_done(answered)
        return future

    def send_goal(self, goal: Any, **options: Any) -> Any:
        """Send a goal and wait for its result; needs an executor that spins in another thread. None if rejected."""
        handle = _wait(self.send_goal_async(goal, **options))
        return handle.get_result() if handle.accepted else None

    def _cancel(self, handle: ClientGoalHandle) -> Future:
        return self._cancels.call_async(CancelGoal.Request(goal_info=GoalInfo(goal_id=handle.goal_id)))

    def _get_result(self, handle: ClientGoalHandle) -> Future:
        key = bytes(handle.goal_id.uuid)
        answer = self._results.call_async(self._action_type.Impl.GetResultService.Request(goal_id=handle.goal_id))

        def answered() -> None:
            self._feedback_callbacks.pop(key, None)
            if not answer.cancelled():
                handle._status = answer.result().status

        answer.when_done(answered)
        return answer

    def _on_feedback(self, message: Any) -> Any:
        callback = self._feedback_callbacks.get(bytes(message.goal_id.uuid))
        return callback(message) if callback is not None else None

    def _on_status(self, message: Any) -> None:
        for state in message.status_list:
            handle = self._handles.get(bytes(state.goal_info.goal_id.uuid))
            if handle is not None:
                handle._status = state.status

    def server_is_ready(self) -> bool:
        """Whether a server is there, with all its parts."""
        services = all(client.service_is_ready() for client in (self._goals, self._cancels, self._results))
        return services and all(sub.get_publisher_count() > 0 for sub in (self._feedback, self._status))

    def wait_for_server(self, timeout_sec: float | None = None) -> bool:
        """Wait for a server; False after timeout_sec [s] or at shutdown."""
        deadline = None if timeout_sec is None or timeout_sec < 0 else time.monotonic() + timeout_sec
        while self._node.context.ok():
            if self.server_is_ready():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return False

    def destroy(self) -> None:
        """Stop."""
        for client in (self._goals, self._cancels, self._results):
            self._node.destroy_client(client)
        for subscription in (self._feedback, self._status):
            self._node.destroy_subscription(subscription)


def _wait(future: Future) -> Any:
    event = threading.Event()
    future.when_done(event.set)
    event.wait()
    return future.result()
