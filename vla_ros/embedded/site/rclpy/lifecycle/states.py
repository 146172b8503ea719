"""The lifecycle's states and transitions, as data."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from lifecycle_msgs.msg import State, Transition


class TransitionCallbackReturn(IntEnum):
    """What a transition callback returns."""

    SUCCESS = Transition.TRANSITION_CALLBACK_SUCCESS
    FAILURE = Transition.TRANSITION_CALLBACK_FAILURE
    ERROR = Transition.TRANSITION_CALLBACK_ERROR


NAMES = {
    State.PRIMARY_STATE_UNCONFIGURED: "unconfigured",
    State.PRIMARY_STATE_INACTIVE: "inactive",
    State.PRIMARY_STATE_ACTIVE: "active",
    State.PRIMARY_STATE_FINALIZED: "finalized",
    State.TRANSITION_STATE_CONFIGURING: "configuring",
    State.TRANSITION_STATE_CLEANINGUP: "cleaningup",
    State.TRANSITION_STATE_SHUTTINGDOWN: "shuttingdown",
    State.TRANSITION_STATE_ACTIVATING: "activating",
    State.TRANSITION_STATE_DEACTIVATING: "deactivating",
    State.TRANSITION_STATE_ERRORPROCESSING: "errorprocessing",
}


class Step(NamedTuple):
    """A transition that may be asked for."""

    id: int
    label: str
    start: int
    during: int
    goal: int


_U, _I, _A, _F = (
    State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE,
    State.PRIMARY_STATE_FINALIZED,
)  # fmt: skip
STEPS = (
    Step(Transition.TRANSITION_CONFIGURE, "configure", _U, State.TRANSITION_STATE_CONFIGURING, _I),
    Step(Transition.TRANSITION_CLEANUP, "cleanup", _I, State.TRANSITION_STATE_CLEANINGUP, _U),
    Step(Transition.TRANSITION_ACTIVATE, "activate", _I, State.TRANSITION_STATE_ACTIVATING, _A),
    Step(Transition.TRANSITION_DEACTIVATE, "deactivate", _A, State.TRANSITION_STATE_DEACTIVATING, _I),
    Step(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "shutdown", _U, State.TRANSITION_STATE_SHUTTINGDOWN, _F),
    Step(Transition.TRANSITION_INACTIVE_SHUTDOWN, "shutdown", _I, State.TRANSITION_STATE_SHUTTINGDOWN, _F),
    Step(Transition.TRANSITION_ACTIVE_SHUTDOWN, "shutdown", _A, State.TRANSITION_STATE_SHUTTINGDOWN, _F),
)
