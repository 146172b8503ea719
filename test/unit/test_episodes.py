"""Recording and reading episodes: complete files, torn files, alignment by stamp."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer
from recordings import Fields, Spoil, command, header, image, picture, position, record

from vla_ros.episodes import EpisodeReader, EpisodeWriter, label, load_episode, read_label
from vla_ros.episodes.check import check_episode
from vla_ros.episodes.definitions import recorded_types, schema_text, typestore
from vla_ros.episodes.trajectory import load_trajectory
from vla_ros.episodes.writer import METADATA
from vla_ros.errors import VlaRosError
from vla_ros.robots.actions import action_space
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.kinematics import Kinematics
from vla_ros.robots.observation import proprio_state

CONTRACT = RobotContract.load("panda")
KINEMATICS = Kinematics(CONTRACT)
HOME = KINEMATICS.home()
STEPS = 5
START = 1_700_000_000.2  # s, a stamp with a rounded double


class Recorder:
    """Writes an episode as the graph would: one observation, estimate and chunk per policy step, safety at 200 Hz."""

    def __init__(self, path: Path, **metadata: str) -> None:
        self.types = typestore().types
        metadata = {"episode_id": path.stem, "instruction": "reach the red disc", "robot": "panda", **metadata}
        self.writer = EpisodeWriter(path, metadata)

    def message(self, name: str, **fields: Any) -> Any:
        return self.types[name](**fields)

    def header(self, stamp: float) -> Any:
        return self.message("std_msgs/msg/Header", stamp=self.time(stamp), frame_id="")

    def time(self, stamp: float) -> Any:
        nanoseconds = round((stamp - int(stamp)) * 1e9)
        return self.message("builtin_interfaces/msg/Time", sec=int(stamp), nanosec=nanoseconds)

    def write(self, topic: str, name: str, stamp: float, **fields: Any) -> None:
        message = self.message(name, **fields)
        self.writer.write(topic, name, bytes(typestore().serialize_cdr(message, name)), int(stamp * 1e9))

    def observation(self, stamp: float, k: int) -> None:
        image = self.message(
            "sensor_msgs/msg/Image", header=self.header(stamp), height=64, width=64, encoding="rgb8", is_bigendian=0,
            step=192, data=np.full(64 * 64 * 3, k, np.uint8),
        )  # fmt: skip
        self.write(
            "/observation", "vla_ros/msg/Observation", stamp, header=self.header(stamp), cameras=["front"],
            images=[image], joint_names=list(CONTRACT.joints)[::-1], position=(HOME + 0.01 * k)[::-1].copy(),
            velocity=np.zeros(7), skew=0.0,
        )  # fmt: skip

    def chunk(self, stamp: float, k: int) -> None:
        self.write(
            "/policy/chunk", "vla_ros/msg/ActionChunk", stamp, header=self.header(stamp + 0.1),
            observation_stamp=self.time(stamp), period=0.1, joint_names=list(CONTRACT.joints),
            semantics="joint_position", rows=1, data=HOME, policy_version=3, episode_id="e",
            action_tokens=np.array([k, 20 - k], np.int16), log_probability=-0.5 * k,
            latency_ms=np.zeros(0, np.float32), corrected=False,
        )  # fmt: skip

    def progress(self, stamp: float, k: int) -> None:
        self.write(
            "/progress", "vla_ros/msg/Progress", stamp, header=self.header(stamp), episode_id="e",
            instruction="reach the red disc", steps_to_go=10.0 - 2 * k, spread=1.0, low=9.0 - 2 * k, high=11.0 - 2 * k,
            success_probability=0.1,
            success=k == STEPS, reward=2.0 if k else 0.0, policy_version=1,
        )  # fmt: skip

    def safety(self, stamp: float, state: int = 0, active: tuple[str, ...] = ()) -> None:
        self.write(
            "/safety/state", "vla_ros/msg/SafetyState", stamp, header=self.header(stamp), state=state, reason="",
            path_speed=1.0, active_constraints=list(active), joint_names=list(CONTRACT.joints), raw_command=HOME,
            command=HOME, ticks=0, missed_ticks=0, limited_ticks=0, rejected_chunks=0, policy_version=3, episode_id="e",
            off_path=0.0, speed_cap=1.0, tip_speed=0.0, torque_share=0.0, clearance=0.1, nearest="",
        )  # fmt: skip

    def episode(self, skip_chunk: int = -1) -> None:
        for k in range(STEPS + 1):
            stamp = START + 0.1 * k
            self.observation(stamp, k)
            self.progress(stamp, k)
            if k != skip_chunk:
                self.chunk(stamp, k)
            self.safety(stamp + 0.005)
            self.safety(stamp + 0.05, 3 if k == 2 else 0, ("velocity:panda_joint1",) if k == 1 else ())


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    recorder = Recorder(tmp_path / "episode.mcap", seed="4")
    with recorder.writer as writer:
        recorder.episode()
        writer.annotate(outcome="success")
    return writer.path


def test_tensors_are_aligned_by_stamp(recorded: Path) -> None:
    data = load_episode(recorded)
    assert len(data) == STEPS
    assert data.stamps == pytest.approx(START + 0.1 * np.arange(STEPS + 1), abs=1e-6)
    assert data.images.shape == (STEPS + 1, 64, 64, 3)
    assert data.images[:, 0, 0, 0].tolist() == list(range(STEPS + 1))
    assert data.tokens.tolist() == [[[k, 20 - k]] for k in range(STEPS)]
    assert data.log_probabilities.tolist() == [-0.5 * k for k in range(STEPS)]
    assert data.steps_to_go.tolist() == [10.0 - 2 * k for k in range(STEPS + 1)]
    assert data.rewards.tolist() == [2.0] * STEPS
    assert data.policy_versions.tolist() == [3] * STEPS
    assert data.latched.tolist() == [False, False, True, False, False]
    assert data.limited.tolist() == [False, True, True, False, False]
    assert data.success
    assert data.unanswered == 0
    assert data.instruction == "reach the red disc"
    assert data.metadata["outcome"] == "success"
    assert data.metadata["seed"] == "4"
    expected = proprio_state(CONTRACT, KINEMATICS.tip_pose(HOME + 0.02)[:3])
    assert np.allclose(data.states[2], expected), "joints come in another order than the contract's"


def test_an_observation_without_a_chunk_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "gap.mcap")
    with recorder.writer:
        recorder.episode(skip_chunk=2)
    data = load_episode(tmp_path / "gap.mcap")
    assert len(data) == STEPS - 1
    assert data.unanswered == 1
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5]
    assert data.rewards.tolist() == [2.0, 4.0, 2.0, 2.0], "the step over the gap is two steps long"
    assert data.latched.tolist() == [False, True, False, False]


def by_hand(*steps: int) -> Callable[[str, int, Fields], Fields]:
    """A person acts in these steps."""
    return lambda t, k, fields: {**fields, "corrected": k in steps} if t == "/policy/chunk" else fields


def test_what_a_person_did_is_told_from_what_the_policy_did(tmp_path: Path) -> None:
    path = record(tmp_path / "e.mcap", CONTRACT, spoil=by_hand(2, 3))
    data, trajectory = load_episode(path), load_trajectory(path, CONTRACT)
    assert data.corrected.tolist() == [False, False, True, True, False]
    assert trajectory.corrected.tolist() == [False, False, True, True, False, False]
    space = action_space(CONTRACT, KINEMATICS)
    sent = [space.action(command(CONTRACT, 0.1 * (k + 1))[None], position(CONTRACT, k)) for k in range(STEPS)]
    np.testing.assert_allclose(data.executed, sent, atol=1e-4)
    np.testing.assert_allclose(data.executed, trajectory.actions[:STEPS], atol=1e-4)
    assert abs(data.executed - data.actions).max() > 0.1, "what was asked for is another thing"


def test_what_was_executed_is_not_known_in_a_gap_of_the_record(tmp_path: Path) -> None:
    gap: Spoil = lambda t, k, fields: None if t == "/safety/state" and k in (1, 2) else fields  # noqa: E731
    data = load_episode(record(tmp_path / "e.mcap", CONTRACT, spoil=gap))
    assert np.isnan(data.executed).all((1, 2)).tolist() == [True, True, True, False, False]


def test_an_episode_of_before_people_took_over_is_the_policys(tmp_path: Path) -> None:
    """Rewritten with the message as it was then."""
    name = "vla_ros/msg/ActionChunk"
    text = schema_text(name).replace("bool corrected\n", "")
    store, path = recorded_types(((name, text),)), record(tmp_path / "new.mcap", CONTRACT, spoil=by_hand(2))
    with (tmp_path / "old.mcap").open("wb") as file:
        writer, channels = Writer(file), dict[str, int]()
        writer.start("ros2")
        for m in (reader := EpisodeReader(path)):
            old, cdr = m.type_name == name, m.cdr
            if old:
                fields = {f: getattr(m.message(), f) for f in store.types[name].__dataclass_fields__ if f != "__msgtype__"}
                cdr = bytes(store.serialize_cdr(store.types[name](**fields), name))
            if m.topic not in channels:
                schema = writer.register_schema(m.type_name, "ros2msg", (text if old else schema_text(m.type_name)).encode())
                channels[m.topic] = writer.register_channel(m.topic, "cdr", schema)
            writer.add_message(channels[m.topic], log_time=m.stamp_ns, publish_time=m.stamp_ns, data=cdr)
        writer.add_metadata(METADATA, reader.metadata)
        writer.finish()
    assert not hasattr(EpisodeReader(tmp_path / "old.mcap").of("/policy/chunk")[0], "corrected")
    assert not load_episode(tmp_path / "old.mcap").corrected.any()
    assert not load_trajectory(tmp_path / "old.mcap", CONTRACT).corrected.any()
    assert check_episode(tmp_path / "old.mcap") == []


def test_the_file_is_a_ros2_bag_for_others(recorded: Path) -> None:
    with recorded.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert reader.get_header().profile == "ros2"
        assert summary is not None
        schema = next(s for s in summary.schemas.values() if s.name == "vla_ros/msg/Observation")
        assert schema.encoding == "ros2msg"
        text = schema.data.decode()
        assert "sensor_msgs/Image[] images" in text
        assert "=" * 80 + "\nMSG: sensor_msgs/Image\n" in text
        assert {c.message_encoding for c in summary.channels.values()} == {"cdr"}
        messages = list(reader.iter_messages(topics=["/progress"]))
        assert len(messages) == STEPS + 1
        decoded = typestore().deserialize_cdr(messages[1][2].data, messages[1][0].name)
        assert decoded.steps_to_go == 8.0


def test_schema_of_an_unknown_type_is_an_error() -> None:
    assert "builtin_interfaces/Time stamp" in schema_text("std_msgs/msg/Header")
    with pytest.raises(VlaRosError, match="'my_pkg/msg/Thing' has no known definition"):
        schema_text("my_pkg/msg/Thing")


def test_a_crash_leaves_only_the_part_file(tmp_path: Path) -> None:
    path = tmp_path / "crash.mcap"
    recorder = Recorder(path)

    def crash() -> None:
        with recorder.writer:
            recorder.episode()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert [f.name for f in tmp_path.iterdir()] == ["crash.mcap.part"]


def test_nothing_is_overwritten(recorded: Path) -> None:
    before = recorded.read_bytes()
    with pytest.raises(VlaRosError, match="exists already"):
        EpisodeWriter(recorded, {})
    assert recorded.read_bytes() == before
    assert not recorded.with_name(recorded.name + ".part").exists()


def test_full_disk_is_announced_and_earlier_episodes_stay(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = recorded.with_name("second.mcap")
    recorder = Recorder(second)
    monkeypatch.setattr("vla_ros.episodes.writer.os.fsync", lambda fd: _full())
    with pytest.raises(VlaRosError, match=r"second\.mcap\.part: cannot record: No space left on device.*Free disk"):
        recorder.writer.close()
    assert not second.exists()
    monkeypatch.undo()
    assert len(load_episode(recorded)) == STEPS


def test_full_disk_while_recording(tmp_path: Path) -> None:
    (tmp_path / "x.mcap.part").symlink_to("/dev/full")
    recorder = Recorder(tmp_path / "x.mcap")
    with pytest.raises(VlaRosError, match=r"x\.mcap\.part: cannot record: No space left on device"), recorder.writer:
        for _ in range(20):
            recorder.episode()
    assert not (tmp_path / "x.mcap").exists()


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_torn_file_is_an_error_that_can_be_overridden(recorded: Path, share: float) -> None:
    content = recorded.read_bytes()
    recorded.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(VlaRosError, match=r"episode\.mcap: torn or corrupt after \d+ messages"):
        load_episode(recorded)
    reader = EpisodeReader(recorded, strict=False)
    assert "torn" in reader.damage
    if share >= 0.9:
        assert len(load_episode(recorded, strict=False)) == STEPS


def test_a_flipped_byte_is_found(recorded: Path) -> None:
    content = bytearray(recorded.read_bytes())
    content[len(content) // 3] ^= 0xFF
    recorded.write_bytes(bytes(content))
    with pytest.raises(VlaRosError, match="torn or corrupt"):
        load_episode(recorded)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mcap")
    with recorder.writer:
        recorder.observation(START, 0)
    with pytest.raises(VlaRosError, match="/policy/chunk was not recorded; found /observation"):
        load_episode(tmp_path / "a.mcap")
    recorder = Recorder(tmp_path / "b.mcap", robot="aloha")
    with recorder.writer:
        recorder.episode()
    with pytest.raises(VlaRosError, match="robot: found 'aloha', expected 'panda'"):
        load_episode(tmp_path / "b.mcap", robot="panda")
    recorder = Recorder(tmp_path / "c.mcap")
    with recorder.writer:
        recorder.observation(START, 0)
        recorder.progress(START, 0)
        recorder.chunk(START + 5, 0)
        recorder.safety(START)
    with pytest.raises(VlaRosError, match="no complete step: 1 observations, of which 1 were judged and 0"):
        load_episode(tmp_path / "c.mcap")
    with pytest.raises(VlaRosError, match=r"none\.mcap: cannot be read: No such file"):
        load_episode(tmp_path / "none.mcap")


def spoiled(topic: str, **values: Any) -> Callable[[str, int, Fields], Fields]:
    """Other fields in the message of step 2."""
    return lambda t, k, fields: {**fields, **values} if (t, k) == (topic, 2) else fields


IMAGE = picture(0, (64, 64))
BGR = image(IMAGE, 0.0)
BGR.encoding = "bgr8"
AT, ANSWER = r"/observation: frame at 1700000000\.400 s: .*", r"/policy/chunk: answer to 1700000000\.400 s: "
WRONG = {
    "size": (spoiled("/observation", images=[image(IMAGE[:32], 0.0)]), AT + r"'front': found uint8 \[32, 64, 3\], expected"),
    "channel order": (spoiled("/observation", images=[BGR]), AT + "found 'bgr8', expected 'rgb8'"),
    "camera": (spoiled("/observation", cameras=["side"]), AT + "found images of side, expected 'front'"),
    "state": (spoiled("/observation", position=np.full(7, np.nan)), AT + "'panda_joint1': found nan, expected"),
    "duplicate": (
        spoiled("/observation", header=header(START + 0.1)), r"/observation: frame at 1700000000\.300 s: found a second one",
    ),
    "action dimension": (spoiled("/policy/chunk", data=np.zeros(6)), ANSWER + "found 6 values in 1 rows, expected 7"),
    "action": (spoiled("/policy/chunk", data=np.full(7, np.inf)), ANSWER + "row 0: panda_joint1: found inf"),
    "joints": (spoiled("/policy/chunk", joint_names=["a"] * 7), ANSWER + r"found joint_position of 7 columns \(a"),
    "rows": (spoiled("/policy/chunk", rows=2, data=np.zeros(14)), r"/policy/chunk: found shapes .*expected one of each"),
    "tokens": (spoiled("/policy/chunk", rows=3, data=np.zeros(21)), ANSWER + "found 2 action_tokens in 3 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_the_policy_could_not_have_seen_or_done_is_refused(name: str, tmp_path: Path) -> None:
    spoil, message = WRONG[name]
    path = record(tmp_path / "e.mcap", CONTRACT, spoil=spoil)
    with pytest.raises(VlaRosError, match=rf"e\.mcap: .*{message}"):
        load_episode(path)


def test_a_topic_has_one_type(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "x.mcap")
    recorder.progress(START, 0)
    with pytest.raises(VlaRosError, match="until now vla_ros/msg/Progress"):
        recorder.writer.write("/progress", "std_msgs/msg/Header", b"", 0)
    recorder.writer.close()


def test_labels_stay_beside_the_recording(recorded: Path) -> None:
    before = recorded.read_bytes()
    assert read_label(recorded) == {}
    label(recorded.parent, "episode", "failure", "the disc had fallen")
    label(recorded.parent, "episode", "aborted", "")
    assert read_label(recorded)["outcome"] == "aborted"
    assert load_episode(recorded).label["outcome"] == "aborted"
    assert recorded.read_bytes() == before
    with pytest.raises(VlaRosError, match="found outcome 'good', expected one of success"):
        label(recorded.parent, "episode", "good")
    with pytest.raises(VlaRosError, match="no episode 'other'"):
        label(recorded.parent, "other", "success")


def test_recordings_of_older_messages_stay_readable(tmp_path: Path) -> None:
    """A message that has grown since is decoded by the definition in the file."""
    name, text = "vla_ros/msg/SafetyState", "uint8 state\nstring reason"
    store = recorded_types(((name, text),))
    path = tmp_path / "old.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        channel = writer.register_channel("/safety/state", "cdr", writer.register_schema(name, "ros2msg", text.encode()))
        cdr = bytes(store.serialize_cdr(store.types[name](state=2, reason="old"), name))
        writer.add_message(channel, log_time=5, publish_time=5, data=cdr)
        writer.finish()
    (message,) = EpisodeReader(path).of("/safety/state")
    assert (message.state, message.reason) == (2, "old")
