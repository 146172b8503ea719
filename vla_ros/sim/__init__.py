"""Simulated cells in MuJoCo, tabletop tasks, scripted expert, in-process environment."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # read at mujoco's first import; off-screen, with or without a GPU
# Without a GPU: rasterise in the calling thread. A hand-over to Mesa's threads costs up to 4 ms on a busy machine.
os.environ.setdefault("LP_NUM_THREADS", "0")
