"""A gamepad through Linux' joystick interface (/dev/input/js*, linux/joystick.h), as sensor_msgs/Joy has it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from vla_ros.errors import VlaRosError

EVENT = struct.Struct("<IhBB")  # time [ms], value, type, number
BUTTON, AXIS, FIRST = 0x01, 0x02, 0x80  # FIRST: the state when the device was opened, not an event
FULL = 32767


class Joystick:
    """State of all axes (-1..1, up and left positive) and buttons; `read` before you look.

    Raises:
        VlaRosError: no such device, or no right to read it; while reading: it is gone.
    """

    def __init__(self, device: Path) -> None:
        self.device = device
        self.axes: list[float] = []
        self.buttons: list[int] = []
        self._rest = b""
        try:
            self._file = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            remedy = "plug it in, or set `device` in config/teleop/gamepad.yaml; for the right to read join the group `input`"
            raise VlaRosError(f"{device}: cannot be read: {error.strerror}; {remedy}") from error

    def close(self) -> None:
        os.close(self._file)

    def read(self) -> None:
        """Takes what has happened since; never waits."""
        while True:
            try:
                data = os.read(self._file, 64 * EVENT.size)
            except BlockingIOError:
                return
            except OSError as error:
                raise VlaRosError(f"{self.device}: gone: {error.strerror}; plug it in and start again") from error
            if not data:
                raise VlaRosError(f"{self.device}: gone; plug it in and start again")
            data = self._rest + data
            whole = len(data) - len(data) % EVENT.size
            self._rest = data[whole:]
            for _, value, kind, number in EVENT.iter_unpack(data[:whole]):
                if kind & ~FIRST == AXIS:
                    _put(self.axes, number, 0.0, -max(-1.0, value / FULL))  # the kernel has up and left negative
                elif kind & ~FIRST == BUTTON:
                    _put(self.buttons, number, 0, value)


def _put(values: list[float] | list[int], at: int, empty: float, value: float) -> None:
    values.extend([empty] * (at + 1 - len(values)))  # type: ignore[list-item]
    values[at] = value  # type: ignore[call-overload]
