"""Keys and sticks as a velocity of the tip in the table's plane: x away from the arm's base, y to its left, base frame [m/s].

Both have a dead man's switch. A stick acts only while a button is held. A terminal tells presses and repeats but no release, so
a key counts as held until its repeats have stayed away for `hold` s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.types import Array

KEYS = {"up": (1, 0), "w": (1, 0), "down": (-1, 0), "s": (-1, 0), "left": (0, 1), "a": (0, 1), "right": (0, -1), "d": (0, -1)}
STAND = "space"


@dataclass(frozen=True)
class Plane:
    """What both devices have: how fast, and where the person stands."""

    speed: float  # m/s at full deflection, on each axis
    turn: float  # rad, from the arm's x axis to where the person looks, counter-clockwise

    @classmethod
    def read(cls, section: Section, contract: RobotContract) -> Plane:
        """
        Raises:
            VlaRosError: faster than the contract's action, or an action that is no motion in the plane.
        """
        fastest = contract.action.max_step * contract.observation.rate
        return cls(section.number("speed", 0.001, fastest), math.radians(section.number("turn", -360, 360)))

    def velocity(self, forward: float, left: float) -> Array:
        """[2] m/s in the base frame of shares -1..1 as the person sees them."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        turned = np.array([c * forward - s * left, s * forward + c * left])
        return self.speed * turned / max(1.0, float(abs(turned).max()))  # askew, an axis could exceed the speed


class Keyboard:
    """Times are s of any steady clock.

    Raises:
        VlaRosError: the file has a key unknown, missing or out of range.
    """

    def __init__(self, contract: RobotContract, path: Path) -> None:
        top = load_yaml(path).check_keys("speed", "turn", "hold", "stand")
        self.plane = Plane.read(top, contract)
        self._hold, self._stand = top.number("hold", 0.02, 1.0), top.number("stand", 0.0, 60.0)
        self._pressed: dict[str, float] = {}
        self._last = -math.inf

    def press(self, key: str, now: float) -> bool:
        """Whether it is one of the device's keys."""
        if key == STAND:
            self._pressed.clear()
        elif key in KEYS:
            self._pressed[key] = now
        else:
            return False
        self._last = now
        return True

    def velocity(self, now: float) -> Array | None:
        """[2] m/s while a key is held; 0 for `stand` s after the last one; then None: the person has let go."""
        if now - self._last > self._hold + self._stand:
            return None
        held = [KEYS[key] for key, at in self._pressed.items() if now - at <= self._hold]
        forward, left = np.clip(np.sum(held, axis=0), -1, 1).tolist() if held else (0.0, 0.0)
        return self.plane.velocity(forward, left)


class Gamepad:
    """Axes and buttons as sensor_msgs/Joy has them: axes -1..1, up and left positive.

    Raises:
        VlaRosError: the file has a key unknown, missing or out of range.
    """

    def __init__(self, contract: RobotContract, path: Path) -> None:
        top = load_yaml(path).check_keys("device", "speed", "turn", "forward", "left", "dead_man", "dead_zone")
        self.path, self.device = path, top.text("device")
        self.plane = Plane.read(top, contract)
        self._axes = {name: top.integer(name, 0, 63) for name in ("forward", "left")}
        self._button, self._zone = top.integer("dead_man", 0, 63), top.number("dead_zone", 0.0, 0.9)

    def velocity(self, axes: Sequence[float], buttons: Sequence[int]) -> Array | None:
        """[2] m/s while the dead man's button is held; None: let go.

        Raises:
            VlaRosError: the device has no such axis or button, or an axis is not finite.
        """
        for name, index, found in (("dead_man", self._button, buttons), *((n, i, axes) for n, i in self._axes.items())):
            if index >= len(found):
                kind = "button" if name == "dead_man" else "axis"
                raise VlaRosError(f"{self.path}: {name}: found {kind} {index}, expected one of the device's {len(found)}")
        if not buttons[self._button]:
            return None
        forward, left = (axes[index] for index in self._axes.values())
        if not (math.isfinite(forward) and math.isfinite(left)):
            raise VlaRosError(f"gamepad: found axes {forward}, {left}, expected numbers in -1..1")
        return self.plane.velocity(self._zoned(forward), self._zoned(left))

    def _zoned(self, value: float) -> float:
        """0 inside the dead zone, from there on rising to 1 at the stop."""
        size = max(0.0, (min(1.0, abs(value)) - self._zone) / (1 - self._zone))
        return math.copysign(size, value)
