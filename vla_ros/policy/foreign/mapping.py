"""Between a robot's contract and what somebody else's policy calls things: a file of config/policies.

    picture(s), instruction, state ──► request ──► the policy ──► reply ──► actions in the contract's order and units
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve, share
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import resize
from vla_ros.robots.shapes import action_names, image_shape, state_names
from vla_ros.robots.strict import Section, load_yaml
from vla_ros.types import Array, Image

FOLDER = Path("config") / "policies"


@dataclass(frozen=True)
class Crank:
    """A motor's arm that moves fingers by a rod: x = horn sin(angle) + sqrt(arm^2 - horn^2 cos^2(angle))."""

    horn: float  # m
    arm: float  # m
    closed: float  # rad, what the policy calls 0
    open: float  # rad, what it calls 1

    def position(self, fraction: Array) -> Array:
        """[m] of the fingers."""
        angle = self.closed + fraction * (self.open - self.closed)
        return np.asarray(self.horn * np.sin(angle) + np.sqrt(self.arm**2 - (self.horn * np.cos(angle)) ** 2))


@dataclass(frozen=True)
class Gripper:
    """A joint that the policy counts from 0, closed, to 1, open. What it asks beyond that and beyond the joint's limits is cut
    off: policies press fingers together by asking for less than there is, which a filter of positions would refuse."""

    closed: float  # m or rad
    open: float
    lower: float  # limits of the joint, rounded inwards to float32: an action must not be beyond them by its rounding
    upper: float
    crank: Crank | None  # where actions count the motor's angle; states always count the fingers' way

    def fraction(self, position: Array) -> Array:
        return np.asarray((position - self.closed) / (self.open - self.closed))

    def position(self, fraction: Array) -> Array:
        fraction = fraction.clip(0, 1)  # further on the crank would come back
        found = self.crank.position(fraction) if self.crank else self.closed + fraction * (self.open - self.closed)
        return np.clip(found, self.lower, self.upper)


@dataclass(frozen=True)
class Mapping:
    """What is sent and what is expected back. Indices are into the contract's cameras, state and action."""

    path: Path
    instruction: str
    images: dict[str, int]  # key -> camera
    group: str  # key of the mapping that the pictures lie in; empty: at the top
    size: tuple[int, int] | None  # px, height and width after padding; None: as in the contract
    channels_first: bool
    expected: tuple[int, ...]  # [(cameras,) H, W, 3] of the contract
    state: dict[str, NDArray[np.intp]]  # key -> parts of the state
    state_dim: int
    actions: str
    rows: int
    columns: NDArray[np.intp]  # of the reply, in the contract's order
    state_grippers: dict[int, Gripper]
    action_grippers: dict[int, Gripper]
    timeout: float  # s, for an answer
    start_timeout: float  # s, for the first one

    @staticmethod
    def known() -> tuple[str, ...]:
        """Names of the files that come with the package."""
        return tuple(sorted(p.stem for p in (share() / FOLDER).glob("*.yaml")))

    @staticmethod
    def load(name_or_path: str | Path, contract: RobotContract) -> Mapping:
        """
        Args:
            name_or_path: of a file in config/policies, or a path that ends in .yaml.

        Raises:
            VlaRosError: no such file, or a key unknown, missing, of wrong type, or at odds with the contract.
        """
        text = str(name_or_path)
        if text.endswith((".yaml", ".yml")):
            return _parse(load_yaml(resolve(text)), contract)
        if text not in Mapping.known():
            raise VlaRosError(
                f"parameter `mapping`: found '{text}', expected one of {', '.join(Mapping.known())}, or a path to a .yaml: "
                "it says what the policy calls cameras, joints and instruction"
            )
        return _parse(load_yaml(share() / FOLDER / f"{text}.yaml"), contract)

    def request(self, image: Image, text: str, state: NDArray[np.float32]) -> dict[str, Any]:
        """The observation as the policy's server reads it.

        Args:
            image: [(cameras,) H, W, 3] RGB of the contract's cameras.
            state: [S] in the contract's order and units.

        Raises:
            VlaRosError: another size than the contract's, or a state that is not finite.
        """
        if image.shape != self.expected or image.dtype != np.uint8:
            raise VlaRosError(f"image is {image.shape} {image.dtype}, the contract's cameras give {self.expected} uint8")
        pictures = image if image.ndim == 4 else image[None]
        if state.shape != (self.state_dim,) or not np.isfinite(state).all():
            raise VlaRosError(f"state is {state.tolist()}, expected {self.state_dim} finite numbers")
        values = state.astype(np.float64)
        for part, gripper in self.state_grippers.items():
            values[part] = gripper.fraction(values[part])
        seen = {key: self._picture(pictures[camera]) for key, camera in self.images.items()}
        sent = {key: values[index].astype(np.float32) for key, index in self.state.items()}
        return {**({self.group: seen} if self.group else seen), **sent, self.instruction: text}

    def _picture(self, image: Image) -> Image:
        fitted = image if self.size is None else resize_with_pad(image, self.size)
        return np.ascontiguousarray(fitted.transpose(2, 0, 1)) if self.channels_first else fitted

    def rows_of(self, reply: Any) -> NDArray[np.float32]:
        """[H, D] in the contract's order and units.

        Raises:
            VlaRosError: the reply holds no such array, or not only finite numbers.
        """
        if not isinstance(reply, dict) or self.actions not in reply:
            found = ", ".join(map(str, reply)) if isinstance(reply, dict) else type(reply).__name__
            raise VlaRosError(f"reply: '{self.actions}' is missing ({self.path}); found {found or 'nothing'}")
        found, wanted = reply[self.actions], (self.rows, len(self.columns))
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.shape != wanted:
            about = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise VlaRosError(f"reply: {self.actions}: found {about}, expected numbers {wanted} ({self.path})")
        rows = found[:, self.columns].astype(np.float32)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise VlaRosError(f"reply: {self.actions}: row {row}, action {column}: found {rows[row, column]}, expected a number")
        for column, gripper in self.action_grippers.items():
            rows[:, column] = gripper.position(rows[:, column].astype(np.float64))
        return rows


def resize_with_pad(image: Image, size: tuple[int, int]) -> Image:
    """[H, W, 3] into `size` (height, width) with its aspect ratio kept and black borders, as openpi's policies are trained."""
    height, width = image.shape[:2]
    ratio = max(height / size[0], width / size[1])
    inner = max(1, int(height / ratio)), max(1, int(width / ratio))
    padded = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded[top : top + inner[0], left : left + inner[1]] = resize(image, inner)
    return padded


def _parse(top: Section, contract: RobotContract) -> Mapping:
    given = top.check_keys("instruction", "images", "state", "actions", "grippers", "timeout", "start_timeout").keys()
    images = top.section("images").check_keys("group", "layout", "size", "keys")
    actions = top.section("actions").check_keys("key", "semantics", "rate", "rows", "columns")
    if actions.text("semantics") != contract.action.semantics:
        raise actions.wrong("semantics", f"{contract.action.semantics} ({contract.path})")
    if actions.number("rate", 0.1, 1000) != contract.action.rate:
        raise actions.wrong("rate", f"{contract.action.rate:g} Hz, action.rate of {contract.path}")
    names, columns = action_names(contract), actions.texts("columns")
    if set(columns) != set(names):
        raise actions.wrong("columns", f"each of {', '.join(names)} once ({contract.path})")
    grippers = _grippers(top.section("grippers"), contract) if "grippers" in given else {}
    states = state_names(contract)
    group = images.text("group") if "group" in images.keys() else ""  # noqa: SIM118 (Section is no dict)
    cameras, state = _cameras(images.section("keys"), contract), _state(top.section("state"), states, contract)
    keys = [group, *state, top.text("instruction")] if group else [*cameras, *state, top.text("instruction")]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise VlaRosError(f"{top.path}: key '{twice.pop()}' of the request: found twice, expected different keys")
    return Mapping(
        path=top.path, instruction=top.text("instruction"), images=cameras, group=group,
        size=_size(images) if "size" in images.keys() else None,  # noqa: SIM118
        channels_first=images.choice("layout", ("hwc", "chw")) == "chw",
        expected=image_shape(contract),
        state=state, state_dim=len(states), actions=actions.text("key"),
        rows=actions.integer("rows", 1, 1000), columns=np.array([columns.index(name) for name in names]),
        state_grippers={states.index(name): gripper for name, gripper in grippers.items()},
        action_grippers={names.index(name): gripper for name, gripper in grippers.items()},
        timeout=top.number("timeout", 0.01, 60), start_timeout=top.number("start_timeout", 0.01, 3600),
    )  # fmt: skip


def _cameras(keys: Section, contract: RobotContract) -> dict[str, int]:
    cameras, found = contract.observation.cameras, keys.keys()
    if not found:
        raise VlaRosError(f"{keys.path}: {keys.key}: found no picture, expected at least one")
    return {key: cameras.index(keys.choice(key, cameras)) for key in found}


def _size(images: Section) -> tuple[int, int]:
    height, width = images.numbers("size", 2)
    if not all(v.is_integer() and 8 <= v <= 4096 for v in (height, width)):
        raise images.wrong("size", "two integers in [8, 4096]: height, width")
    return int(height), int(width)


def _state(section: Section, names: tuple[str, ...], contract: RobotContract) -> dict[str, NDArray[np.intp]]:
    parts = {key: section.texts(key) for key in section.keys()}  # noqa: SIM118
    for key, part in parts.items():
        if unknown := [name for name in part if name not in names]:
            raise section.wrong(key, f"names out of {', '.join(names)} ({contract.path}), not '{unknown[0]}'")
    return {key: np.array([names.index(name) for name in part]) for key, part in parts.items()}


def _grippers(section: Section, contract: RobotContract) -> dict[str, Gripper]:
    if contract.action.semantics != "joint_position":
        raise VlaRosError(f"{section.path}: grippers: found with {contract.action.semantics}, expected joint_position actions")
    grippers = {}
    for name in section.keys():  # noqa: SIM118
        if name not in contract.joints:
            raise VlaRosError(f"{section.path}: grippers: found '{name}', expected joints of {contract.path}")
        about = section.section(name).check_keys("closed", "open", "crank")
        joint = contract.joints.index(name)
        grippers[name] = Gripper(
            closed=_finite(about, "closed"), open=_finite(about, "open"),
            lower=_inwards(contract.limits.lower[joint], np.inf), upper=_inwards(contract.limits.upper[joint], -np.inf),
            crank=_crank(about) if "crank" in about.keys() else None,  # noqa: SIM118
        )  # fmt: skip
        if grippers[name].closed == grippers[name].open:
            raise about.wrong("open", "another position than `closed`")
    return grippers


def _inwards(limit: float, inside: float) -> float:
    """The float32 at the limit, or the next one towards `inside`."""
    near = np.float32(limit)
    outside = near < limit if inside > 0 else near > limit
    return float(np.nextafter(near, np.float32(inside)) if outside else near)


def _crank(gripper: Section) -> Crank:
    section = gripper.section("crank").check_keys("horn", "arm", "closed", "open")
    found = Crank(**{key: _finite(section, key) for key in ("horn", "arm", "closed", "open")})
    if not 0 < found.horn < found.arm:
        raise section.wrong("arm", "more than `horn`, which is more than 0: the rod reaches at every angle")
    return found


def _finite(section: Section, key: str) -> float:
    value = section.number(key)
    if not math.isfinite(value):
        raise section.wrong(key, "a finite number")
    return value
