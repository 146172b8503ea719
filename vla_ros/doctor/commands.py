"""The way of a command: who sends it, who takes it, what limits it, and whether a stop reaches the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vla_ros.doctor.finding import Finding, failure, ok, warning
from vla_ros.doctor.observed import Observed
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.stop import StopSpec
from vla_ros.safety.limits import Limits
from vla_ros.types import SafetyMode

SAFETY_NODE, POLICY_NODE, TRAINER_NODE = "safety_node", "policy_node", "trainer_node"
CHUNK = "policy/chunk"
LATE = 0.05  # share of control periods without a command from which on the machine is too slow
ESTOP_TOPICS = ("estop_topic", "estop_hall")  # reasons of a stop that somebody holds
RESET = "`vla-ros safety reset` when the cause is cleared"


@dataclass(frozen=True)
class StopTrial:
    """An e-stop that was triggered for trial. Times are s from the request; None: it did not happen."""

    latched: float | None = None
    commanded_ms: float | None = None  # from the order to the command that obeys it, as safety_node measured it
    told: dict[str, str] = field(default_factory=dict)  # by service of the driver, what safety_node says of its answer
    reset: str = ""  # why the reset was refused; '' when done
    skipped: str = ""  # why nothing was triggered


def files_in_force(observed: Observed, asked: Sequence[str]) -> list[str]:
    """Names of the safety files: those that were asked for, else those that safety_node has; none: the robot's own."""
    if asked:
        return list(asked)
    return [name.strip() for name in str(observed.parameter(SAFETY_NODE, "safety") or "").split(",") if name.strip()]


def limits_in_force(contract: RobotContract, observed: Observed, asked: Sequence[str]) -> tuple[Limits, Finding]:
    """The limits, and whether they are the ones that safety_node applies.

    Raises:
        VlaRosError: the files that were asked for, or the robot's own, are wrong.
    """
    files = files_in_force(observed, asked)
    running = files_in_force(observed, ()) or [contract.robot]
    told = observed.parameter(SAFETY_NODE, "safety")
    try:
        limits = Limits.load(contract, *files)
    except VlaRosError as error:
        if asked:
            raise
        text = f"safety_node's files {', '.join(files)} cannot be read here: {error}"
        fix = "run the doctor where safety_node runs; here all is judged by the robot's own file"
        return Limits.load(contract), warning("limits", text, "the files in force", fix)
    names = " + ".join(files) or f"config/safety/{contract.robot}.yaml"
    found = f"{names}: tips {limits.tip_speed:g} m/s, reduced {limits.reduced_speed:g} m/s"
    if told is None:
        fix = f"start safety_node; `vla-ros param get {observed.name(SAFETY_NODE)} safety`"
        return limits, failure("limits", "safety_node does not tell its limits", names, fix)
    if asked and list(asked) != running:
        fix = f"start safety_node with safety:={','.join(asked)}"
        return limits, failure("limits", f"safety_node has {' + '.join(running)}", names, fix)
    return limits, ok("limits", found, "`vla-ros safety limits` prints all")


def check(contract: RobotContract, observed: Observed, stop: StopSpec, expected_latch: str = "") -> list[Finding]:
    """`expected_latch`: the reason of a latch that is meant to be there ('' : none is)."""
    return [
        _sender(contract, observed),
        _taker(contract, observed),
        _chunk_sender(observed),
        _version(observed),
        *_state(observed, expected_latch),
        *_services(observed, stop),
    ]


def _sender(contract: RobotContract, observed: Observed) -> Finding:
    topic, safety = observed.name(contract.control.command_topic), observed.name(SAFETY_NODE)
    senders = [endpoint.node for endpoint in observed.publishers.get(topic, ())]
    expected = f"one publisher, {safety}"
    if senders == [safety]:
        return ok("command_publisher", f"{topic}: {safety} alone", expected)
    if not senders:
        return failure("command_publisher", f"{topic}: nobody publishes", expected, "start safety_node; it sends the commands")
    others = sorted(name for name in senders if name != safety) or [safety]
    fix = f"end {', '.join(others)}, or have it publish {observed.name(CHUNK)}, so that its motions are limited, too"
    return failure("command_publisher", f"{topic}: {', '.join(sorted(senders))}", expected, fix)


def _taker(contract: RobotContract, observed: Observed) -> Finding:
    topic = observed.name(contract.control.command_topic)
    takers = sorted(e.node for e in observed.subscriptions.get(topic, ()) if "/_" not in e.node)  # `topic echo` moves nothing
    if takers:
        return ok("command_subscriber", f"{topic}: {', '.join(takers)}")
    fix = "load and activate the controller (`ros2 control list_controllers`), or remap its topic to the contract's command_topic"
    return failure("command_subscriber", f"{topic}: nobody takes commands", "the arm's controller", fix)


def _chunk_sender(observed: Observed) -> Finding:
    topic = observed.name(CHUNK)
    senders = sorted(endpoint.node for endpoint in observed.publishers.get(topic, ()))
    if len(senders) > 1:
        fix = "end all but one: two policies that take turns are none"
        return failure("chunk_publisher", f"{topic}: {', '.join(senders)}", "one publisher", fix)
    return ok("chunk_publisher", f"{topic}: {', '.join(senders) or 'nobody'}")  # an absent policy is said with the nodes


def _version(observed: Observed) -> Finding:
    topic = observed.name("policy/active")
    if observed.version > 0:
        return ok("policy_version", f"version {observed.version} runs")
    fix = "is policy_node still loading? Its output tells; `vla-ros policy list` shows the versions of the store"
    return failure("policy_version", f"{topic}: no version was told", "the version that runs", fix)


def _state(observed: Observed, expected_latch: str) -> list[Finding]:
    topic, safety = observed.name("safety/state"), observed.safety
    if safety is None:
        fix = "start safety_node, and give it joint states that it can read (above): before the first one it has no state"
        return [failure("safety_state", f"{topic}: none came", "the safety filter's state", fix)]
    held = observed.estop or safety.reason in ESTOP_TOPICS
    findings = []
    if held:
        fix = "release the e-stop there, then `vla-ros safety reset`; if its holder is gone: `vla-ros safety reset --release`"
        findings.append(failure("estop_held", "somebody holds /estop true", "released", fix))
    found = f"{safety.mode.name}{': ' if safety.reason else ''}{safety.reason}"
    if safety.mode is SafetyMode.LATCHED and safety.reason != expected_latch:
        findings.append(failure("safety_state", found, "not latched", f"{RESET}; docs/safety.md has every reason"))
    elif safety.mode is SafetyMode.BRAKE:
        fix = "the reason names the input that is missing or late; docs/safety.md has every reason"
        findings.append(failure("safety_state", found, "standing or running", fix))
    else:
        findings.append(ok("safety_state", found, f"latched: {expected_latch}" if expected_latch else "not latched"))
    if safety.ticks > 0 and safety.missed > LATE * safety.ticks:
        share = f"{safety.missed} of {safety.ticks + safety.missed} control periods passed without a command"
        fix = "grant CAP_SYS_NICE to safety_node, take load from the machine, or raise the driver's rate"
        findings.append(warning("control_loop", share, f"at most {LATE:.0%}", fix))
    return findings


def _services(observed: Observed, stop: StopSpec) -> list[Finding]:
    """Does what the contract's section `stop` calls exist?"""
    if not (wanted := stop_services(stop)):
        return [ok("driver_stop", "the contract has no section `stop`: a stop is the commands' alone")]
    absent = [observed.name(name) for name in wanted if not observed.offered.get(observed.name(name))]
    if absent:
        fix = "start controller manager or driver, or correct the contract's `stop`; until then a stop is the commands' alone"
        return [failure("driver_stop", f"not offered: {', '.join(absent)}", "every service of section `stop`", fix)]
    return [ok("driver_stop", f"offered: {', '.join(observed.name(name) for name in wanted)}")]


def stop_services(stop: StopSpec) -> list[str]:
    """Services that a latched stop calls, by the names in the contract."""
    cancel = [f"{action}/_action/cancel_goal" for action in stop.cancel]
    return [*cancel, *([stop.switch] if stop.switch else []), *(group.service for group in stop.torque)]


def stop_findings(trial: StopTrial, stop: StopSpec, limits: Limits) -> list[Finding]:
    """How the e-stop was answered: by the filter, by the driver, and by the reset."""
    expected = f"latched within {limits.state_silence * 1e3:g} ms (state_silence)"
    if trial.skipped:
        return [failure("estop", f"not tried: {trial.skipped}", expected, "stop the task and reset, then try again")]
    if trial.latched is None:
        return [failure("estop", "no latch was seen", expected, "use the hardware e-stop; nothing may move before this works")]
    if trial.commanded_ms is None:
        return [failure("estop", "latched, but no command that obeys it was reported", expected, "is the control loop alive?")]
    text = f"obeyed by a command after {trial.commanded_ms:.1f} ms, seen here after {trial.latched * 1e3:.0f} ms"
    late = trial.commanded_ms > limits.state_silence * 1e3
    fix = "grant CAP_SYS_NICE to safety_node and take load from the machine"
    findings = [failure("estop", text, expected, fix) if late else ok("estop", text, expected)]
    for service in stop_services(stop):
        answer, limit = trial.told.get(service, "no answer was reported"), f"acknowledged within {stop.timeout * 1e3:g} ms"
        if answer.startswith("acknowledged"):
            findings.append(ok(f"driver_answer:{service}", answer, limit))
        else:
            fix = "is that service's node alive? /diagnostics of safety_node repeats it with every stop"
            findings.append(failure(f"driver_answer:{service}", answer, limit, fix))
    if trial.reset:
        findings.append(failure("estop_reset", f"refused: {trial.reset}", "reset", RESET))
    return findings
