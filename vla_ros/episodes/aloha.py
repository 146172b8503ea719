"""Reads ALOHA's recordings: one HDF5 file an episode, as ACT and Mobile ALOHA write them (record_episodes.py).

    /observations/qpos, qvel [T, 14]     left arm's six joints [rad] and gripper, then the right arm's
    /observations/images/<camera>        [T, H, W, 3] RGB, or with the attribute `compress` [T, bytes] JPEG, padded with zeros
    /action [T, 14]                      the leaders' joints, which the followers are sent to

Grippers are shares: 0 closed, 1 open, of the follower's two points (config/drivers/aloha.yaml). There are no stamps: rows come at
50 Hz. An action is sent after the observation of its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vla_ros.episodes.demonstration import FIRST_STAMP, Incoming, Step, check_units
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.interbotix import Interbotix
from vla_ros.robots.observation import resize
from vla_ros.types import Array, Image

SUFFIXES = (".hdf5", ".h5")
SHARE = -0.25, 1.25  # of a gripper that is a share; further out it is in radians
METRES = 0.01, 0.065  # all grippers within, always: their fingers' metres
MOVED = 0.01  # m/s, rad/s of Mobile ALOHA's base
GRIPPERS = ("shares", "metres")


class AlohaFiles:
    """The episodes of a file or folder, in the order of their names.

    Args:
        instruction: what is demonstrated; the files do not say.
        cameras: names in the files of the contract's cameras, where they are others.
        grippers: 'shares', or 'metres' of recorders that do not normalise.
        bgr: the pictures' channels are blue, green, red.
        rate: Hz of the rows.

    Raises:
        VlaRosError: h5py is missing, there are no files, or the contract is not ALOHA's or of another rate. While steps are read:
            a data set is missing or has another shape, values that cannot be, a picture that is damaged.
    """

    def __init__(
        self,
        path: Path,
        contract: RobotContract,
        instruction: str,
        cameras: Mapping[str, str],
        grippers: str = "shares",
        bgr: bool = False,
        rate: float = 50.0,
    ) -> None:
        try:
            import h5py
        except ImportError as error:
            raise VlaRosError("import of HDF5 files needs h5py: pip install 'vla_ros[aloha]'") from error
        self._h5py, self.contract, self.bgr, self.rate = h5py, contract, bgr, rate
        self.files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES)
        if not self.files:
            raise VlaRosError(f"{path}: found no *.hdf5 in it or below it")
        if not instruction:
            raise VlaRosError(f"{path}: --instruction is missing: HDF5 files of ALOHA do not say what is done in them")
        if len(contract.joints) != 14 or len(contract.grippers) != 2:
            raise VlaRosError(f"{contract.path}: joints: found {len(contract.joints)}, expected ALOHA's 14; give --robot aloha")
        self.stride = round(rate / contract.observation.rate)
        if abs(self.stride * contract.observation.rate - rate) > 1e-6:
            found = f"observation.rate: found {contract.observation.rate:g} Hz"
            raise VlaRosError(f"{contract.path}: {found}, expected a whole part of the files' {rate:g} Hz")
        if unknown := [name for name in cameras if name not in contract.cameras]:
            raise VlaRosError(f"--map {unknown[0]}: expected a camera of {contract.path}: {', '.join(contract.cameras)}")
        self.instruction, self.metres = instruction, grippers == "metres"
        self.cameras = {name: cameras.get(name, name) for name in contract.observation.cameras}
        arms = Interbotix.load(contract).arms
        self._points = {arm.gripper.joint: (arm.gripper.closed[0], arm.gripper.open[0]) for arm in arms}

    def __iter__(self) -> Iterator[Incoming]:
        for file in self.files:
            source = f"{file.name} of {file.stat().st_size} bytes"
            yield Incoming(file.stem, source, self.instruction, lambda file=file: self._steps(file))  # type: ignore[misc]

    def _steps(self, file: Path) -> Iterator[Step]:
        try:
            with self._h5py.File(file, "r") as root:
                yield from self._read(file, root)
        except OSError as error:
            raise VlaRosError(f"{file}: found no readable HDF5 file ({error}), expected one of ALOHA") from error

    def _read(self, file: Path, root: Any) -> Iterator[Step]:
        position, command = self._joints(file, root, "observations/qpos"), self._joints(file, root, "action")
        velocity = self._numbers(file, root, "observations/qvel") if "observations/qvel" in root else None
        length = len(position)
        images = {name: self._images(file, root, theirs) for name, theirs in self.cameras.items()}
        sizes = {"action": command, **({} if velocity is None else {"observations/qvel": velocity}), **images}
        for name, values in sizes.items():
            if len(values) != length:
                raise VlaRosError(f"{file}: {name}: found {len(values)} rows, expected {length} as in observations/qpos")
        if "base_action" in root and (moved := float(np.abs(root["base_action"][()]).max(initial=0.0))) > MOVED:
            raise VlaRosError(f"{file}: base_action: found {moved:g}, expected a base at rest: the contract has none")
        if not self.metres:
            self._check_shares(file, {"observations/qpos": position, "action": command})
            for k, (closed, opened) in self._grips():
                for values in (position, command):
                    values[:, k] = closed + values[:, k] * (opened - closed)
                if velocity is not None:
                    velocity[:, k] *= opened - closed
        for name, values in (("observations/qpos", position), ("action", command)):
            check_units(values, self.contract, f"{file}: {name}")
        period = 1.0 / self.contract.observation.rate
        for k, row in enumerate(range(0, length - self.stride + 1, self.stride)):
            pictures = {name: self._picture(file, name, row, data[row]) for name, data in images.items()}
            speed = None if velocity is None else velocity[row]
            yield Step(FIRST_STAMP + k * period, pictures, position[row], command[row + self.stride - 1], speed)

    def _grips(self) -> Iterator[tuple[int, tuple[float, float]]]:
        """Column of each gripper, and its finger's m closed and open."""
        for joint in self.contract.grippers:
            yield self.contract.joints.index(joint), self._points[joint]

    def _numbers(self, file: Path, root: Any, name: str) -> Array:
        """[T, 14]."""
        if name not in root:
            there: list[str] = []
            root.visit(there.append)
            raise VlaRosError(f"{file}: found no {name}, expected it in a file of ALOHA; there are {', '.join(there) or 'none'}")
        values = np.asarray(root[name][()], np.float64)
        if values.ndim != 2 or values.shape[1] != 14 or not len(values):
            found = f"{name}: found shape {list(values.shape)}"
            raise VlaRosError(f"{file}: {found}, expected [T, 14]: six joints and the gripper, left, then right")
        return values

    def _joints(self, file: Path, root: Any, name: str) -> Array:
        values = self._numbers(file, root, name)
        if not np.isfinite(values).all():
            row, k = np.argwhere(~np.isfinite(values))[0].tolist()
            found = f"found {values[row, k]}, expected a finite number"
            raise VlaRosError(f"{file}: {name}: row {row}: '{self.contract.joints[k]}': {found}")
        return values

    def _check_shares(self, file: Path, arrays: dict[str, Array]) -> None:
        columns = [k for k, _ in self._grips()]
        everything = np.concatenate([values[:, columns] for values in arrays.values()])
        if METRES[0] <= everything.min() and everything.max() <= METRES[1]:
            found = f"found all of them within {everything.min():.4f} to {everything.max():.4f}"
            raise VlaRosError(f"{file}: grippers: {found}, expected shares, 0 closed to 1 open; of metres say --grippers metres")
        for name, values in arrays.items():
            for k in columns:
                low, high = float(values[:, k].min()), float(values[:, k].max())
                if low < SHARE[0] or high > SHARE[1]:
                    found = f"'{self.contract.joints[k]}' (column {k}): found {low:.3f} to {high:.3f}"
                    raise VlaRosError(f"{file}: {name}: {found}, expected a share, 0 closed to 1 open; is it in radians?")

    def _images(self, file: Path, root: Any, name: str) -> Any:
        """The data set, which is read row by row."""
        group = root.get("observations/images", {})
        if name not in group:
            found = ", ".join(group) or "none"
            raise VlaRosError(f"{file}: observations/images: found {found}, expected '{name}'; --map OURS:=THEIRS tells names")
        return group[name]

    def _picture(self, file: Path, camera: str, row: int, data: Any) -> Image:
        """[H, W, 3] RGB at the contract's size."""
        pixels = np.asarray(data, np.uint8)
        if pixels.ndim == 1:
            # Channels come out in the order in which they went in. The padding needs no cutting off: a JPEG tells its own end.
            decoded = cv2.imdecode(pixels, cv2.IMREAD_COLOR)
            if decoded is None:
                raise VlaRosError(f"{file}: image of '{camera}': row {row}: found no valid JPEG, expected one")
            pixels = np.asarray(decoded, np.uint8)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise VlaRosError(f"{file}: image of '{camera}': row {row}: found shape {list(pixels.shape)}, expected [H, W, 3]")
        return resize(np.ascontiguousarray(pixels[:, :, ::-1]) if self.bgr else pixels, self.contract.observation.size)
