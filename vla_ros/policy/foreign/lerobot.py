"""A LeRobot policy as a function of one observation, in whichever process has `lerobot`: here, or scripts/lerobot_server.py.

    request ──► tensors [1, ...] ──► its own preprocessor ──► predict_action_chunk ──► its own postprocessor ──► [H, D]

Imports nothing of the package but its error class: LeRobot's environment has another torch and not our dependencies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError

VERSIONS = ">=0.4.4,<0.7"
TASK = "prompt"
EMPTY = "empty_camera"  # features of pi0 and SmolVLA that have no picture


class LeRobotModel:
    """
    Args:
        policy: LeRobot's PreTrainedPolicy.
        before, after: its processor pipelines.

    Raises:
        VlaRosError: it needs more than one observation.
    """

    def __init__(self, policy: Any, before: Callable[[Any], Any], after: Callable[[Any], Any]) -> None:
        self._policy, self._before, self._after = policy, before, after
        self._lock = threading.Lock()
        config = policy.config
        if (steps := getattr(config, "n_obs_steps", 1)) != 1:
            raise VlaRosError(f"{config.type} policy: n_obs_steps: found {steps}, expected 1: only one observation is given")
        self._features = {name: tuple(f.shape) for name, f in config.input_features.items() if EMPTY not in name}
        self.metadata = {
            "policy": config.type, "lerobot": _installed(), "input": {k: list(shape) for k, shape in self._features.items()},
            "action": list(config.output_features["action"].shape),
        }  # fmt: skip

    @classmethod
    def load(cls, name: str) -> LeRobotModel:
        """
        Args:
            name: a folder with LeRobot's `config.json`, or a hub name.

        Raises:
            VlaRosError: no `lerobot`, or nothing there that it can load whole.
        """
        try:
            from lerobot.configs.policies import PreTrainedConfig
            from lerobot.policies.factory import get_policy_class, make_pre_post_processors
        except ImportError as error:
            raise VlaRosError(
                f"policy lerobot:{name}: package lerobot: found {_installed() or 'none'} ({error}), expected lerobot{VERSIONS}. "
                "It needs an older torch than constraints.txt has: run scripts/lerobot_server.py in an environment of its own, "
                "and take policy:=ws://HOST:PORT"
            ) from error
        try:
            config = PreTrainedConfig.from_pretrained(name)
            # strict: what a file lacks would be random numbers otherwise
            policy = get_policy_class(config.type).from_pretrained(name, config=config, strict=True)
            before, after = make_pre_post_processors(
                config, pretrained_path=name, preprocessor_overrides={"device_processor": {"device": str(config.device)}}
            )
        except Exception as error:  # draccus', huggingface_hub's, safetensors', torch's
            raise VlaRosError(f"policy lerobot:{name}: cannot be loaded: {type(error).__name__}: {error}") from error
        return cls(policy, before, after)

    def reset(self) -> None:
        """A new client or episode."""
        with self._lock:
            self._policy.reset()

    def __call__(self, request: Mapping[str, Any]) -> NDArray[np.float32]:
        """Actions [H, D] as the policy's postprocessor gives them.

        Args:
            request: the policy's input features, pictures [H, W, 3] uint8, and TASK.

        Raises:
            VlaRosError: a feature is missing, unknown, or of another shape; or the policy failed.
        """
        import torch

        given = {key: value for key, value in request.items() if key != TASK}
        if given.keys() != self._features.keys():
            found, expected = ", ".join(given) or "nothing", ", ".join(self._features)
            raise VlaRosError(f"request: found {found}, expected the policy's features {expected}")
        tensors = {name: _tensor(name, value, self._features[name])[None] for name, value in given.items()}
        words = {"task": str(request.get(TASK, "")), "robot_type": ""}
        config = self._policy.config
        try:
            with self._lock, torch.inference_mode():
                batch = {name: tensor.to(str(config.device)) for name, tensor in tensors.items()}
                chunk = self._policy.predict_action_chunk(self._before({**batch, **words}))
                rows = self._after(chunk[0])  # as LeRobot's own server does it, which hands it one row [1, D] after the other
            return np.asarray(rows.float().cpu().numpy(), np.float32)
        except Exception as error:  # whatever networks and processors raise
            raise VlaRosError(f"{config.type} policy failed: {type(error).__name__}: {error}") from error


def _tensor(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """As LeRobot's data sets give it: pictures [3, H, W] in 0..1, all float32."""
    import torch

    picture = len(shape) == 3
    wanted = (*shape[1:], shape[0]) if picture else shape
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if getattr(value, "shape", None) != wanted or (value.dtype != np.uint8 if picture else kind not in "fiu"):
        found = f"{value.dtype} {value.shape}" if kind else type(value).__name__
        raise VlaRosError(f"request: {name}: found {found}, expected {'uint8' if picture else 'numbers'} {wanted}")
    tensor = torch.from_numpy(np.array(value))  # a copy: a message's bytes cannot be written, which torch warns about
    return tensor.permute(2, 0, 1).contiguous().float() / 255 if picture else tensor.float()


def _installed() -> str:
    try:
        return version("lerobot")
    except PackageNotFoundError:
        return ""
