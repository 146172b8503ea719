"""The doctor's judgement without a graph: machine, units, QoS, the e-stop's answers, the dry run, and the guide of the phases."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros.cli import __main__ as cli
from vla_ros.cli.doctor import words
from vla_ros.doctor import acting, commands, endpoints, host, joints
from vla_ros.doctor.finding import Finding, Level, failure, failures, ok
from vla_ros.doctor.host import Gpu, Host
from vla_ros.doctor.observed import Endpoint, Joints, Observed, Timing
from vla_ros.doctor.phases import Phase, guide
from vla_ros.embedded.config import WANTED_BUFFER
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec
from vla_ros.safety.limits import Limits
from vla_ros.types import ActionChunk, JointState, SafetyMode

PANDA, ALOHA = RobotContract.load("panda"), RobotContract.load("aloha")
LIMITS = Limits.load(PANDA)
STOP = StopSpec.load(PANDA)
SOUND = Host(Path("runs"), 10**12, WANTED_BUFFER)


def wrong(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {each.check: each for each in findings if each.level is not Level.OK}


# -- the machine ---------------------------------------------------------------------------------------------------


def test_a_sound_machine_has_nothing_to_report() -> None:
    assert wrong(host.check(SOUND)) == {}


@pytest.mark.parametrize(
    ("changes", "check", "level", "found", "fix"),
    [
        ({"free": 4 * 10**8}, "disk", Level.FAILURE, "0.4 GB free at runs", "keep_episodes"),
        ({"free": 2 * 10**9}, "disk", Level.WARNING, "2.0 GB free at runs", "episodes:=DIR"),
        ({"receive_buffer": 212992}, "dds_buffer", Level.WARNING, "212992 B", "sysctl -w net.core.rmem_max=4194304"),
        (
            {"environment": {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}}, "dds_settings", Level.FAILURE, "range OFF",
            "set it to SUBNET",
        ),
        ({"environment": {"ROS_DOMAIN_ID": "many"}}, "dds_settings", Level.FAILURE, "found 'many'", "correct the variable"),
        (
            {"environment": {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}}, "dds_settings", Level.WARNING, "rmw_fastrtps_cpp",
            "RMW_IMPLEMENTATION=rmw_cyclonedds_cpp",
        ),
        (
            {"device": "cuda", "gpu": Gpu(problem="torch finds no CUDA device")}, "gpu", Level.FAILURE, "no CUDA device",
            "nvidia-smi",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_machine(changes: dict[str, object], check: str, level: Level, found: str, fix: str) -> None:
    ((name, finding),) = wrong(host.check(dataclasses.replace(SOUND, **changes))).items()  # type: ignore[arg-type]
    assert (name, finding.level) == (check, level)
    assert found in finding.found
    assert fix in finding.fix


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    machine = host.read(tmp_path, "cpu", ros2=False)
    assert machine.free > 0
    assert machine.gpu is None


# -- joint states --------------------------------------------------------------------------------------------------


def looked_at(contract: RobotContract, position: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, Finding]:
    state = JointState(1000.0, names or contract.joints, position, np.zeros(len(position)))
    times = 1000.0 + np.arange(20) / contract.control.rate
    observed = Observed(seconds=1.0, joints=Joints(Timing(times, times, np.zeros(20)), (state,) * 20))
    return wrong(joints.check(contract, Limits.load(contract), observed))


def test_home_is_sound() -> None:
    assert looked_at(PANDA, np.array(PANDA.posture)) == {}
    assert looked_at(ALOHA, np.array(ALOHA.posture)) == {}


def test_a_gripper_in_metres_where_radians_are_due(tmp_path: Path) -> None:
    """A gripper whose joint is the motor's angle, which the URDF says; the driver tells the finger's travel."""
    urdf = ALOHA.urdf.read_text()
    motor = r'(<joint name="left_gripper" type=")prismatic(".*?<limit lower=")0.021(" upper=")0.057(")'
    urdf, changed = re.subn(motor, r"\1revolute\g<2>0.3\g<3>1.6\4", urdf, flags=re.DOTALL)
    assert changed == 1
    (tmp_path / "aloha.urdf").write_text(urdf)
    posture = [*ALOHA.posture]
    posture[6] = 0.9
    content = {**yaml.safe_load(ALOHA.path.read_text()), "urdf": str(tmp_path / "aloha.urdf"), "posture": posture}
    (tmp_path / "motor.yaml").write_text(yaml.safe_dump(content))
    contract = RobotContract.load(tmp_path / "motor.yaml")
    bounds = contract.limits
    assert not bounds.prismatic[6]
    state = JointState(1000.0, contract.joints, np.array(ALOHA.posture), np.zeros(14))
    observed = Observed(seconds=1.0, joints=Joints(Timing(*np.full((3, 20), 1000.0)), (state,) * 20))
    found = wrong(joints.check(contract, Limits.load(ALOHA), observed))["joint_value:left_gripper"]
    assert found.level is Level.FAILURE
    assert found.found == "/joint_states: left_gripper at 0.024"
    assert found.expected == "0.3 .. 1.6 rad (aloha.urdf)"
    assert found.fix.startswith("these are metres where radians are due")


@pytest.mark.parametrize(
    ("value", "fix"), [(0.9, "radians of the gripper's motor"), (40.0, "these are millimetres"), (-0.01, "radians of the")]
)
def test_a_gripper_in_anything_but_metres(value: float, fix: str) -> None:
    position = np.array(ALOHA.posture)
    position[13] = value
    found = looked_at(ALOHA, position)
    assert tuple(found) == ("joint_value:right_gripper",)
    assert fix in found["joint_value:right_gripper"].fix


def test_an_arm_out_of_calibration_and_one_that_says_nan() -> None:
    position = np.array(PANDA.posture)
    position[3] = 0.4
    assert "calibrate the joint's zero" in looked_at(PANDA, position)["joint_value:panda_joint4"].fix
    position[3] = np.nan
    assert "not finite in 20 of 20" in looked_at(PANDA, position)["joint_value:panda_joint4"].found


def test_joints_with_others_between_them_are_in_order() -> None:
    names = ("finger", *PANDA.joints)
    assert looked_at(PANDA, np.array([0.0, *PANDA.posture]), names) == {}


# -- endpoints and limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("publisher", "subscription", "words_"),
    [
        ({}, {}, []),
        ({"reliable": False}, {}, ["reliability: best effort offered"]),
        ({}, {"reliable": False}, []),
        ({}, {"kept": True}, ["durability: volatile offered"]),
        ({"deadline": 0.05}, {"deadline": 0.1}, []),
        ({}, {"deadline": 0.1}, ["deadline: inf s offered, 0.1 s asked for"]),
        ({"lease": 2.0}, {"lease": 1.0}, ["liveliness lease: 2 s offered"]),
        ({}, {"manual": True}, ["liveliness: automatic offered"]),
    ],
)
def test_qos(publisher: dict[str, object], subscription: dict[str, object], words_: list[str]) -> None:
    found = endpoints.mismatch(Endpoint("/a", "x", **publisher), Endpoint("/b", "x", **subscription))  # type: ignore[arg-type]
    assert len(found) == len(words_)
    assert all(text.startswith(start) for text, start in zip(found, words_, strict=True))


def test_expected_nodes_are_the_launch_files() -> None:
    assert set(endpoints.NEEDED) < set(endpoints.expected_nodes())


def test_limits_that_cannot_be_read_here_are_said_so(tmp_path: Path) -> None:
    told = {"/safety_node": {"safety": f"{tmp_path}/cell.yaml"}}
    limits, finding = commands.limits_in_force(PANDA, Observed(parameters=told), ())
    assert limits == LIMITS
    assert finding.level is Level.WARNING
    assert "cell.yaml" in finding.found
    with pytest.raises(VlaRosError, match=r"cell\.yaml"):
        commands.limits_in_force(PANDA, Observed(parameters=told), [f"{tmp_path}/cell.yaml"])
    _, same = commands.limits_in_force(PANDA, Observed(parameters={"/safety_node": {"safety": ""}}), ["panda"])
    assert same.level is Level.OK, "the robot's own file is the default"


# -- the e-stop ----------------------------------------------------------------------------------------------------


def test_answers_to_the_estop() -> None:
    cancel, switch = commands.stop_services(STOP)
    told = {cancel: "acknowledged in 1.5 ms", switch: "not acknowledged: no answer within 0.5 s"}
    findings = commands.stop_findings(commands.StopTrial(0.02, 4.2, told), STOP, LIMITS)
    assert "obeyed by a command after 4.2 ms, seen here after 20 ms" in findings[0].found
    assert tuple(wrong(findings)) == (f"driver_answer:{switch}",)
    prompt = dict.fromkeys((cancel, switch), "acknowledged in 1 ms")
    late = commands.stop_findings(commands.StopTrial(0.2, 150.0, prompt), STOP, LIMITS)
    assert tuple(wrong(late)) == ("estop",)
    assert late[0].expected == "latched within 100 ms (state_silence)"
    for trial in (commands.StopTrial(), commands.StopTrial(0.1), commands.StopTrial(skipped="mode RUN")):
        assert tuple(wrong(commands.stop_findings(trial, STOP, LIMITS))) == ("estop",)
    refused = commands.stop_findings(commands.StopTrial(0.02, 4.0, reset="cause persists"), StopSpec(), LIMITS)
    assert tuple(wrong(refused)) == ("estop_reset",)


# -- the phases ----------------------------------------------------------------------------------------------------

HOME = np.array(PANDA.posture)
STATE = JointState(100.0, PANDA.joints, HOME, np.zeros(7))


def latched(command: np.ndarray = HOME, mode: SafetyMode = SafetyMode.LATCHED) -> acting.Moment:
    return acting.Moment(mode, "estop_service", command, 0.0)


def asked(rows: np.ndarray, period: float = 0.1) -> acting.Asked:
    return acting.Asked(ActionChunk(100.1, period, PANDA.joints, rows, observation_stamp=100.0), STATE)


def test_the_dry_run_tells_what_would_have_been_asked() -> None:
    near = HOME + np.array([[0.02, 0, 0, 0, 0, 0, 0], [0.04, 0, 0, 0, 0, 0, 0]])
    findings = acting.dry_run(PANDA, (), [latched()] * 3, [asked(near)] * 2)
    assert wrong(findings) == {}
    texts = {each.check: each.found for each in findings}
    assert texts["dry_chunks"] == "2 of 2 chunks would have been taken"
    assert texts["dry_asked"].startswith("up to 0.040 rad from where the arm stands (panda_joint1), from row to row up to 0.200")
    degrees = acting.dry_run(PANDA, (), [latched()], [asked(np.degrees(near))])
    assert tuple(wrong(degrees)) == ("dry_chunks", "dry_asked")
    assert "refused: position_limit:panda_joint2 (1)" in degrees[1].found


def test_a_dry_run_that_was_none() -> None:
    loose = acting.dry_run(PANDA, (), [latched(), latched(mode=SafetyMode.RUN)], [])
    assert [each.check for each in failures(loose)] == ["dry_still", "dry_chunks"]
    assert "released: RUN" in loose[0].found
    moved = acting.dry_run(PANDA, (), [latched(), latched(HOME + 1e-3)], [asked(HOME[None] + 0.01)])
    assert tuple(wrong(moved)) == ("dry_still",)


def test_motion_is_judged_by_latch_motion_and_speed() -> None:
    run = acting.Moment(SafetyMode.RUN, "", HOME, 0.2, ("velocity:panda_joint2",))
    assert wrong(acting.moved([run] * 3, 0.25, "reduced_speed")) == {}
    assert tuple(wrong(acting.moved([run] * 3, 0.1, "reduced_speed"))) == ("tip_speed",)
    assert "latched: estop_service" in wrong(acting.moved([run, latched()], 0.25, "reduced_speed"))["motion"].found
    held = acting.Moment(SafetyMode.HELD, "no_chunk", HOME, 0.0)
    assert "never ran: HELD no_chunk" in wrong(acting.moved([held], 0.25, "reduced_speed"))["motion"].found


class PaperCell:
    """Writes down what the guide does. `fails`: the step ("watch full speed") that goes wrong, `how` as."""

    def __init__(self, fails: str = "", how: type[BaseException] | None = None) -> None:
        self.done: list[str] = []
        self.fails, self.how = fails, how

    def _step(self, name: str) -> list[Finding]:
        self.done.append(name)
        if name == self.fails:
            if self.how is not None:
                raise self.how("it broke")
            return [failure("broken", "", "", "")]
        return [ok("well", "")]

    def examine(self, phase: Phase | None) -> list[Finding]:
        return self._step(f"examine {phase.value if phase else 'nothing'}")

    def enter(self, phase: Phase) -> list[Finding]:
        return self._step(f"enter {phase.value}")

    def watch(self, phase: Phase) -> list[Finding]:
        return self._step(f"watch {phase.value}")

    def retreat(self, phase: Phase) -> None:
        self._step(f"retreat {phase.value}")


STEPS = [
    "examine nothing", "enter dry run", "watch dry run", "examine dry run", "enter reduced speed", "watch reduced speed",
    "examine reduced speed", "enter full speed", "watch full speed", "examine full speed",
]  # fmt: skip


def guided(cell: PaperCell, yes: int = 9) -> tuple[bool, str]:
    answers = iter([True] * yes + [False] * 9)
    said: list[str] = []
    good = guide(cell, lambda _: next(answers), lambda headline, findings=(), brief=False: said.append(headline))
    return good, said[-1]


def test_all_phases() -> None:
    cell = PaperCell()
    assert guided(cell) == (True, "all phases went well; the cell stands, at full speed")
    assert cell.done == STEPS


@pytest.mark.parametrize(
    ("step", "back"),
    [
        ("examine nothing", ""), ("enter dry run", "dry run"), ("watch dry run", "dry run"), ("examine dry run", "dry run"),
        ("enter reduced speed", "dry run"), ("watch reduced speed", "dry run"), ("examine reduced speed", "dry run"),
        ("enter full speed", "reduced speed"), ("watch full speed", "reduced speed"), ("examine full speed", "reduced speed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", [None, VlaRosError, KeyboardInterrupt])
def test_a_failure_leads_one_phase_back(step: str, back: str, how: type[BaseException] | None) -> None:
    cell = PaperCell(step, how)
    if how is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            guided(cell)
    else:
        assert not guided(cell)[0]
    until = STEPS[: STEPS.index(step) + 1]
    assert cell.done == until + ([f"retreat {back}"] if back else [])


def test_a_fault_or_a_no_means_no_motion() -> None:
    """What the doctor finds before the first phase keeps everything as it is; so does an operator who declines."""
    cell = PaperCell("examine nothing")
    assert guided(cell)[1] == "nothing was changed; mend what failed and call again"
    declined = PaperCell()
    good, last = guided(declined, yes=1)
    assert not good
    assert last.startswith("declined; the cell is latched; `vla-ros safety reset` goes on")
    assert declined.done[-1] == "examine dry run"


def test_a_retreat_that_fails_calls_for_the_hardware() -> None:
    class Worse(PaperCell):
        def retreat(self, phase: Phase) -> None:
            raise VlaRosError("no answer")

    assert "USE THE HARDWARE E-STOP: going back from full speed failed: no answer" in guided(Worse("watch full speed"))[1]


# -- the command's words -------------------------------------------------------------------------------------------


def test_words() -> None:
    given = words.parse(["phases", "robot:=aloha", "namespace:=/a/", "safety:=aloha, cell.yaml", "instruction:=stack it"])
    assert (given.contract, given.namespace, given.safety) == (ALOHA, "/a", ("aloha", "cell.yaml"))
    assert (given.phases, given.instruction) == (True, "stack it")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["robot:=pnada"], "unknown robot 'pnada'"),
        (["robt:=panda"], "unknown argument 'robt'; did you mean 'robot'?"),
        (["namespace:=a"], "robot:= is missing, expected one of aloha, fr3, panda"),
        (["robot:=panda", "phases"], "found 'phases', expected NAME:=VALUE"),
        (["robot:=panda", "instruction:=go"], "instruction:= is of the phases"),
        (["robot:=panda", "--yes"], "--yes is of the phases"),
        (["robot:=panda", "--seconds", "0"], "--seconds is 0, expected 0.2 to 600"),
        (["phases", "robot:=panda", "--json"], "the phases have no --json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
