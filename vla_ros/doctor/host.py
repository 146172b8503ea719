"""The machine that the doctor runs on: disk, DDS settings, GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vla_ros.doctor.finding import Finding, failure, ok, warning
from vla_ros.embedded import config
from vla_ros.errors import VlaRosError

GB = 1e9
DISK_FAILURE, DISK_WARNING = 1 * GB, 5 * GB  # B free; a full disk ends a recording, and with it the episode
RMEM = Path("/proc/sys/net/core/rmem_max")
VARIABLES = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS", "CYCLONEDDS_URI", "RMW_IMPLEMENTATION")


@dataclass(frozen=True)
class Gpu:
    """What torch says."""

    name: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Host:
    """Facts of this machine.

    Attributes:
        free: B on the disk of `folder`.
        receive_buffer: B, the largest that a socket may ask for; None where the system does not tell.
        device: what the policy is to run on here, as torch names it.
        gpu: None where no GPU was asked for.
        ros2: real ROS 2 and not the embedded runtime.
    """

    folder: Path
    free: int
    receive_buffer: int | None
    environment: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    gpu: Gpu | None = None
    ros2: bool = False


def read(folder: Path, device: str, ros2: bool) -> Host:
    """Looks at this machine.

    Args:
        folder: where episodes are recorded.
        device: cpu, cuda, cuda:1, auto.
    """
    buffer = int(RMEM.read_text()) if RMEM.exists() else None
    environment = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    gpu = None if device == "cpu" else _gpu(device)
    return Host(folder, shutil.disk_usage(folder).free, buffer, environment, device, gpu, ros2)


def _gpu(device: str) -> Gpu:
    import torch  # seconds; only where a GPU was asked for

    if not torch.cuda.is_available():
        return Gpu(problem="torch finds no CUDA device")
    try:
        place = torch.device("cuda" if device == "auto" else device)
        return Gpu(name=torch.cuda.get_device_name(place))
    except (RuntimeError, AssertionError, ValueError) as error:
        return Gpu(problem=str(error).splitlines()[0])


def domain(host: Host) -> str:
    """How a person names the graph that was looked at."""
    return f"domain {host.environment.get('ROS_DOMAIN_ID', '0')} (ROS_DOMAIN_ID)"


def check(host: Host) -> list[Finding]:
    """Disk, DDS, GPU."""
    return [_disk(host), _buffer(host), _settings(host), _gpu_finding(host)]


def _disk(host: Host) -> Finding:
    found, expected = f"{host.free / GB:.1f} GB free at {host.folder}", f"at least {DISK_WARNING / GB:g} GB for recordings"
    if host.free >= DISK_WARNING:
        return ok("disk", found, expected)
    fix = "move or delete recordings, set `keep_episodes` of trainer_node, or record to another disk (episodes:=DIR)"
    return (failure if host.free < DISK_FAILURE else warning)("disk", found, expected, fix)


def _buffer(host: Host) -> Finding:
    wanted = config.WANTED_BUFFER
    expected = f"at least {wanted} B (net.core.rmem_max)"
    if host.receive_buffer is None:
        return ok("dds_buffer", "this system does not tell", expected)
    found = f"sockets may buffer {host.receive_buffer} B"
    if host.receive_buffer >= wanted:
        return ok("dds_buffer", found, expected)
    fix = f"sudo sysctl -w net.core.rmem_max={wanted} (and in /etc/sysctl.d), or pictures get lost when the machine is busy"
    return warning("dds_buffer", found, expected, fix)


def _settings(host: Host) -> Finding:
    check, expected = "dds_settings", "a domain and a discovery range that the robot's machines share"
    implementation = host.environment.get("RMW_IMPLEMENTATION", "")
    try:
        settings = config.from_environment(dict(host.environment))
    except VlaRosError as error:
        return failure(check, str(error), expected, "correct the variable; it must be the same on all machines")
    shown = [f"domain {settings.domain}", f"range {settings.range}"]
    shown += [f"peers {' '.join(settings.peers)}"] if settings.peers else []
    shown += [f"{key}={host.environment[key]}" for key in ("CYCLONEDDS_URI", "RMW_IMPLEMENTATION") if key in host.environment]
    found = ", ".join(shown)
    if settings.range == "OFF":
        fix = "unset ROS_AUTOMATIC_DISCOVERY_RANGE, or set it to SUBNET (LOCALHOST if all runs on this machine)"
        return failure(check, found, expected, fix)
    if not host.ros2 and "fastrtps" in implementation:
        fix = "set RMW_IMPLEMENTATION=rmw_cyclonedds_cpp on all machines: services (e-stop, reset) of Fast DDS do not answer here"
        return warning(check, found, "rmw_cyclonedds_cpp", fix)
    return ok(check, found, expected)


def _gpu_finding(host: Host) -> Finding:
    if host.gpu is None:
        return ok("gpu", "none asked for; device:=cuda does")
    expected = f"device {host.device} for the policy"
    if host.gpu.problem:
        fix = "check the driver (`nvidia-smi`) and that torch is a CUDA build, or run policy_node with device:=cpu"
        return failure("gpu", host.gpu.problem, expected, fix)
    return ok("gpu", host.gpu.name, expected)
