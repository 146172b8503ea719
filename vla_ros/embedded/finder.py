"""Makes message packages importable: `sensor_msgs.msg`, `std_srvs.srv`, `vla_ros.action`, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vla_ros.embedded import interfaces
from vla_ros.embedded.messages import message_class

KINDS = ("msg", "srv", "action")


class _Service:
    """Base of service types: Request and Response."""


class _Action:
    """Base of action types: Goal, Result, Feedback and Impl, the protocol's types."""


def service_type(package: str, kind: str, name: str) -> type:
    """rosidl-like service type with Request and Response classes."""
    prefix = f"{package}/{kind}/{name}"
    request, response = message_class(f"{prefix}_Request"), message_class(f"{prefix}_Response")
    for cls, short in ((request, "Request"), (response, "Response")):
        cls.__qualname__ = f"{name}.{short}"
    return type(name, (_Service,), {"__module__": f"{package}.{kind}", "TYPE": prefix, "Request": request, "Response": response})


def action_type(package: str, name: str) -> type:
    """rosidl-like action type with Goal, Result, Feedback and the derived protocol types in Impl."""
    prefix = f"{package}/action/{name}"
    goal_status, cancel = (
        message_class("action_msgs/msg/GoalStatusArray"),
        service_type("action_msgs", "srv", "CancelGoal"),
    )
    impl = {
        "SendGoalService": service_type(package, "action", f"{name}_SendGoal"),
        "GetResultService": service_type(package, "action", f"{name}_GetResult"),
        "FeedbackMessage": message_class(f"{prefix}_FeedbackMessage"),
        "CancelGoalService": cancel,
        "GoalStatusMessage": goal_status,
    }
    parts = {short: message_class(f"{prefix}_{short}") for short in ("Goal", "Result", "Feedback")}
    for short, cls in parts.items():
        cls.__qualname__ = f"{name}.{short}"
    return type(name, (_Action,), {"__module__": f"{package}.action", "TYPE": prefix, "Impl": type("Impl", (), impl), **parts})


class InterfaceFinder(MetaPathFinder, Loader):
    """Finds `<package>` and `<package>.msg|srv|action` for every package of the type store."""

    def __init__(self) -> None:
        self._packages = interfaces.packages()

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Spec of a message package or of one of its three modules."""
        package, _, kind = fullname.partition(".")
        if package not in self._packages or (kind and (kind not in KINDS or not interfaces.members(package, kind))):
            return None
        return ModuleSpec(fullname, self, is_package=not kind)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Use the import system's own."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its names; classes are made when they are first asked for."""
        package, _, kind = module.__name__.partition(".")
        if not kind:
            module.__path__ = []
            return
        names = interfaces.members(package, kind)

        def get(name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no interface {name!r}")
            if kind == "msg":
                made: Any = message_class(f"{package}/msg/{name}")
            else:
                made = service_type(package, "srv", name) if kind == "srv" else action_type(package, name)
            setattr(module, name, made)
            return made

        module.__dict__["__all__"] = names
        module.__dict__["__getattr__"] = get


def install() -> None:
    """Put the finder in the import system; after the ordinary ones, so that files win. Idempotent."""
    if not any(isinstance(finder, InterfaceFinder) for finder in sys.meta_path):
        sys.meta_path.append(InterfaceFinder())
