"""How a stop reaches this robot's driver: section `stop` of its contract (config/robots/*.yaml)."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml


@dataclass(frozen=True)
class TorqueGroup:
    """Motors whose torque one service switches (interbotix_xs_msgs/srv/TorqueEnable)."""

    service: str
    group: str


@dataclass(frozen=True)
class StopSpec:
    """What is told to the driver, in this order, once a latched arm has come to rest; a reset takes it back, last first."""

    timeout: float = 0.5  # s, for the acknowledgement of each step
    cancel: tuple[str, ...] = ()  # trajectory actions, all goals of which are cancelled
    switch: str = ""  # service of the controller manager
    controllers: tuple[str, ...] = ()  # that it deactivates
    torque: tuple[TorqueGroup, ...] = ()

    @classmethod
    def load(cls, contract: RobotContract) -> StopSpec:
        """Empty when the contract has no such section: the stop is then the commands' alone.

        Raises:
            VlaRosError: key unknown, missing, or of the wrong type.
        """
        top = load_yaml(contract.path)
        return cls.from_section(top.section("stop")) if "stop" in top.keys() else cls()  # noqa: SIM118 (Section is no dict)

    @classmethod
    def from_section(cls, section: Section) -> StopSpec:
        """Raises VlaRosError as load()."""
        given = section.check_keys("timeout", "cancel", "deactivate", "torque_off").keys()
        switch = ""
        controllers: tuple[str, ...] = ()
        torque: tuple[TorqueGroup, ...] = ()
        if "deactivate" in given:
            entry = section.section("deactivate").check_keys("service", "controllers")
            switch, controllers = _name(entry, "service"), entry.texts("controllers")
        if "torque_off" in given:
            groups = section.section("torque_off")
            torque = tuple(TorqueGroup(_service(groups, name), groups.text(name)) for name in groups.keys())  # noqa: SIM118
        cancel = section.texts("cancel") if "cancel" in given else ()
        if wrong := [name for name in cancel if not name.startswith("/")]:
            raise section.wrong("cancel", f"full names of actions that begin with '/', not '{wrong[0]}'")
        return cls(section.number("timeout", 0.01, 10.0), cancel, switch, controllers, torque)


def _name(section: Section, key: str) -> str:
    name = section.text(key)
    if not name.startswith("/"):
        raise section.wrong(key, "a full name that begins with '/'")
    return name


def _service(section: Section, name: str) -> str:
    if not name.startswith("/"):
        raise VlaRosError(f"{section.path}: {section.key}: found key '{name}', expected a service's full name: group")
    return name
