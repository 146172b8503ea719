"""The MuJoCo model of a bimanual cell: both arms with fingers that grip, a table, the tasks' objects, cameras.

The arms meet each other and the table as the safety filter sees them, as capsules (arena.py). Those enclose the fingers and
would push away what these are to grip, so objects meet what is seen of the arms instead. The second finger, fixed in the URDF,
slides here as the rack makes it, with an effort of its own as in Interbotix's description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.arena import prepare
from vla_ros.sim.model import TABLE_RGBA, add_light, look, set_pictures
from vla_ros.sim.robot_cell import MIRROR

TIMESTEP = 0.0025  # s; gripped objects slip out at 5 ms
ARM, OBJECT, SHELL = 1, 2, 4  # collision classes: arms meet arms and table, objects meet all but the capsules
TABLE_SIZE = (0.61, 0.37)  # m, half of its edges: the URDF's
PAD = (1.0, 0.01, 0.001)  # friction of the rubber on the fingers: sliding, torsional [m], rolling [m]
WOOD = (0.5, 0.005, 0.0001)
DEPTH = 0.03  # m, of the peg in the socket at which it is inserted
PIN, HOLE = 0.008, 0.015  # m, half of the edges of the peg's pin and of the socket's hole
HIGH = 0.03  # m, half the height of all objects: the safety filter's distance to the table leaves no room to grip much lower ones


@dataclass(frozen=True)
class Part:
    """A box of an object, m, in its frame; x is the object's long axis."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    rgba: tuple[float, float, float, float]


def _tube(x: float, length: float, inner: float, outer: float, rgba: tuple[float, float, float, float]) -> tuple[Part, ...]:
    wall, middle = (outer - inner) / 2, (outer + inner) / 2
    return (
        *(Part((x, side * middle, 0), (length / 2, wall, outer), rgba) for side in (-1, 1)),
        *(Part((x, 0, side * middle), (length / 2, inner, wall), rgba) for side in (-1, 1)),
    )


RED, BLUE = (0.85, 0.12, 0.10, 1.0), (0.12, 0.30, 0.85, 1.0)
PARTS = {
    # Both ends alike but for the colour, which tells them apart as the arms do.
    "bar": (Part((-0.025, 0, 0), (0.025, 0.015, HIGH), BLUE), Part((0.025, 0, 0), (0.025, 0.015, HIGH), RED)),
    "peg": (Part((0.03, 0, 0), (0.02, 0.015, HIGH), RED), Part((-0.02, 0, 0), (0.03, PIN, PIN), RED)),
    "socket": (Part((-0.03, 0, 0), (0.02, 0.015, HIGH), BLUE), *_tube(0.02, 0.06, HOLE, HIGH, BLUE)),
}
MASS = {"bar": 0.06, "peg": 0.03, "socket": 0.04}  # kg
GRASP = {"bar": {"left": -0.03, "right": 0.03}, "peg": {"right": 0.035}, "socket": {"left": -0.035}}  # m along x
PEG_TIP, SOCKET_SEAT = -0.05, 0.05 - DEPTH  # m along x: the pin's end, and where it is inserted
PARKED = (0.0, 0.0, -1.5)  # m, under the floor; objects that a task does not need float there


def parked(k: int) -> tuple[float, float, float]:
    """m, of the k-th of PARTS."""
    return PARKED[0] + 0.3 * k, PARKED[1], PARKED[2]


def build(contract: RobotContract) -> mujoco.MjSpec:
    """The whole cell, to be compiled; servos without gains. Cylinders that are only seen become capsules, too."""
    spec = mujoco.MjSpec.from_file(str(contract.urdf))
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10  # friction as stiff as the normal force: else what is gripped creeps out
    set_pictures(spec)
    _add_fingers(spec, contract)
    for body in spec.bodies[1:]:
        for geom in body.geoms:
            capsule = geom.contype != 0
            geom.group = 3 if capsule else 1
            geom.contype, geom.conaffinity = (ARM, ARM) if capsule else (SHELL, 0)
            if "finger" in body.name:
                geom.friction, geom.condim = PAD, 4
    _add_table(spec)
    prepare(spec, contract)
    for name in (*contract.joints, *(f"{gripper}{MIRROR}" for gripper in contract.grippers)):
        spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT).set_to_position(kp=1.0, kv=0.0)
    for k, name in enumerate(PARTS):
        _add_object(spec, name, k)
    _add_cameras(spec, contract)
    return spec


def _add_fingers(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    for name in contract.grippers:
        side, own = name.partition("_")[0], spec.joint(name)
        finger = spec.body(f"{side}_right_finger_link")
        finger.pos = [0, 0, 0]
        finger.add_joint(
            name=f"{name}{MIRROR}", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, -1, 0], range=own.range, limited=True,
            actfrcrange=own.actfrcrange, actfrclimited=True, damping=own.damping,
        )  # fmt: skip
        equal = spec.add_equality(name=f"{name}_rack", type=mujoco.mjtEq.mjEQ_JOINT, name1=f"{name}{MIRROR}", name2=name)
        equal.objtype = mujoco.mjtObj.mjOBJ_JOINT
        equal.data[:2] = [0, 1]


def _add_table(spec: mujoco.MjSpec) -> None:
    world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
    for geom in list(world.geoms):
        spec.delete(geom)  # the URDF's picture of it
    decor = {"contype": 0, "conaffinity": 0, "group": 1}
    world.add_geom(
        name="table", type=box, size=[*TABLE_SIZE, 0.05], pos=[0, 0, -0.05], contype=0, conaffinity=ARM | OBJECT, friction=WOOD,
        rgba=TABLE_RGBA, group=1,
    )  # fmt: skip
    world.add_geom(
        name="floor", type=box, size=[3, 3, 0.02], pos=[0, 0, -0.72], contype=0, conaffinity=OBJECT, rgba=[0.36, 0.38, 0.41, 1],
        group=1,
    )  # fmt: skip
    world.add_geom(type=box, size=[3, 0.02, 1.8], pos=[0, 1.7, 1.0], rgba=[0.62, 0.65, 0.69, 1], **decor)
    for x in (-0.5, 0.5):
        world.add_geom(type=box, size=[0.03, 0.3, 0.3], pos=[x, 0, -0.4], rgba=[0.22, 0.23, 0.25, 1], **decor)
    add_light(spec)


def _add_object(spec: mujoco.MjSpec, name: str, k: int) -> None:
    body = spec.worldbody.add_body(name=name, pos=parked(k))
    body.add_freejoint(name=name)
    volume = sum(8 * math.prod(part.half) for part in PARTS[name])
    for part in PARTS[name]:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, pos=part.centre, size=part.half, rgba=part.rgba, contype=OBJECT,
            conaffinity=OBJECT | SHELL, friction=WOOD, condim=4, density=MASS[name] / volume, group=1,
        )  # fmt: skip


def _add_cameras(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    """Placed as ALOHA's: above and in front of the table, at its edge, and on both wrists."""
    for name, eye, at, fovy in (
        ("cam_high", (0.0, -0.33, 0.95), (0.0, -0.02, 0.10), 28),
        ("cam_low", (0.0, -0.62, 0.16), (0.03, 0.0, 0.13), 48),
        ("overview", (0.75, -1.0, 0.75), (0.0, 0.0, 0.13), 42),
    ):
        place, target = np.array(eye), np.array(at)
        spec.worldbody.add_camera(name=name, pos=place, quat=look(place, target), fovy=fovy)
    eye_in_hand, fingertips = np.array([0.05, 0.0, 0.105]), np.array([0.16, 0.0, 0.0])
    for tip in contract.tips:
        side = tip.partition("_")[0]
        hand = spec.body(f"{side}_gripper_link")
        hand.add_camera(name=f"cam_{side}_wrist", pos=eye_in_hand, quat=look(eye_in_hand, fingertips), fovy=60)
