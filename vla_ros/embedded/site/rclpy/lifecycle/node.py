"""Nodes with a lifecycle: unconfigured, inactive, active, finalized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lifecycle_msgs.msg
import lifecycle_msgs.srv
from lifecycle_msgs.msg import State, Transition, TransitionDescription, TransitionEvent

from rclpy.exceptions import RCLError
from rclpy.lifecycle.states import NAMES, STEPS, Step, TransitionCallbackReturn
from rclpy.node import Node as PlainNode
from rclpy.publisher import Publisher


class LifecycleState(NamedTuple):
    """A state."""

    label: str
    state_id: int


class LifecyclePublisher(Publisher):
    """Publishes only while its node is active."""

    is_activated = False

    def on_activate(self, state: LifecycleState) -> None:
        """Let messages through."""
        self.is_activated = True

    def on_deactivate(self, state: LifecycleState) -> None:
        """Drop messages from now on."""
        self.is_activated = False

    def publish(self, msg: Any) -> None:
        if self.is_activated:
            super().publish(msg)


class LifecycleNodeMixin:
    """Adds the lifecycle to a node; override on_configure() and its kin."""

    def __init__(self, *, enable_communication_interface: bool = True, callback_group: Any = None) -> None:
        self._rcl_state = State.PRIMARY_STATE_UNCONFIGURED
        self._rcl_managed: list[LifecyclePublisher] = []
        self._rcl_events: Any = None
        if not enable_communication_interface:
            return
        node: Any = self
        self._rcl_events = node.create_publisher(TransitionEvent, "~/transition_event", 10)
        for kind, name, callback in (
            (lifecycle_msgs.srv.ChangeState, "change_state", self._rcl_on_change),
            (lifecycle_msgs.srv.GetState, "get_state", self._rcl_on_get_state),
            (lifecycle_msgs.srv.GetAvailableStates, "get_available_states", self._rcl_on_states),
            (lifecycle_msgs.srv.GetAvailableTransitions, "get_available_transitions", self._rcl_on_available),
            (lifecycle_msgs.srv.GetAvailableTransitions, "get_transition_graph", self._rcl_on_graph),
        ):
            node.create_service(kind, f"~/{name}", callback, callback_group=callback_group)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """unconfigured -> inactive"""
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """inactive -> unconfigured"""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """any -> finalized"""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """inactive -> active; call the parent's, it switches the publishers on."""
        for publisher in self._rcl_managed:
            publisher.on_activate(state)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """active -> inactive; call the parent's, it switches the publishers off."""
        for publisher in self._rcl_managed:
            publisher.on_deactivate(state)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an error: SUCCESS leads to unconfigured, all else to finalized."""
        return TransitionCallbackReturn.FAILURE

    def create_lifecycle_publisher(self, *args: Any, **options: Any) -> LifecyclePublisher:
        """Publisher that follows the node's state."""
        node: Any = self
        publisher: LifecyclePublisher = node.create_publisher(*args, publisher_class=LifecyclePublisher, **options)
        publisher.is_activated = self._rcl_state == State.PRIMARY_STATE_ACTIVE
        self._rcl_managed.append(publisher)
        return publisher

    def trigger_configure(self) -> TransitionCallbackReturn:
        """Configure."""
        return self._rcl_trigger("configure")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """Clean up."""
        return self._rcl_trigger("cleanup")

    def trigger_activate(self) -> TransitionCallbackReturn:
        """Activate."""
        return self._rcl_trigger("activate")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """Deactivate."""
        return self._rcl_trigger("deactivate")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """Shut the node down."""
        return self._rcl_trigger("shutdown")

    def _rcl_trigger(self, label: str) -> TransitionCallbackReturn:
        step = self._rcl_find(0, label)
        if step is None:
            raise RCLError(f"Failed to trigger lifecycle state machine transition: no '{label}' from {NAMES[self._rcl_state]}")
        return self._rcl_go(step)

    def _rcl_find(self, number: int, label: str) -> Step | None:
        for step in STEPS:
            if step.start == self._rcl_state and (step.label == label if label else step.id == number):
                return step
        return None

    def _rcl_go(self, step: Step) -> TransitionCallbackReturn:
        start = LifecycleState(NAMES[step.start], step.start)
        self._rcl_enter(step.during, step)
        result = self._rcl_call(getattr(self, f"on_{step.label}"), start)
        if result == TransitionCallbackReturn.ERROR:
            self._rcl_enter(State.TRANSITION_STATE_ERRORPROCESSING, step)
            recovered = self._rcl_call(self.on_error, start) == TransitionCallbackReturn.SUCCESS
            self._rcl_enter(State.PRIMARY_STATE_UNCONFIGURED if recovered else State.PRIMARY_STATE_FINALIZED, step)
        else:
            self._rcl_enter(step.goal if result == TransitionCallbackReturn.SUCCESS else step.start, step)
        return result

    def _rcl_call(self, callback: Callable[[Any], Any], state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return TransitionCallbackReturn(callback(state))
        except Exception as error:  # noqa: BLE001  (the lifecycle's own error state is the answer; as in rclpy)
            self.get_logger().error(f"{callback.__name__} raised {type(error).__name__}: {error}")  # type: ignore[attr-defined]
            return TransitionCallbackReturn.ERROR

    def _rcl_enter(self, state: int, step: Step) -> None:
        before, self._rcl_state = self._rcl_state, state
        if self._rcl_events is not None:
            transition = Transition(id=step.id, label=step.label)
            event = TransitionEvent(transition=transition, start_state=_message(before), goal_state=_message(state))
            self._rcl_events.publish(event)

    def _rcl_on_change(self, request: Any, response: Any) -> Any:
        step = self._rcl_find(request.transition.id, request.transition.label)
        response.success = step is not None and self._rcl_go(step) == TransitionCallbackReturn.SUCCESS
        return response

    def _rcl_on_get_state(self, request: Any, response: Any) -> Any:
        response.current_state = _message(self._rcl_state)
        return response

    def _rcl_on_states(self, request: Any, response: Any) -> Any:
        response.available_states = [_message(state) for state in NAMES]
        return response

    def _rcl_on_available(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_describe(step) for step in STEPS if step.start == self._rcl_state]
        return response

    def _rcl_on_graph(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_describe(step) for step in STEPS]
        return response


def _message(state: int) -> Any:
    return lifecycle_msgs.msg.State(id=state, label=NAMES[state])


def _describe(step: Step) -> Any:
    transition = Transition(id=step.id, label=step.label)
    return TransitionDescription(transition=transition, start_state=_message(step.start), goal_state=_message(step.goal))


class LifecycleNode(LifecycleNodeMixin, PlainNode):
    """A node with a lifecycle."""

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **options: Any) -> None:
        PlainNode.__init__(self, node_name, **options)
        LifecycleNodeMixin.__init__(self, enable_communication_interface=enable_communication_interface)


Node = LifecycleNode
