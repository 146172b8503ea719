"""Off-screen pictures. All cells of a thread share one OpenGL context per picture size: hundreds of them cost no more.

A context belongs to the thread that made it, and a process must not fork after it (use spawn).
"""

from __future__ import annotations

import threading

import mujoco

from vla_ros.errors import VlaRosError
from vla_ros.types import Image

_thread = threading.local()


def draw(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: mujoco.MjvCamera,
    size: tuple[int, int],
    out: Image | None = None,
) -> Image:
    """[H, W, 3] uint8 RGB of a model without meshes and textures (contexts are shared between models).

    Args:
        size: px, height and width.
        out: where to put it, else a new array.

    Raises:
        VlaRosError: no working OpenGL (the message names the packages).
    """
    renderer, option = _renderer(model, size)
    mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, renderer.scene)
    return renderer.render(out=out)


def release() -> None:
    """Frees this thread's contexts; the next draw makes new ones."""
    for renderer in vars(_thread).pop("renderers", {}).values():
        renderer.close()


def fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """A camera of the model.

    Raises:
        VlaRosError: no such camera.
    """
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if index < 0:
        known = ", ".join(model.camera(k).name for k in range(model.ncam))
        raise VlaRosError(f"camera '{name}': not in the cell; expected one of {known}")
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = index
    return camera


def _renderer(model: mujoco.MjModel, size: tuple[int, int]) -> tuple[mujoco.Renderer, mujoco.MjvOption]:
    renderers: dict[tuple[int, int], mujoco.Renderer] | None = getattr(_thread, "renderers", None)
    if renderers is None:
        renderers = _thread.renderers = {}
        _thread.option = mujoco.MjvOption()
        _thread.option.geomgroup[:] = [1, 1, 1, 0, 0, 0]  # group 3 holds collision shapes
    largest = (model.vis.global_.offheight, model.vis.global_.offwidth)
    if size[0] > largest[0] or size[1] > largest[1]:
        raise VlaRosError(f"picture size: found {size}, expected at most {largest} px (height, width)")
    if size not in renderers:
        renderers[size] = _new(model, size)
    return renderers[size], _thread.option


def _new(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.Renderer:
    try:
        renderer = mujoco.Renderer(model, *size, max_geom=500)
    except Exception as error:
        raise VlaRosError(
            f"no off-screen OpenGL for the cameras ({type(error).__name__}: {error}); on Debian or Ubuntu: "
            "sudo apt-get install libegl1 libgl1; MUJOCO_GL=egl must be set before mujoco's first import"
        ) from error
    flags = mujoco.mjtRndFlag
    for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
        renderer.scene.flags[flag] = 0  # shadows alone cost 10x without a GPU
    return renderer
