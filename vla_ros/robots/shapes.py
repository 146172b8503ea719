"""Names and sizes of what a robot's contract makes of observations and actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract

TIP_DELTA = ("delta_x", "delta_y")  # of an action with `tip_delta_xy`, in units of action.max_step
SEEN = ("image_size", "cameras", "state_dim")  # of model_shapes: what a judge needs, too


def state_names(contract: RobotContract) -> tuple[str, ...]:
    """The S parts of a state: the joints, or what the contract lists."""
    return contract.joints if contract.action.tip_plane is None else contract.observation.state


def action_names(contract: RobotContract) -> tuple[str, ...]:
    """The D parts of an action row: the joints' positions, or the tip's displacement."""
    return contract.joints if contract.action.tip_plane is None else TIP_DELTA


def image_shape(contract: RobotContract) -> tuple[int, ...]:
    """[(cameras,) H, W, 3] of one observation's pictures."""
    return picture_shape(len(contract.observation.cameras), contract.observation.size)


def picture_shape(cameras: int, size: Sequence[int]) -> tuple[int, ...]:
    """[H, W, 3], or [cameras, H, W, 3] of several; `size` [px] is height and width."""
    return (*((cameras,) if cameras > 1 else ()), *size, 3)


def model_shapes(contract: RobotContract) -> dict[str, Any]:
    """What a model's config takes from the contract."""
    return {
        "image_size": list(contract.observation.size), "cameras": len(contract.observation.cameras),
        "state_dim": len(state_names(contract)), "action_dim": len(action_names(contract)), "chunk": contract.action.chunk,
    }  # fmt: skip


def check_model(contract: RobotContract, config: Any, folder: Path, acts: bool = True) -> None:
    """Whether a checkpoint of the folder sees, and where it `acts` also acts, as the contract says.

    Raises:
        VlaRosError: a size differs.
    """
    check_shapes(model_shapes(contract), config, folder, contract.path, acts)


def check_shapes(shapes: dict[str, Any], config: Any, folder: Path, source: Path, acts: bool = True) -> None:
    """The same with model_shapes of whatever `source` describes."""
    for key, expected in shapes.items():
        found = getattr(config, key)
        found = list(found) if isinstance(expected, list) else found
        if found != expected and (acts or key in SEEN):
            raise VlaRosError(f"{folder}/config.json: {key}: found {found}, expected {expected} ({source})")
