"""Foreign policies over a real websocket on loopback: what is sent, what comes back, and everything that can be wrong with it."""

from __future__ import annotations

import importlib.util
import inspect
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import recordings
import torch
from openpi_server import openpi_pack, openpi_unpack, serving, written

from vla_ros.cli.train import sft
from vla_ros.cli.train.place import Place
from vla_ros.errors import VlaRosError
from vla_ros.policy import foreign
from vla_ros.policy.foreign import wire
from vla_ros.policy.foreign.client import OpenPiPolicy
from vla_ros.policy.foreign.lerobot import LeRobotModel
from vla_ros.policy.foreign.mapping import Mapping, resize_with_pad
from vla_ros.policy.policy import VlaPolicy
from vla_ros.robots.contract import RobotContract

ALOHA, PANDA = RobotContract.load("aloha"), RobotContract.load("panda")
HOME = np.array(ALOHA.posture, np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8)
LEFT, RIGHT = 6, 13  # grippers
HIGH, EMPTY = "observation.images.cam_high", "observation.images.empty_camera_0"

def rows(count: int = 50, seed: int = 0) -> np.ndarray:
    """Actions near home, [count, 14] float32; grippers 0..1."""
    random = np.random.default_rng(seed)
    made = (HOME + 0.1 * random.standard_normal((count, 14))).astype(np.float32)
    made[:, [LEFT, RIGHT]] = random.uniform(0, 1, (count, 2))
    return made


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """ALOHA's mapping with all joints in rad and m, and little patience."""
    return written(tmp_path, grippers=None, timeout=0.3, start_timeout=5)


def ask(policy: foreign.Policy, image: np.ndarray = IMAGES, state: np.ndarray = HOME, **more: Any) -> np.ndarray:
    return policy.infer(image, "open the pot", state, **{"greedy": True, **more}).action


@pytest.mark.parametrize(
    "value",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(6, dtype=">i2")[::2], np.zeros((0, 7)), np.array(3.5),
        np.array(["a", "bc"]), np.array([True, False]), np.float32(0.1), np.int64(-7),
    ],
    ids=["float32", "big-endian strided", "empty", "no axes", "texts", "bool", "scalar", "integer"],
)  # fmt: skip
def test_arrays_survive_the_wire(value: Any) -> None:
    found = wire.unpack(wire.pack({"a": [value, "text", None, 1.5]}))["a"]
    assert found[1:] == ["text", None, 1.5]
    assert type(found[0]) is type(value)
    assert (found[0].dtype, found[0].shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(found[0], value)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(openpi_unpack(wire.pack(value)), value)
        np.testing.assert_array_equal(wire.unpack(openpi_pack(value)), value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", msgpack.packb({b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [2]}),
        msgpack.packb({b"__ndarray__": True, b"data": b"12345678", b"dtype": "<f4", b"shape": [1]}),
        msgpack.packb({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}),
        msgpack.packb({b"__ndarray__": True, b"data": b"1234", b"dtype": "no type", b"shape": [1]}),
        msgpack.packb({b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [-1]}),
        msgpack.packb({b"__ndarray__": True, b"dtype": "<f4", b"shape": [1]}),
    ],
    ids=["nothing", "no msgpack", "too short", "too long", "objects", "no dtype", "negative", "no data"],
)  # fmt: skip
def test_messages_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(VlaRosError, match=f"message of {len(data)} bytes: cannot be read"):
        wire.unpack(data)


def test_python_objects_are_not_sent() -> None:
    with pytest.raises(VlaRosError, match="object, expected plain values or arrays of numbers"):
        wire.pack({"a": np.array([{}], object)})


def test_both_policies_are_called_alike() -> None:
    assert inspect.signature(OpenPiPolicy.infer).parameters.keys() == inspect.signature(VlaPolicy.infer).parameters.keys()
    assert inspect.signature(foreign.Policy.infer).parameters.keys() == inspect.signature(VlaPolicy.infer).parameters.keys()
    assert foreign.is_foreign("ws://here:1")
    assert foreign.is_foreign("lerobot:act")
    assert not foreign.is_foreign("runs/ws/checkpoint")


def test_actions_arrive_as_they_were_sent(plain: Path) -> None:
    sent = rows()
    with serving(lambda request: sent) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        policy.seed(3)
        decision = policy.infer(IMAGES, "open the pot", HOME, greedy=False)
        assert decision.action.dtype == np.float32
        assert decision.action.tobytes() == sent.tobytes()
        assert decision.tokens.shape == (50, 0)
        assert np.isnan(decision.log_probability)
        assert 0 < decision.model < 0.3
        assert isinstance(policy, OpenPiPolicy)
        np.testing.assert_array_equal(policy.metadata.pop("dims"), np.arange(3))
        assert policy.metadata == {"policy": "of a test"}
        assert (len(server.connections), len(server.requests)) == (1, 2)  # the first one was asked when it was made
        policy.close()


def test_the_request_is_of_openpis_layout() -> None:
    with serving(lambda request: rows()) as server:
        policy = foreign.load(server.url, ALOHA, "openpi_aloha")
        state = HOME.copy()
        state[[LEFT, RIGHT]] = 0.01844, 0.01844 + 0.25 * (0.058 - 0.01844)
        ask(policy, state=state)
        policy.close()  # type: ignore[attr-defined]
        request = server.requests[-1]
    assert request.keys() == {"images", "state", "prompt"}
    assert request["prompt"] == "open the pot"
    assert list(request["images"]) == ["cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"]
    for picture, image in zip(request["images"].values(), IMAGES, strict=True):
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, image.transpose(2, 0, 1))
    assert request["state"].dtype == np.float32
    np.testing.assert_allclose(request["state"][[LEFT, RIGHT]], [0.0, 0.25], atol=1e-6)
    arms = [joint for joint in range(14) if joint not in (LEFT, RIGHT)]
    np.testing.assert_array_equal(request["state"][arms], HOME[arms])


def test_columns_and_keys_are_the_mappings(tmp_path: Path) -> None:
    backwards, parts = list(reversed(ALOHA.joints)), {"right": list(ALOHA.joints[7:]), "left": list(ALOHA.joints[:7])}
    mapping = written(
        tmp_path, grippers=None, actions__columns=backwards, state=parts, images__group=None, images__keys={"top": "cam_low"},
        images__layout="hwc", images__size=[64, 96],
    )  # fmt: skip
    with serving(lambda request: rows()) as server:
        policy = foreign.load(server.url, ALOHA, str(mapping))
        np.testing.assert_array_equal(ask(policy), rows()[:, ::-1])
        policy.close()  # type: ignore[attr-defined]
        request = server.requests[-1]
    assert request.keys() == {"top", "left", "right", "prompt"}
    np.testing.assert_array_equal(request["left"], HOME[:7])
    np.testing.assert_array_equal(request["right"], HOME[7:])
    assert request["top"].shape == (64, 96, 3)
    assert not request["top"][:, :16].any()  # black borders: 224 x 224 is 64 x 64 there
    assert not request["top"][:, 80:].any()
    assert abs(request["top"][:, 16:80].mean() - IMAGES[1].mean()) < 1


def test_one_camera_and_steps_of_the_tip() -> None:
    sent = np.random.default_rng(2).uniform(-1, 1, (10, 2))  # float64, as some policies answer
    with serving(lambda request: sent) as server:
        policy = foreign.load(server.url, PANDA, "openpi_libero")
        found = ask(policy, image=np.full((64, 64, 3), 7, np.uint8), state=np.array([0.5, -0.5], np.float32))
        policy.close()  # type: ignore[attr-defined]
        request = server.requests[-1]
    np.testing.assert_array_equal(found, sent.astype(np.float32))
    assert request["observation/image"].shape == (224, 224, 3)
    assert (request["observation/image"] == 7).all()
    np.testing.assert_array_equal(request["observation/state"], np.array([0.5, -0.5], np.float32))


def test_grippers_move_as_their_crank_does() -> None:
    """ALOHA's own numbers: both ends of the motor's angle are both ends of the fingers' way, but the way between is no line."""
    crank = Mapping.load("openpi_aloha", ALOHA).action_grippers[LEFT].crank
    assert crank is not None
    np.testing.assert_allclose(crank.position(np.array([0.0, 1.0])), [0.01844, 0.05800], atol=2e-4)
    # linear_position = horn sin(a) + sqrt(arm^2 - (horn cos(a))^2) at the middle angle 0.43485 rad
    assert crank.position(np.array([0.5]))[0] == pytest.approx(0.03923, abs=1e-5)
    sent = rows()
    sent[:3, LEFT] = -0.2, 0.5, 1.4
    with serving(lambda request: sent) as server:
        policy = foreign.load(server.url, ALOHA, "openpi_aloha")
        found = ask(policy)
        policy.close()  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[:3, LEFT], [0.021, 0.03923, 0.057], atol=1e-5)  # the ends are the joint's limits
    # float32(0.057) is more than 0.057, for which the safety filter would refuse the chunk
    assert (found.astype(np.float64)[:, [LEFT, RIGHT]] <= ALOHA.limits.upper[LEFT]).all()
    assert (found.astype(np.float64)[:, [LEFT, RIGHT]] >= ALOHA.limits.lower[LEFT]).all()
    arms = [joint for joint in range(14) if joint not in (LEFT, RIGHT)]
    assert found[:, arms].tobytes() == sent[:, arms].tobytes()


def test_borders_keep_the_aspect() -> None:
    wide = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    found = resize_with_pad(wide, (224, 224))
    assert not found[:28].any()
    assert not found[196:].any()
    assert found[28:196].min(axis=(1, 2)).max() > 0
    np.testing.assert_array_equal(resize_with_pad(wide, (48, 64)), wide)


def test_the_servers_error_is_passed_on_and_it_is_asked_again(plain: Path) -> None:
    answers: list[Any] = [rows(), "Traceback (most recent call last):\n  File x\nKeyError: 'observation/image'\n", rows(seed=5)]
    with serving(lambda request: answers.pop(0)) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        with pytest.raises(VlaRosError, match=rf"policy {server.url}: it failed there: KeyError: 'observation/image'$"):
            ask(policy)
        np.testing.assert_array_equal(ask(policy), rows(seed=5))
        assert len(server.connections) == 2
        policy.close()  # type: ignore[attr-defined]


def test_a_server_that_went_is_found_again(plain: Path) -> None:
    with serving(lambda request: rows()) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        port = server.port
    for _ in range(2):  # when it breaks, and as long as nobody is there
        with pytest.raises(VlaRosError, match=rf"policy ws://127.0.0.1:{port}: no connection: .*openpi's protocol"):
            ask(policy)
    with serving(lambda request: rows(seed=7), port) as server:
        np.testing.assert_array_equal(ask(policy), rows(seed=7))
        policy.close()  # type: ignore[attr-defined]


def test_a_late_answer_is_not_taken_for_the_next_one(plain: Path) -> None:
    late, hurry = threading.Event(), iter([0.0, 0.8, 0.0])
    sent = iter([rows(seed=0), rows(seed=1), rows(seed=2)])

    def slow(request: dict[str, Any]) -> np.ndarray:
        late.wait(next(hurry))
        return next(sent)

    with serving(slow) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        start = time.monotonic()
        with pytest.raises(VlaRosError, match=r"no answer within 0.3 s \(.*mapping.yaml\)"):
            ask(policy)
        assert 0.3 <= time.monotonic() - start < 0.7
        time.sleep(0.6)
        np.testing.assert_array_equal(ask(policy), rows(seed=2))
        policy.close()  # type: ignore[attr-defined]


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """Something listens, but does not speak the protocol."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mapping = str(written(tmp_path, start_timeout=0.3))
        with pytest.raises(VlaRosError, match=rf"policy ws://127.0.0.1:{port}: no answer within 0.3 s"):
            foreign.load(f"ws://127.0.0.1:{port}", ALOHA, mapping)


BAD = {
    "rows": (rows(20), r"actions: found float32 \(20, 14\), expected numbers \(50, 14\)"),
    "joints": (rows()[:, :7], r"actions: found float32 \(50, 7\), expected numbers \(50, 14\)"),
    "texts": (np.full((50, 14), "a"), r"actions: found <U1 \(50, 14\)"),
    "no array": ([1.0, 2.0], r"actions: found list"),
    "NaN": (np.where(np.arange(700).reshape(50, 14) == 33, np.nan, rows()), r"row 2, action 5: found nan, expected a number"),
    "infinity": (np.full((50, 14), np.inf), r"row 0, action 0: found inf"),
    "another key": (openpi_pack({"action": rows()}), r"'actions' is missing \(.*mapping.yaml\); found action$"),
    "no mapping": (openpi_pack([1, 2]), "'actions' is missing .*; found list"),
    "no msgpack": (b"\xc1\xc1", "message of 2 bytes: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_answers_that_do_not_fit_are_refused(case: str, plain: Path) -> None:
    """At start, and later."""
    bad, reason = BAD[case]
    answers = [rows(), bad, rows(seed=4)]
    with serving(lambda request: answers.pop(0)) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        with pytest.raises(VlaRosError, match=rf"policy {server.url}: .*{reason}"):
            ask(policy)
        np.testing.assert_array_equal(ask(policy), rows(seed=4))
        policy.close()  # type: ignore[attr-defined]
    with serving(lambda request: bad) as server, pytest.raises(VlaRosError, match=rf"policy {server.url}: .*{reason}"):
        foreign.load(server.url, ALOHA, str(plain))


def test_observations_that_do_not_fit_are_refused(plain: Path) -> None:
    with serving(lambda request: rows()) as server:
        policy = foreign.load(server.url, ALOHA, str(plain))
        for more, reason in (
            ({"image": IMAGES[:3]}, r"image is \(3, 224, 224, 3\) uint8, the contract's cameras give \(4, 224, 224, 3\)"),
            ({"image": IMAGES.astype(np.float32)}, "image is .* float32"),
            ({"state": HOME[:7]}, "expected 14 finite numbers"),
            ({"state": np.where(np.arange(14) == 3, np.nan, HOME)}, "expected 14 finite numbers"),
            ({"temperature": 0.5}, "temperature: found 0.5, expected 1"),
        ):
            with pytest.raises(VlaRosError, match=reason):
                ask(policy, **more)  # type: ignore[arg-type]
        assert len(server.requests) == 1
        policy.close()  # type: ignore[attr-defined]


WRONG = {
    "unknown key": ({"prompt": "prompt"}, "unknown key 'prompt'"),
    "no instruction": ({"instruction": None}, "key 'instruction' is missing, expected text"),
    "camera": ({"images__keys": {"top": "cam_hihg"}}, "images.keys.top: found 'cam_hihg', expected one of cam_high"),
    "no camera": ({"images__keys": {}}, "images.keys: found no picture"),
    "layout": ({"images__layout": "bgr"}, "images.layout: found 'bgr', expected one of hwc, chw"),
    "size": ({"images__size": [224, 0]}, r"images.size: found \[224, 0\], expected two integers"),
    "state": ({"state": {"s": ["left_wist"]}}, "state.s: found .*, not 'left_wist'"),
    "semantics": ({"actions__semantics": "joint_velocity"}, "found 'joint_velocity', expected joint_position .*aloha.yaml"),
    "rate": ({"actions__rate": 15}, "actions.rate: found 15, expected 50 Hz, action.rate of .*aloha.yaml"),
    "columns": ({"actions__columns": list(ALOHA.joints[:13])}, "actions.columns: found .*, expected each of left_waist"),
    "rows": ({"actions__rows": 0}, "actions.rows: found 0, expected an integer"),
    "gripper": ({"grippers": {"gripper": {"closed": 0, "open": 1}}}, "grippers: found 'gripper', expected joints of"),
    "no way": ({"grippers__left_gripper__open": 0.01844}, "grippers.left_gripper.open: found 0.01844, expected another"),
    "crank": ({"grippers__left_gripper__crank__arm": 0.02}, "grippers.left_gripper.crank.arm: found 0.02, expected more than"),
    "NaN": ({"grippers__left_gripper__closed": float("inf")}, "closed: found inf, expected a finite number"),
    "timeout": ({"timeout": 0}, r"timeout: found 0, expected a number in \[0.01, 60\]"),
    "twice": ({"instruction": "state"}, "key 'state' of the request: found twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_mappings_are_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, reason = WRONG[case]
    with pytest.raises(VlaRosError, match=f"mapping.yaml: .*{reason}"):
        Mapping.load(written(tmp_path, **changes), ALOHA)


@pytest.mark.parametrize("name", Mapping.known())
def test_the_shipped_mappings_fit_their_robot(name: str) -> None:
    contract = PANDA if name == "openpi_libero" else ALOHA
    mapping = Mapping.load(name, contract)
    assert mapping.columns.tolist() == list(range(len(mapping.columns)))
    with pytest.raises(VlaRosError, match=r"actions.semantics: found '.*', expected .*\.yaml"):
        Mapping.load(name, ALOHA if contract is PANDA else PANDA)


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(VlaRosError, match="parameter `mapping`: found '', expected one of lerobot_aloha, openpi_aloha"):
        foreign.load("ws://127.0.0.1:1", ALOHA, "")
    with pytest.raises(VlaRosError, match="policy ws://127.0.0.1:1: no connection: "):
        foreign.load("ws://127.0.0.1:1", ALOHA, "openpi_aloha")
    for url in ("ws://", "ws://127.0.0.1:port"):
        with pytest.raises(VlaRosError, match=f"policy {url}: no connection: "):
            foreign.load(url, ALOHA, "openpi_aloha")


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="lerobot is installed here")
def test_without_lerobot_the_way_around_is_named() -> None:
    reason = r"package lerobot: found none .*expected lerobot>=0.4.4,<0.7.*scripts/lerobot_server.py"
    with pytest.raises(VlaRosError, match=reason):
        foreign.load("lerobot:somebody/act", ALOHA, "lerobot_aloha")


def test_a_judge_learns_from_a_foreign_policys_episodes(tmp_path: Path) -> None:
    """They have neither tokens nor a log-probability, and the first ones nobody judged."""
    contract = recordings.small_aloha(tmp_path)

    def foreign_(topic: str, step: int, fields: recordings.Fields) -> recordings.Fields | None:
        unknown = {"action_tokens": np.zeros(0, np.int16), "log_probability": np.nan} if topic == "/policy/chunk" else {}
        return None if topic == "/progress" else {**fields, **unknown}

    for k in range(3):
        recordings.record(tmp_path / "episodes" / f"e{k}.mcap", contract, steps=4 + k, spoil=foreign_)
    data = sft.read([tmp_path / "episodes"], Place.robot(contract), skip_bad=False)
    assert data.steps_to_go.tolist() == [*range(4, -1, -1), *range(5, -1, -1), *range(6, -1, -1)]
    assert data.images.shape == (18, 2, 32, 48, 3)
    assert np.isfinite(data.actions).all()


class Recorded:
    """Stands for LeRobot's policy, whose package is not here: what LeRobotModel uses of it, and what it was given."""

    def __init__(self, **config: Any) -> None:
        shapes = {"observation.state": (14,), HIGH: (3, 4, 6), EMPTY: (3, 4, 6)}
        features = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
        self.config = SimpleNamespace(
            **{"type": "act", "device": "cpu", "n_obs_steps": 1, "input_features": features,
               "output_features": {"action": SimpleNamespace(shape=(14,))}, **config}
        )  # fmt: skip
        self.batches: list[dict[str, Any]] = []
        self.resets = 0

    def predict_action_chunk(self, batch: dict[str, Any]) -> torch.Tensor:
        self.batches.append(batch)
        return batch["observation.state"][:, None] + torch.arange(5.0)[None, :, None]

    def reset(self) -> None:
        self.resets += 1


def half(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "observation.state": batch["observation.state"] / 2}


def double(actions: torch.Tensor) -> torch.Tensor:
    assert actions.shape == (5, 14)
    return actions * 2


def lerobot_request(**changes: Any) -> dict[str, Any]:
    picture = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    return {"observation.state": HOME, HIGH: picture, "prompt": "open the pot", **changes}


def test_a_lerobot_policy_gets_what_its_data_sets_hold() -> None:
    policy = Recorded()
    model = LeRobotModel(policy, half, double)
    found = model(lerobot_request())
    np.testing.assert_allclose(found, HOME + 2 * np.arange(5)[:, None], rtol=1e-6)
    batch = policy.batches[0]
    assert (batch["task"], batch["robot_type"]) == ("open the pot", "")
    picture = batch[HIGH]
    assert (picture.shape, picture.dtype) == ((1, 3, 4, 6), torch.float32)
    assert float(picture[0, 2, 1, 4]) == pytest.approx(32 / 255)  # channel, row, column of value 3 (6 y + x) + c
    assert model.metadata["input"] == {"observation.state": [14], HIGH: [3, 4, 6]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observation.images.wrist": np.zeros((4, 6, 3), np.uint8)}, "expected the policy's features observation.state, "),
        ({HIGH: np.zeros((3, 4, 6), np.uint8)}, r"cam_high: found uint8 \(3, 4, 6\), expected uint8 \(4, 6, 3\)"),
        ({HIGH: np.zeros((4, 6, 3), np.float32)}, "cam_high: found float32"),
        ({"observation.state": np.zeros(7)}, r"observation.state: found float64 \(7,\), expected numbers \(14,\)"),
        ({"observation.state": [0.0] * 14}, "observation.state: found list"),
    ],
    ids=["unknown", "channels first", "float picture", "joints", "list"],
)
def test_what_a_lerobot_policy_does_not_know_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(VlaRosError, match=reason):
        LeRobotModel(Recorded(), half, double)(lerobot_request(**changes))


def test_a_lerobot_policy_with_a_history_is_refused() -> None:
    with pytest.raises(VlaRosError, match="diffusion policy: n_obs_steps: found 2, expected 1"):
        LeRobotModel(Recorded(type="diffusion", n_obs_steps=2), half, double)


@pytest.fixture(scope="module")
def script() -> Any:
    """scripts/lerobot_server.py as a module."""
    path = Path(__file__).parents[2] / "scripts" / "lerobot_server.py"
    spec = importlib.util.spec_from_file_location("lerobot_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_the_lerobot_server_serves_a_policy(script: Any, tmp_path: Path) -> None:
    """Our client, a real socket, and the script's server around a policy that answers with its state."""
    policy = Recorded()
    policy.config.input_features[HIGH] = SimpleNamespace(shape=(3, 224, 224))
    model = LeRobotModel(policy, half, double)
    mapping = written(
        tmp_path, "lerobot_aloha", grippers=None, actions__rows=5, images__keys={HIGH: "cam_high"}
    )
    with script.serve(model, model.metadata, "127.0.0.1", 0, model.reset) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = foreign.load(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", ALOHA, str(mapping))
        assert isinstance(client, OpenPiPolicy)
        assert client.metadata["policy"] == "act"
        np.testing.assert_allclose(ask(client), HOME + 2 * np.arange(5)[:, None], rtol=1e-6)
        np.testing.assert_array_equal(
            (255 * policy.batches[-1][HIGH][0]).round().byte().numpy(), IMAGES[0].transpose(2, 0, 1)
        )
        policy.config.device = "no device"
        with pytest.raises(VlaRosError, match="it failed there: .*act policy failed: RuntimeError: .*no device"):
            ask(client)
        policy.config.device = "cpu"
        np.testing.assert_allclose(ask(client), HOME + 2 * np.arange(5)[:, None], rtol=1e-6)
        assert policy.resets == 2  # at each connection
    thread.join()
    with pytest.raises(VlaRosError, match="no connection"):
        ask(client)
