"""What was seen of a graph in a few seconds, as values. Times are s, arrivals on a monotonic clock, stamps on the graph's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_ros.types import Array, JointState, SafetyMode

NO_TIMES: Array = np.empty(0)


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription somewhere in the graph, with what its QoS offers or asks for."""

    node: str  # full name
    kind: str  # type of its messages
    reliable: bool = True
    kept: bool = False  # transient local
    deadline: float = math.inf  # s
    lease: float = math.inf  # s, of its liveliness
    manual: bool = False  # liveliness by topic


@dataclass(frozen=True)
class Timing:
    """When the messages of one topic came. Arrays are [n], in the order of arrival."""

    arrivals: Array = field(default_factory=lambda: NO_TIMES)
    stamps: Array = field(default_factory=lambda: NO_TIMES)
    ages: Array = field(default_factory=lambda: NO_TIMES)  # of the stamp at arrival; NaN where the graph's clock was unknown

    def __len__(self) -> int:
        return len(self.arrivals)

    def rate(self, simulated: bool) -> float:
        """Hz; NaN with fewer than two messages. Simulated time may run at any speed, so there the stamps count."""
        times = self.stamps if simulated else self.arrivals
        elapsed = float(times[-1] - times[0]) if len(times) > 1 else 0.0
        return (len(times) - 1) / elapsed if elapsed > 0.0 else math.nan

    def skew(self) -> float:
        """Least age [s], NaN if unknown: transport and a busy machine only ever add to it, so it is the clocks' difference."""
        known = self.ages[np.isfinite(self.ages)]
        return float(known.min()) if len(known) else math.nan


@dataclass(frozen=True)
class Joints:
    """Joint states as they came."""

    timing: Timing = field(default_factory=Timing)
    samples: tuple[JointState, ...] = ()


@dataclass(frozen=True)
class CameraInfo:
    """One sensor_msgs/CameraInfo."""

    width: int  # px
    height: int  # px
    focal: tuple[float, float]  # px, K[0] and K[4]
    frame: str


@dataclass(frozen=True)
class CameraSeen:
    """One camera: its pictures, of which only the last one's form is kept, and its calibration."""

    timing: Timing = field(default_factory=Timing)
    width: int = 0  # px
    height: int = 0  # px
    frame: str = ""
    problem: str = ""  # why camera_node would refuse the picture
    info: CameraInfo | None = None


@dataclass(frozen=True)
class SafetySeen:
    """The last /safety/state, and what has changed since the first one that was heard."""

    mode: SafetyMode
    reason: str
    command: Array  # [n] rad
    tip_speed: float  # m/s
    speed_cap: float
    ticks: int  # in the time of observation
    missed: int  # control periods without a command in that time


@dataclass(frozen=True)
class Status:
    """A node's last diagnostic_msgs/DiagnosticStatus."""

    level: int  # 0 ok, 1 warning, 2 error, 3 stale
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """A graph for some seconds. Names of nodes, topics and services are full ones.

    Attributes:
        namespace: of the cell, '' or '/a'.
        simulated: somebody publishes the cell's /clock.
        types: of each topic; more than one where endpoints disagree.
        offered: the nodes that offer each service.
        parameters: of the nodes that were asked; None where a node did not answer.
        estop: somebody said true on /estop and nobody false after it.
        version: that the policy says it runs; 0: it has said nothing.
        chunks: of the policy, how many came.
    """

    namespace: str = ""
    seconds: float = 0.0
    simulated: bool = False
    nodes: frozenset[str] = frozenset()
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    publishers: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    subscriptions: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    offered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    joints: Joints = field(default_factory=Joints)
    cameras: Mapping[str, CameraSeen] = field(default_factory=dict)
    observation: Timing = field(default_factory=Timing)
    safety: SafetySeen | None = None
    estop: bool = False
    version: int = 0
    chunks: int = 0
    status: Mapping[str, Status] = field(default_factory=dict)  # by the node's short name in /diagnostics: `safety`

    def name(self, name: str) -> str:
        """Full name in the cell of a topic, service or node; the launch files take the contracts' absolute names there, too."""
        return f"{self.namespace}/{name.lstrip('/')}"

    def parameter(self, node: str, name: str) -> Any:
        """Value of a parameter of a node of the cell; None where it is not known."""
        return (self.parameters.get(self.name(node)) or {}).get(name)
