"""Cameras and the observation that camera_node makes of them, against the contract."""

from __future__ import annotations

from vla_ros.doctor import timing
from vla_ros.doctor.finding import Finding, Level, failure, ok, warning
from vla_ros.doctor.observed import CameraSeen, Observed
from vla_ros.robots.contract import Camera, RobotContract

CAMERA_NODE = "camera_node"


def check(contract: RobotContract, observed: Observed) -> list[Finding]:
    """Each camera of the contract, those that the policy sees first; then /observation."""
    seen = [*contract.observation.cameras, *(c for c in contract.cameras if c not in contract.observation.cameras)]
    findings = [each for name in seen for each in _camera(contract, name, observed)]
    return [*findings, *_observation(contract, observed)]


def _camera(contract: RobotContract, name: str, observed: Observed) -> list[Finding]:
    wanted, seen = contract.cameras[name], observed.cameras.get(name, CameraSeen())
    topic = observed.name(wanted.topic)
    used = name in contract.observation.cameras
    present = sorted(endpoint.node for endpoint in observed.publishers.get(topic, ()))
    if not len(seen.timing):
        who = f"published by {', '.join(present)}, but none came" if present else "nobody publishes it"
        fix = "start its driver, look at its cable, or remap its topic to the contract's; or give camera_node `devices`"
        level, use = (Level.FAILURE, "the policy sees it") if used else (Level.WARNING, "in the contract, but no policy sees it")
        return [Finding(f"camera:{name}", level, f"{topic}: {who}", f"sensor_msgs/Image; {use}", fix)]
    if len(present) > 1:
        fix = "end all but one: their pictures would take turns"
        findings = [failure(f"camera:{name}", f"{topic}: {', '.join(present)}", "one publisher", fix)]
    else:
        findings = [ok(f"camera:{name}", f"{topic}: {seen.width} x {seen.height} px, {len(seen.timing)} pictures")]
    if used:
        spec = contract.observation
        slow = "raise the camera's rate, or lower exposure, resolution or the load of the USB bus"
        findings += [
            timing.rate(f"camera_rate:{name}", topic, seen.timing, observed, spec.rate, slow),
            timing.stamps(f"camera_stamps:{name}", topic, seen.timing, observed, spec.max_age, "the contract's max_age"),
        ]
    findings.append(_picture(contract, name, topic, seen))
    findings.append(_frame(contract, name, topic, seen))
    findings.append(_info(contract, name, wanted, seen, observed))
    return findings


def _picture(contract: RobotContract, name: str, topic: str, seen: CameraSeen) -> Finding:
    check, (height, width) = f"camera_picture:{name}", contract.observation.size
    if seen.problem:
        fix = "set the driver's encoding (usb_cam: pixel_format; realsense2: rgb8), or convert it with image_proc"
        return failure(check, f"{topic}: {seen.problem}", "a picture that camera_node can read", fix)
    if seen.height < height or seen.width < width:
        expected = f"at least {width} x {height} px ({contract.path.name}: observation.size)"
        fix = "raise the driver's resolution: the picture is enlarged for the policy, which shows it nothing more"
        return warning(check, f"{topic}: {seen.width} x {seen.height} px", expected, fix)
    return ok(check, f"{seen.width} x {seen.height} px", f"at least {width} x {height} px")


def _frame(contract: RobotContract, name: str, topic: str, seen: CameraSeen) -> Finding:
    check, frame = f"camera_frame:{name}", contract.cameras[name].frame
    if seen.frame == frame:
        return ok(check, frame)
    fix = f"set the driver's frame_id (usb_cam: frame_id), or `frame` of camera {name} in {contract.path.name}"
    return failure(check, f"{topic}: frame_id '{seen.frame}'", f"'{frame}'", fix)


def _info(contract: RobotContract, name: str, wanted: Camera, seen: CameraSeen, observed: Observed) -> Finding:
    check, topic, info = f"camera_info:{name}", observed.name(wanted.info), seen.info
    expected = f"sensor_msgs/CameraInfo, frame '{wanted.frame}', {seen.width} x {seen.height} px, K with focal lengths"
    if info is None:
        own = observed.name(CAMERA_NODE) in [e.node for e in observed.publishers.get(observed.name(wanted.topic), ())]
        if own:  # it reads the device itself and has no calibration to tell; policies take pixels
            fix = "policies need none, they take pixels; for a calibrated camera run its own driver in place of `devices`"
            return warning(check, f"{topic}: none, camera_node reads the device itself", expected, fix)
        fix = f"calibrate the camera (camera_calibration) and give its driver the file (camera_info_url); topic {topic}"
        return failure(check, f"{topic}: none", expected, fix)
    wrong, fixes = [], []
    if info.frame != wanted.frame:
        wrong.append(f"frame_id '{info.frame}'")
        fixes.append("set the driver's frame_id")
    if (info.width, info.height) != (seen.width, seen.height):
        wrong.append(f"{info.width} x {info.height} px for pictures of {seen.width} x {seen.height}")
        fixes.append("calibrate at the resolution that the driver publishes")
    if not min(info.focal) > 0.0:
        wrong.append(f"focal lengths {info.focal[0]:g}, {info.focal[1]:g} px")
        fixes.append("the camera is not calibrated: run camera_calibration and give the driver the file (camera_info_url)")
    if wrong:
        return failure(check, f"{topic}: {'; '.join(wrong)}", expected, "; ".join(fixes))
    return ok(check, f"focal length {info.focal[0]:.0f} px", expected)


def _observation(contract: RobotContract, observed: Observed) -> list[Finding]:
    """What camera_node makes of all this; why it does not, its own diagnostics tell."""
    topic, spec = observed.name("observation"), contract.observation
    if observed.name(CAMERA_NODE) not in observed.nodes:
        return []  # said once, with the nodes
    told = observed.status.get("camera")
    why = f"; camera_node says: {told.message}" if told is not None and told.level else ""
    fix = f"see cameras and joint states above{why}"
    return [timing.rate("observation_rate", topic, observed.observation, observed, spec.rate, fix)]
