"""Keys, sticks and leader arms as commands in the contract's units; nothing is sent before the leader is where the arm is."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros import terminal
from vla_ros.errors import VlaRosError
from vla_ros.paths import share
from vla_ros.policy.nobody import Nobody
from vla_ros.robots.contract import RobotContract
from vla_ros.teleop.joints import JointSources
from vla_ros.teleop.joystick import Joystick
from vla_ros.teleop.velocity import Gamepad, Keyboard
from vla_ros.types import JointState

PANDA, ALOHA = RobotContract.load("panda"), RobotContract.load("aloha")
CONFIG = share() / "config" / "teleop"
POSTURE = np.array(ALOHA.posture)
LEFT, RIGHT = "/leader_left/joint_states", "/leader_right/joint_states"
NAMES = ["gripper", "wrist_rotate", "wrist_angle", "forearm_roll", "elbow", "shoulder", "waist", "left_finger"]
OPEN, CLOSED = 0.3083, -0.6842  # rad, of ALOHA's leader


def changed(folder: Path, name: str, **values: object) -> Path:
    """A file of config/teleop with other values."""
    path = folder / name
    path.write_text(yaml.safe_dump({**yaml.safe_load((CONFIG / name).read_text()), **values}))
    return path


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"\x1b[A\x1bOB\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        (b"w y\r\n", ["w", "space", "y", "enter", "enter"]),
        (b"\x1b[3~\x1b[1;5Aq", ["q"]),
    ],
)
def test_keys_of_a_terminal(data: bytes, names: list[str]) -> None:
    assert terminal.keys(data) == names


def test_keys_move_while_they_are_pressed_and_stop_when_they_are_not(tmp_path: Path) -> None:
    keyboard = Keyboard(PANDA, CONFIG / "keyboard.yaml")
    assert keyboard.velocity(0.0) is None, "nobody has touched it"
    assert not keyboard.press("y", 0.0)
    for key, axes in (("up", (0.15, 0)), ("s", (-0.15, 0)), ("left", (0, 0.15)), ("d", (0, -0.15))):
        board = Keyboard(PANDA, CONFIG / "keyboard.yaml")
        assert board.press(key, 0.0)
        np.testing.assert_allclose(board.velocity(0.1), axes, atol=1e-12)
    assert keyboard.press("w", 10.0)
    assert keyboard.press("a", 10.1)
    np.testing.assert_allclose(keyboard.velocity(10.12), [0.15, 0.15])
    np.testing.assert_allclose(keyboard.velocity(10.2), [0.0, 0.15])
    np.testing.assert_allclose(keyboard.velocity(10.26), [0.0, 0.0], err_msg="no release is heard: after `hold` it stands")
    keyboard.press("w", 10.3)
    keyboard.press("space", 10.31)
    np.testing.assert_allclose(keyboard.velocity(10.32), [0.0, 0.0])
    assert keyboard.velocity(11.5) is None, "after `stand` s the person has let go"
    opposite = Keyboard(PANDA, changed(tmp_path, "keyboard.yaml", turn=180))
    opposite.press("up", 0.0)
    np.testing.assert_allclose(opposite.velocity(0.0), [-0.15, 0.0], atol=1e-12)


def test_a_stick_moves_while_the_dead_mans_button_is_held(tmp_path: Path) -> None:
    gamepad = Gamepad(PANDA, CONFIG / "gamepad.yaml")
    held, free = [0, 0, 0, 0, 0, 1], [0] * 6
    assert gamepad.velocity([1.0, 1.0], free) is None
    np.testing.assert_allclose(gamepad.velocity([0.0, 1.0], held), [0.2, 0.0])
    np.testing.assert_allclose(gamepad.velocity([0.55, -0.05], held), [0.0, 0.1], err_msg="half way out, and a stick at rest")
    turned = Gamepad(PANDA, changed(tmp_path, "gamepad.yaml", turn=45))
    assert abs(turned.velocity([1.0, 1.0], held)).max() == pytest.approx(0.2), "never beyond the speed on an axis"  # type: ignore[arg-type]
    with pytest.raises(VlaRosError, match=r"gamepad.yaml: dead_man: found button 5, expected one of the device's 2"):
        gamepad.velocity([0.0, 0.0], [0, 1])
    with pytest.raises(VlaRosError, match=r"forward: found axis 1, expected one of the device's 1"):
        gamepad.velocity([0.0], held)
    with pytest.raises(VlaRosError, match="found axes nan"):
        gamepad.velocity([0.0, math.nan], held)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("keyboard.yaml", {"speed": 0.5}, r"speed: found 0.5, expected a number in \[0.001, 0.4\]"),
        ("keyboard.yaml", {"sped": 0.1}, "unknown key 'sped'; did you mean 'speed'"),
        ("gamepad.yaml", {"dead_man": "A"}, "dead_man: found 'A', expected an integer"),
        ("gamepad.yaml", {"dead_zone": 1}, r"dead_zone: found 1, expected a number in \[0, 0.9\]"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, name: str, values: dict[str, object], message: str) -> None:
    kind = Keyboard if name == "keyboard.yaml" else Gamepad
    with pytest.raises(VlaRosError, match=message):
        kind(PANDA, changed(tmp_path, name, **values))


def test_the_linux_joystick(tmp_path: Path) -> None:
    """Events as the kernel writes them, also when a read ends within one."""
    pipe = tmp_path / "js0"
    os.mkfifo(pipe)
    pad = Joystick(pipe)
    with pipe.open("wb", buffering=0) as kernel:
        event = lambda value, kind, number: struct.pack("<IhBB", 7, value, kind, number)  # noqa: E731
        kernel.write(event(0, 0x82, 0) + event(0, 0x82, 1) + event(0, 0x81, 5))  # the state at its opening
        pad.read()
        assert (pad.axes, pad.buttons) == ([0.0, 0.0], [0] * 6)
        both = event(-32767, 2, 1) + event(1, 1, 5)
        kernel.write(both[:11])
        pad.read()
        kernel.write(both[11:] + event(-32768, 2, 0))
        pad.read()
        assert (pad.axes, pad.buttons[5]) == ([1.0, 1.0], 1), "up and left are positive"
    with pytest.raises(VlaRosError, match="js0: gone; plug it in"):
        pad.read()
    pad.close()
    with pytest.raises(VlaRosError, match=r"js9: cannot be read: No such file.*gamepad.yaml"):
        Joystick(tmp_path / "js9")


class Leaders:
    """Both leaders, and the clock."""

    def __init__(self, path: Path = CONFIG / "leaders.yaml") -> None:
        self.sources = JointSources(ALOHA, path)
        self.now, self.q, self.gripper = 100.0, POSTURE.copy(), OPEN

    def say(self, arm: int = 2, **raw: float) -> None:
        """One driver's message, or both drivers' (2), names in another order than the contract's."""
        for k, topic in enumerate((LEFT, RIGHT)):
            if arm in (k, 2):
                values = dict(
                    zip(
                        ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"],
                        self.q[7 * k :],
                        strict=False,
                    )
                )
                values |= {"gripper": self.gripper, "left_finger": 0.02} | raw
                self.sources.hear(topic, JointState(self.now, tuple(NAMES), np.array([values[n] for n in NAMES]), np.zeros(0)))

    def command(self, measured: np.ndarray | None = POSTURE) -> np.ndarray | None:
        """50 Hz."""
        self.now += 0.02
        self.say()
        found = self.sources.command(self.now, measured)
        assert found is None or found.names == ALOHA.joints
        return None if found is None else found.position


def test_leaders_lead_from_where_the_arms_are_and_not_before() -> None:
    leaders = Leaders()
    assert leaders.sources.command(100.0, POSTURE) is None
    assert leaders.sources.state == f"silent: {LEFT}, {RIGHT}"
    leaders.say()
    assert leaders.sources.command(100.0, None) is None
    assert leaders.sources.state == "silent: /joint_states"
    leaders.q[2] += 0.4
    leaders.q[12] -= 0.2
    leaders.gripper = CLOSED
    assert leaders.command() is None
    assert (
        leaders.sources.state == "apart: 'left_elbow' leader 1.56, arm 1.16 rad, 'right_wrist_rotate' leader -0.20, arm 0.00 rad"
    )
    leaders.q = POSTURE + 0.1 * np.tile([1, 1, 1, 1, 1, 1, 0], 2)
    assert leaders.command() is None
    assert leaders.sources.state == "near: open, then close the grippers to begin"
    leaders.gripper = OPEN
    assert leaders.command() is None
    leaders.gripper = CLOSED
    led = leaders.command()
    assert led is not None
    wanted = leaders.q.copy()
    wanted[[6, 13]] = ALOHA.limits.lower[6]
    np.testing.assert_allclose(led, wanted, atol=1e-9)
    leaders.gripper = (OPEN + CLOSED) / 2
    np.testing.assert_allclose(leaders.command()[[6, 13]], (0.01844 + 0.058) / 2)  # type: ignore[index]


def test_grippers_in_metres_never_begin() -> None:
    """A finger's metres may lie within the motor's radians, but they do not close."""
    leaders = Leaders()
    for gripper in (0.024, 0.012, 0.02):
        leaders.gripper = gripper
        assert leaders.command() is None
    told = r"units: the grippers were only seen at 0.012 to 0.024, 0.012 to 0.024: are these metres, where .* expects radians\?"
    assert re.fullmatch(told, leaders.sources.state), leaders.sources.state
    leaders.gripper = OPEN
    leaders.command()
    assert leaders.sources.state == "near: close the grippers to begin"


def begun(path: Path = CONFIG / "leaders.yaml") -> Leaders:
    leaders = Leaders(path)
    for gripper in (OPEN, CLOSED, OPEN):
        leaders.gripper = gripper
        leaders.command()
    assert leaders.sources.leads
    return leaders


def test_leading_ends_with_silence_distance_or_the_persons_will() -> None:
    silent = begun()
    silent.now += 0.2
    silent.say(arm=0)
    assert silent.sources.command(silent.now, POSTURE) is None
    assert silent.sources.state == f"silent: {RIGHT}"
    assert silent.command() is None, "the person begins anew"

    holding = begun()
    while holding.command() is None:
        pass
    holding.now += 0.2
    assert holding.sources.command(holding.now, POSTURE) is None
    assert holding.command() is None, "also with grippers that are closed, because they hold something"

    away = begun()
    away.q[1] += 0.6
    assert away.command() is None
    assert away.sources.state.startswith("lost: 'left_shoulder' leader -0.36, arm -0.96 rad; bring the leader back")
    away.q[1] -= 0.6
    assert away.command() is None

    let_go = begun()
    let_go.sources.let_go()
    assert let_go.command() is None


def test_beginning_where_the_arm_is(tmp_path: Path) -> None:
    leaders = Leaders(changed(tmp_path, "leaders.yaml", begin="near"))
    assert leaders.command() is not None
    leaders.sources.let_go()
    assert leaders.command() is None
    assert leaders.sources.state == "let go"
    leaders.sources.take()
    assert leaders.command() is not None


def test_a_leader_that_goes_a_little_further_than_its_follower_stands_at_the_limit() -> None:
    leaders = begun()
    top = ALOHA.limits.upper[4]
    measured = POSTURE.copy()
    measured[4] = leaders.q[4] = top
    leaders.command(measured)
    leaders.q[4] = top + 0.2
    assert leaders.command(measured)[4] == top  # type: ignore[index]


BAD: dict[str, tuple[Callable[[Leaders], object], str]] = {
    "metres for radians": (
        lambda x: x.say(gripper=2.5),
        "'gripper', which leads 'left_gripper': found 2.5, expected -0.6842 to 0.3083, .*metres where radians are due",
    ),
    "degrees": (lambda x: x.say(waist=20.0), "'waist', .* found 20, expected -3.14.* rad; are these degrees"),
    "not finite": (lambda x: x.say(elbow=math.nan), "'elbow': found nan, expected a finite number"),
    "missing": (
        lambda x: x.sources.hear(LEFT, JointState(0, ("waist",), np.zeros(1), np.zeros(0))), "found waist; 'shoulder' is missing",
    ),
    "no names": (lambda x: x.sources.hear(LEFT, JointState(0, (), np.zeros(7), np.zeros(0))), "found 7 positions for 0 names"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_named_and_does_not_move(name: str) -> None:
    say, message = BAD[name]
    leaders = begun()
    with pytest.raises(VlaRosError, match=message):
        say(leaders)
    assert leaders.sources.command(leaders.now + 0.2, POSTURE) is None, "what was good before grows old"


def test_calibration_tells_what_the_grippers_did() -> None:
    leaders = Leaders()
    for raw in (-0.5, 0.25, -0.6):
        leaders.gripper = raw
        leaders.say()
    assert leaders.sources.calibration().splitlines()[0] == (
        "/leader_left/joint_states: gripper: {joint: left_gripper, closed: [-0.6000, 0.01844], open: [0.2500, 0.058]}"
    )


def grip(joint: str, opened: list[float]) -> dict[str, object]:
    return {"topics": {"/a": {"x": {"joint": joint, "closed": [0, 0], "open": opened}}}}


FILES: dict[str, tuple[RobotContract, dict[str, object], str]] = {
    "another robot": (ALOHA, {"robot": "panda"}, "robot: found 'panda', expected 'aloha'"),
    "led by its tip": (PANDA, {"robot": "panda"}, "found tip_delta_xy, expected joint_position.*use `keyboard` or `gamepad`"),
    "missing": (ALOHA, {"topics": {"/a": {"x": "left_waist"}}}, "topics: 'left_shoulder' is missing"),
    "unknown": (ALOHA, {"topics": {"/a": {"x": "left_wrist"}}}, "topics./a.x: found 'left_wrist', expected a joint of"),
    "no gripper": (ALOHA, grip("left_waist", [1, 1]), "expected a gripper"),
    "inside out": (ALOHA, grip("left_gripper", [1, -1]), "a finger further out"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_wrong_files_are_refused(tmp_path: Path, name: str) -> None:
    contract, values, message = FILES[name]
    with pytest.raises(VlaRosError, match=message):
        JointSources(contract, changed(tmp_path, "leaders.yaml", **values))


def test_any_topic_of_joint_states() -> None:
    sources = JointSources(ALOHA, CONFIG / "joint_states.yaml")
    order = np.random.default_rng(0).permutation(14)
    names = tuple(np.array(ALOHA.joints)[order].tolist())
    sources.hear("/leader/joint_states", JointState(1.0, names, POSTURE[order], np.zeros(14)))
    command = sources.command(1.0, POSTURE)
    assert command is not None
    np.testing.assert_allclose(command.position, POSTURE)
    bad = np.where(np.array(names) == "left_gripper", 0.9, POSTURE[order])
    with pytest.raises(VlaRosError, match="'left_gripper': found 0.9, expected .* m; give it `closed` and `open`"):
        sources.hear("/leader/joint_states", JointState(2.0, names, bad, np.zeros(14)))


def test_nobody_stands_still() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    still = Nobody(PANDA).infer(image, "x", np.zeros(2, np.float32), True)
    assert still.action.tolist() == [[0.0, 0.0]]
    state = POSTURE.astype(np.float32)
    nobody = Nobody(ALOHA)
    assert np.array_equal(nobody.infer(image, "x", state, True).action, np.tile(state, (100, 1)))
    asked = (state + 0.1)[None]
    assert np.array_equal(nobody.infer(image, "x", state, True, running=asked).action, np.tile(asked, (100, 1))), (
        "on what it was told"
    )
