"""Action servers."""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from action_msgs.msg import GoalInfo, GoalStatus, GoalStatusArray
from action_msgs.srv import CancelGoal

from rclpy.action.goal_handle import ServerGoalHandle
from rclpy.qos import QoSProfile, qos_profile_action_status_default, qos_profile_default, qos_profile_services_default
from rclpy.service import Service
from rclpy.task import Future

RESULT_TIMEOUT = 10.0  # [s] that a result is kept


class GoalResponse(IntEnum):
    """Answer to a new goal."""

    REJECT = 1
    ACCEPT = 2


class CancelResponse(IntEnum):
    """Answer to a request to cancel."""

    REJECT = 1
    ACCEPT = 2


def default_handle_accepted_callback(goal_handle: ServerGoalHandle) -> None:
    """Execute the goal at once."""
    goal_handle.execute()


def default_goal_callback(goal_request: Any) -> GoalResponse:
    """Accept every goal."""
    return GoalResponse.ACCEPT


def default_cancel_callback(cancel_request: Any) -> CancelResponse:
    """Refuse to cancel."""
    return CancelResponse.REJECT


class ActionServer:
    """Executes goals with `execute_callback(goal_handle) -> Result`, which may be a coroutine.

    As under rclpy, a plain execute callback occupies a thread of the executor until it returns: to hear requests to
    cancel meanwhile, use a MultiThreadedExecutor and a reentrant group, or a coroutine.
    """

    def __init__(
        self, node: Any, action_type: Any, action_name: str, execute_callback: Callable[[ServerGoalHandle], Any], *,
        callback_group: Any = None, goal_callback: Callable[[Any], Any] = default_goal_callback,
        handle_accepted_callback: Callable[[ServerGoalHandle], Any] = default_handle_accepted_callback,
        cancel_callback: Callable[[Any], Any] = default_cancel_callback,
        goal_service_qos_profile: QoSProfile = qos_profile_services_default,
        result_service_qos_profile: QoSProfile = qos_profile_services_default,
        cancel_service_qos_profile: QoSProfile = qos_profile_services_default,
        feedback_pub_qos_profile: QoSProfile = qos_profile_default,
        status_pub_qos_profile: QoSProfile = qos_profile_action_status_default,
        result_timeout: float = RESULT_TIMEOUT,
    ) -> None:  # fmt: skip
        self.node, self.action_type, self.action_name = node, action_type, action_name
        self._result_timeout = result_timeout
        self.goals: dict[bytes, ServerGoalHandle] = {}
        self._results: dict[bytes, Future] = {}
        self.register_execute_callback(execute_callback)
        self.register_goal_callback(goal_callback)
        self.register_handle_accepted_callback(handle_accepted_callback)
        self.register_cancel_callback(cancel_callback)
        base, impl = f"{node.resolve_topic_name(action_name)}/_action", action_type.Impl
        self._feedback = node.create_publisher(impl.FeedbackMessage, f"{base}/feedback", feedback_pub_qos_profile)
        self._status = node.create_publisher(GoalStatusArray, f"{base}/status", status_pub_qos_profile)
        self._services = [
            node.create_service(
                impl.SendGoalService, f"{base}/send_goal", self._on_goal,
                qos_profile=goal_service_qos_profile, callback_group=callback_group),
            node.create_service(
                CancelGoal, f"{base}/cancel_goal", self._on_cancel,
                qos_profile=cancel_service_qos_profile, callback_group=callback_group),
            node.create_service(
                impl.GetResultService, f"{base}/get_result", self._on_result,
                qos_profile=result_service_qos_profile, callback_group=callback_group),
        ]  # fmt: skip

    def register_execute_callback(self, execute_callback: Callable[[ServerGoalHandle], Any]) -> None:
        """Who executes goals."""
        if not callable(execute_callback):
            raise TypeError("Failed to register goal execution callback: not callable")
        self.execute_callback = execute_callback

    def register_goal_callback(self, goal_callback: Callable[[Any], Any] | None) -> None:
        """Who accepts goals."""
        self._goal_callback = goal_callback or default_goal_callback

    def register_handle_accepted_callback(self, handle_accepted_callback: Callable[[Any], Any] | None) -> None:
        """Who starts accepted goals."""
        self._accepted_callback = handle_accepted_callback or default_handle_accepted_callback

    def register_cancel_callback(self, cancel_callback: Callable[[Any], Any] | None) -> None:
        """Who agrees to cancel."""
        self._cancel_callback = cancel_callback or default_cancel_callback

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Callable[[Any], Any] | None) -> None:
        """Execute a goal in the executor."""
        callback = execute_callback or self.execute_callback
        self.node.executor.create_task(self._execute, callback, goal_handle)

    async def _execute(self, callback: Callable[[Any], Any], goal: ServerGoalHandle) -> None:
        logger = self.node.get_logger()
        result = None
        try:
            result = callback(goal)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:  # noqa: BLE001  (a goal that fails must not end the server; as in rclpy)
            logger.error(  # noqa: TRY400  (a ROS logger has no exception())
                f"Error raised in execute callback: {error}\n{traceback.format_exc()}"
            )
            result = self.action_type.Result()
        if goal.is_active:
            logger.warning(f"Goal state not set, assuming aborted. Goal ID: {goal.key.hex()}")
            goal.abort()
        if not isinstance(result, self.action_type.Result):
            logger.error(f"{self.action_name}: execute callback returned {result!r}, expected {self.action_type.Result}")
            result = self.action_type.Result()
        response = self.action_type.Impl.GetResultService.Response(status=int(goal.status), result=result)
        self._results[goal.key].set_result(response)

    async def _on_goal(self, request: Any, response: Any) -> Any:
        self._forget_old()
        key = bytes(request.goal_id.uuid)
        if key in self.goals:
            return response  # the same goal twice is refused
        answer = self._goal_callback(request.goal)
        if inspect.isawaitable(answer):
            answer = await answer
        if not isinstance(answer, GoalResponse):
            self.node.get_logger().warning(f"Goal request callback did not return a GoalResponse type, got {answer!r}")
        if answer != GoalResponse.ACCEPT:
            return response
        stamp = self.node.get_clock().now().to_msg()
        goal = ServerGoalHandle(self, GoalInfo(goal_id=request.goal_id, stamp=stamp), request.goal)
        self.goals[key] = goal
        self._results[key] = Future()
        response.accepted, response.stamp = True, stamp
        self.publish_status()
        # Started by a task, so that the client knows of the acceptance before the goal blocks a thread.
        self.node.executor.create_task(self._accepted_callback, goal)
        return response

    async def _on_cancel(self, request: Any, response: Any) -> Any:
        chosen = self._to_cancel(request.goal_info)
        if not chosen:
            known = bytes(request.goal_info.goal_id.uuid) in self.goals
            response.return_code = (
                CancelGoal.Response.ERROR_GOAL_TERMINATED if known else CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID
            )
            return response
        canceling = []
        for goal in chosen:
            answer = self._cancel_callback(goal)
            if inspect.isawaitable(answer):
                answer = await answer
            if answer == CancelResponse.ACCEPT and goal.is_active:
                goal.set_canceling()
                canceling.append(goal.info)
        response.goals_canceling = canceling
        if not canceling:
            response.return_code = CancelGoal.Response.ERROR_REJECTED
        return response

    def _to_cancel(self, info: Any) -> list[ServerGoalHandle]:
        """No id and no stamp: all; a stamp: all that were accepted up to then; an id: that one (too)."""
        key, until = bytes(info.goal_id.uuid), (info.stamp.sec, info.stamp.nanosec)
        by_id, by_time = any(key), any(until)
        return [
            goal
            for goal in self.goals.values()
            if goal.is_active
            and (
                (not by_id and not by_time)
                or (by_id and goal.key == key)
                or (by_time and (goal.info.stamp.sec, goal.info.stamp.nanosec) <= until)
            )
        ]

    def _on_result(self, request: Any, response: Any) -> Any:
        future = self._results.get(bytes(request.goal_id.uuid))
        if future is None:
            response.status = GoalStatus.STATUS_UNKNOWN
            return response
        return Service.Later(future)

    def publish_feedback(self, message: Any) -> None:
        """Send feedback."""
        self._feedback.publish(message)

    def publish_status(self) -> None:
        """Tell the state of all goals."""
        states = [GoalStatus(goal_info=goal.info, status=int(goal.status)) for goal in self.goals.values()]
        self._status.publish(GoalStatusArray(status_list=states))

    def _forget_old(self) -> None:
        limit = time.monotonic() - self._result_timeout
        for key in [key for key, goal in self.goals.items() if goal.ended is not None and goal.ended < limit]:
            del self.goals[key], self._results[key]

    def destroy(self) -> None:
        """Stop serving."""
        for service in self._services:
            self.node.destroy_service(service)
        self.node.destroy_publisher(self._feedback)
        self.node.destroy_publisher(self._status)
