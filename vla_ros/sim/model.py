"""The MuJoCo model of a cell: the robot's URDF, a table, a pool of blocks, cameras."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from vla_ros.robots.contract import RobotContract
from vla_ros.sim.tasks import SHAPES, Tasks

TIMESTEP = 0.005  # s, the control tick; pushes and tracking are the same at 1.25 ms, at 2.6 times the cost
LARGEST_PICTURE = (960, 1280)  # px, height and width
SLOTS = 4
HEIGHT = 0.05  # m, of every block
MASS = 0.1  # kg
ELEVATION = math.radians(56)  # of the front camera: low enough that the gripper hides no block that the rod touches
PARKED = (-0.6, 0.9)
ARM, BLOCK = 1, 2  # collision classes: the arm meets table and blocks, blocks meet everything
STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # N m/rad
LAG = 0.03  # s, damping over stiffness: how far the joints trail the command
TABLE_RGBA = (0.80, 0.78, 0.74, 1.0)
PARTS = {  # per shape: (geom type, half sizes, yaw)
    "cube": ((mujoco.mjtGeom.mjGEOM_BOX, (0.028, 0.028, HEIGHT / 2), 0.0),),
    "cylinder": ((mujoco.mjtGeom.mjGEOM_CYLINDER, (0.031, HEIGHT / 2, 0.0), 0.0),),
    "cross": (
        (mujoco.mjtGeom.mjGEOM_BOX, (0.037, 0.0125, HEIGHT / 2), 0.0),
        (mujoco.mjtGeom.mjGEOM_BOX, (0.037, 0.0125, HEIGHT / 2), math.pi / 2),
    ),
}
REACH = {"cube": 0.034, "cylinder": 0.031, "cross": 0.034}  # m, mean outer radius


def part_name(slot: int, shape: str, part: int) -> str:
    return f"block{slot}_{shape}{part}"


def lead(dt: float, lag: float = LAG, timestep: float = TIMESTEP) -> float:
    """s by which commands go ahead: the damping acts on all motion; less what holding one for `dt` s is early by."""
    return lag - (dt + timestep) / 2


def arm_spec(contract: RobotContract) -> mujoco.MjSpec:
    """The arm with its drives; joint k of the contract is driven by actuator k."""
    spec = mujoco.MjSpec.from_file(str(contract.urdf))
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations = 20
    spec.option.ls_iterations = 10
    set_pictures(spec)
    _prepare_arm(spec, contract)
    return spec


def set_pictures(spec: mujoco.MjSpec) -> None:
    """What makes pictures quick without a GPU."""
    spec.visual.quality.offsamples = 0  # multisampling costs 10x without a GPU
    quality = spec.visual.quality
    quality.numslices, quality.numstacks, quality.numquads = 20, 2, 1  # vertices cost 4x; under 2 stacks caps vanish
    spec.visual.global_.offheight, spec.visual.global_.offwidth = LARGEST_PICTURE
    spec.visual.headlight.ambient = [0.42] * 3
    spec.visual.headlight.diffuse = [0.25] * 3
    spec.visual.headlight.specular = [0.05] * 3
    spec.stat.extent = 1.0  # m; the near plane is a share of it
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 12.0


def build(contract: RobotContract, tasks: Tasks) -> mujoco.MjSpec:
    """The whole cell, to be compiled."""
    spec = arm_spec(contract)
    _add_table(spec, contract, tasks)
    _add_blocks(spec)
    _add_cameras(spec, contract)
    return spec


def _prepare_arm(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    moving = set()
    for body in spec.bodies[1:]:
        if body.joints or body.parent.name in moving:
            moving.add(body.name)
            body.gravcomp = 1.0
        for geom in body.geoms:
            visual = geom.contype == 0
            if not visual:
                geom.contype = ARM if body.name in moving else 0
                geom.conaffinity = 0
                geom.friction = [0.3, 0.005, 0.0001]
                geom.group = 3
    first = contract.joints[0]
    for joint in spec.joints:
        if joint.name in contract.joints:
            joint.actgravcomp = 1  # gravity compensation counts against the motors' effort, as on the real arm
            joint.armature = 0.1
        if joint.name == first:
            for geom in joint.parent.geoms:
                geom.contype = 0  # the first link turns inside the base's footprint and always touches the table
    for k, name in enumerate(contract.joints):
        stiffness = STIFFNESS[k % len(STIFFNESS)]
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=stiffness, kv=LAG * stiffness)


def _add_table(spec: mujoco.MjSpec, contract: RobotContract, tasks: Tasks) -> None:
    world, box, cylinder = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=0, conaffinity=ARM | BLOCK,
        friction=[0.45, 0.005, 0.0001], group=3,
    )  # fmt: skip
    decor = {"contype": 0, "conaffinity": 0, "group": 1}
    world.add_geom(type=box, size=[0.6, 0.6, 0.02], pos=[0.35, 0, -0.0205], rgba=TABLE_RGBA, **decor)
    world.add_geom(type=box, size=[3, 3, 0.02], pos=[0.35, 0, -0.72], rgba=[0.36, 0.38, 0.41, 1], **decor)
    world.add_geom(type=box, size=[0.02, 3, 1.8], pos=[-1.4, 0, 1.0], rgba=[0.62, 0.65, 0.69, 1], **decor)
    world.add_geom(type=box, size=[3, 0.02, 1.8], pos=[0.35, 1.7, 1.0], rgba=[0.56, 0.59, 0.63, 1], **decor)
    for x in (-0.15, 0.85):
        for y in (-0.5, 0.5):
            world.add_geom(type=box, size=[0.03, 0.03, 0.33], pos=[x, y, -0.37], rgba=[0.22, 0.23, 0.25, 1], **decor)
    (x0, y0), (x1, y1) = contract.action.low, contract.action.high
    x0, x1, y0, y1 = x0 - 0.03, x1 + 0.03, y0 - 0.03, y1 + 0.03
    edge = [0.42, 0.45, 0.50, 1]
    wide, deep, middle = (y1 - y0) / 2 + 0.003, (x1 - x0) / 2 + 0.003, ((x0 + x1) / 2, (y0 + y1) / 2)
    for x in (x0, x1):
        world.add_geom(type=box, size=[0.003, wide, 0.001], pos=[x, middle[1], 0], rgba=edge, **decor)
    for y in (y0, y1):
        world.add_geom(type=box, size=[deep, 0.003, 0.001], pos=[middle[0], y, 0], rgba=edge, **decor)
    for px, py in tasks.places.values():
        world.add_geom(type=cylinder, size=[0.03, 0.0006, 0], pos=[px, py, 0], rgba=[0.70, 0.68, 0.645, 1], **decor)
    add_light(spec)


def add_light(spec: mujoco.MjSpec) -> None:
    """Without shadows, which cost more than everything else."""
    spec.worldbody.add_light(
        pos=[0.9, -0.8, 2.0], dir=[-0.3, 0.45, -1.0], castshadow=False, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        diffuse=[0.55] * 3, specular=[0.15] * 3,
    )  # fmt: skip


def _add_blocks(spec: mujoco.MjSpec) -> None:
    inertia = MASS * (0.056**2 + HEIGHT**2) / 12
    for slot in range(SLOTS):
        body = spec.worldbody.add_body(name=f"block{slot}", pos=[PARKED[0], PARKED[1] + 0.15 * slot, HEIGHT / 2])
        body.add_freejoint(name=f"block{slot}")
        body.mass, body.ipos, body.inertia = MASS, [0, 0, 0], [inertia] * 3
        body.explicitinertial = True
        body.gravcomp = 1.0
        for shape in SHAPES:
            for k, (kind, size, yaw) in enumerate(PARTS[shape]):
                quat = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
                body.add_geom(
                    name=part_name(slot, shape, k), type=kind, size=size, quat=quat, contype=BLOCK,
                    conaffinity=ARM | BLOCK, friction=[0.3, 0.005, 0.0001], group=1, rgba=[0, 0, 0, 0],
                )  # fmt: skip


def _add_cameras(spec: mujoco.MjSpec, contract: RobotContract) -> None:
    centre = (np.array([*contract.action.low, 0]) + np.array([*contract.action.high, 0])) / 2
    front = centre + np.array([1.3 * math.cos(ELEVATION) - 0.01, 0.0, 1.3 * math.sin(ELEVATION)])
    spec.worldbody.add_camera(name="front", pos=front, quat=look(front, centre - [0.01, 0, 0]), fovy=29)
    overview = np.array([1.45, -0.95, 0.85])
    spec.worldbody.add_camera(name="overview", pos=overview, quat=look(overview, np.array([0.28, 0, 0.22])), fovy=42)
    hand = next(b for b in spec.bodies if b.name == contract.tip)
    wrist = np.array([0.08, 0, -0.19])
    hand.add_camera(name="wrist", pos=wrist, quat=look(wrist, np.array([0.025, 0, 0.03]), up=(1, 0, 0)), fovy=62)


def look(eye: np.ndarray, at: np.ndarray, up: tuple[float, float, float] = (0, 0, 1)) -> np.ndarray:
    """Quaternion of a camera at `eye` that looks at `at` (MuJoCo: along its -z, y up in the picture)."""
    z = (eye - at) / np.linalg.norm(eye - at)
    x = np.cross(up, z)
    x /= np.linalg.norm(x)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([x, np.cross(z, x), z]).ravel())
    return quat
