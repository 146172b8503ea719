"""Recorded commands replayed in the arm's model, in short windows that start from the recorded state (multiple shooting).

A servo forgets where it started within a few time constants, so what a window's first states say is left out, and errors do not
pile up over an episode. What the arm pushed is not in the model: it is part of what remains unexplained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.sim import model as cell_model
from vla_ros.sim.physics import Physics, arm
from vla_ros.twin.parameters import physics_of
from vla_ros.twin.recording import Motion
from vla_ros.types import Array

LENGTH = 1.6  # s, of a window
FORGOTTEN = 0.4  # s after which a window's start does not matter
MOST = 30  # windows; more cost time, and tell little more
EVERY = 0.9  # of the control rate, from which on every command is taken to be recorded


@dataclass(frozen=True)
class Window:
    motion: Motion
    start: int  # index of the state that it starts from
    stop: int  # index after its last state


def windows(motions: Sequence[Motion], most: int = MOST) -> list[Window]:
    """At most `most` of them, from all episodes alike.

    Raises:
        VlaRosError: no episode is long enough for one.
    """
    found = []
    for motion in motions:
        # What was commanded before the first and after the last recorded command is not known.
        begin, end = np.searchsorted(motion.times, [motion.due[0] - 1e-9, motion.due[-1] + 1e-9]).tolist()
        times = motion.times[:end]
        while begin < len(times) and times[-1] - times[begin] > 2 * FORGOTTEN:
            end = int(np.searchsorted(times, times[begin] + LENGTH + 1e-9, side="right"))
            found.append(Window(motion, begin, end))
            begin = end - 1
    if not found:
        longest = max(float(m.times[-1] - m.times[0]) for m in motions)
        raise VlaRosError(
            f"{motions[0].path} and {len(motions) - 1} more: found at most {longest:.2f} s of joint states under commands, "
            f"expected an episode of more than {2 * FORGOTTEN:g} s"
        )
    return [found[k] for k in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))]


class Replay:
    """Simulates the same windows with any parameters.

    `measured` [m, n] rad are the positions at all compared instants; `window` [m] says whose they are. Velocities are not
    compared: where friction lets a joint go they jump, which no derivative tells, and positions say the same.

    Args:
        straight: also where not every command was recorded, those between lie on straight lines; else on a cubic.
    """

    def __init__(self, contract: RobotContract, chosen: Sequence[Window], straight: bool = False) -> None:
        self.contract, self.chosen = contract, chosen
        # Between commands the drives' delay line is straight (sim/physics.py); only where some are missing a path is guessed.
        self._straight = [straight or w.motion.command_rate > EVERY * contract.control.rate for w in chosen]
        self._dt = 1.0 / contract.control.rate
        self._repeat = round(self._dt / cell_model.TIMESTEP)
        self._steps = math.ceil(LENGTH / self._dt) + 1
        self._model = arm(contract)
        joints = [self._model.joint(name) for name in contract.joints]
        self._qpos, self._qvel = np.array([j.qposadr[0] for j in joints]), np.array([j.dofadr[0] for j in joints])
        starts = np.array([w.motion.times[w.start] for w in chosen])
        self._grid = starts[:, None] + self._dt * np.arange(self._steps + 1)  # [w, steps + 1] s
        self._start = np.stack([self._state(w) for w in chosen])
        self._own = [w.motion.times[w.start + 1 : w.stop] for w in chosen]
        kept = [times > start + FORGOTTEN for times, start in zip(self._own, starts, strict=True)]
        self._own = [times[keep] for times, keep in zip(self._own, kept, strict=True)]
        positions = [w.motion.positions[w.start + 1 : w.stop] for w in chosen]
        self.measured: Array = np.concatenate([values[keep] for values, keep in zip(positions, kept, strict=True)])
        self.window: NDArray[np.int64] = np.repeat(np.arange(len(chosen)), [len(times) for times in self._own])

    def simulated(self, values: Mapping[str, float]) -> Array:
        """[m, n] rad as `measured`. Threads may call it beside each other: most of it is MuJoCo's, which lets them."""
        physics = physics_of({k: v for k, v in values.items() if k.split(".")[0] != "camera"}, self.contract)
        model = self._with(physics)
        states, _ = rollout.rollout(model, mujoco.MjData(model), self._start, self._control(physics.delay))
        taken = 1 + self._qpos  # after the time
        path = np.concatenate([self._start[:, None], states[:, self._repeat - 1 :: self._repeat]], 1)[:, :, taken]
        at = [_linear(own, grid, rows) for own, grid, rows in zip(self._own, self._grid, path, strict=True)]
        return np.concatenate(at)

    def _with(self, physics: Physics) -> mujoco.MjModel:
        model = copy.copy(self._model)
        physics.apply(model, self.contract)
        return model

    def _control(self, delay: float) -> Array:
        """[w, steps repeat, n] what Cell.step makes of the commands."""
        triples = zip(self.chosen, self._grid, self._straight, strict=True)
        target = np.stack([w.motion.commanded(grid - delay, lines) for w, grid, lines in triples])
        limit = self.contract.limits.velocity
        velocity = np.clip(np.diff(target, axis=1) / self._dt, -limit, limit)
        control = target[:, 1:] + cell_model.lead(self._dt) * velocity
        return np.repeat(control, self._repeat, axis=1)

    def _state(self, window: Window) -> Array:
        """MuJoCo's full state at the start; without recorded velocities the arm moves as its neighbours in time say."""
        m, k, d = window.motion, window.start, mujoco.MjData(self._model)
        velocity = m.velocities[k]
        if not np.isfinite(velocity).all():
            velocity = np.gradient(m.positions[max(k - 1, 0) : k + 2], m.times[max(k - 1, 0) : k + 2], axis=0)[min(k, 1)]
        d.qpos[self._qpos], d.qvel[self._qvel] = m.positions[k], velocity
        state = np.empty(mujoco.mj_stateSize(self._model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
        mujoco.mj_getState(self._model, d, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        return state


def _linear(t: Array, grid: Array, rows: Array) -> Array:
    """[k, c] of rows [s, c] on an even grid [s] at t [k]."""
    place = (t - grid[0]) / (grid[1] - grid[0])
    k = np.clip(place.astype(int), 0, len(grid) - 2)
    share = (place - k)[:, None]
    return np.asarray(rows[k] + share * (rows[k + 1] - rows[k]))
