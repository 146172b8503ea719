"""Practice episodes from other processes and machines: workers that own simulated cells, and the crew that the learner asks.

    learner (Crew)                                       worker (Worker), in a process of this machine or on Ray
        start                                       ──►      reads policy and judge, compares their hashes, makes its cells
        weights of this version, a group of seeds   ──►      loads the weights, runs the group: whole episodes
        are they of these weights?                  ◄──      episodes, and the hash of the weights in its policy

What an episode is depends on the weights and on its group, which shares a forward pass and draws: groups are of one size and
begin at fixed seeds, so that it matters neither who runs one, nor how many workers there are, nor who died. A batch is waited
for as a whole: the first ones that are done would be the short ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load, save

import vla_ros
from vla_ros.errors import VlaRosError
from vla_ros.files import sha256
from vla_ros.learning import rollout
from vla_ros.learning.practice import Episodes
from vla_ros.learning.rollout import SimulatedEpisode
from vla_ros.paths import resolve
from vla_ros.policy import adapter, device
from vla_ros.policy import policy as checkpoint
from vla_ros.policy.policy import Model
from vla_ros.progress.calibration import Calibration
from vla_ros.robots.contract import RobotContract
from vla_ros.twin.cells import environments


@dataclass(frozen=True)
class Setup:
    """What a worker is made of. Paths are those of the machine that it runs on."""

    policy: Path  # stage-1 checkpoint, whose versions are practised
    judge: Path
    calibration: Calibration
    robot: str  # name, or path of a contract
    split: str
    cells: int  # episodes of a group, side by side
    device: str = "cpu"
    twin: Path | None = None  # that the cells are drawn from

    def identity(self) -> dict[str, str]:
        """What decides about episodes besides weights and seeds, with a hash of each."""
        twin = {f"twin {self.twin}": sha256(self.twin)} if self.twin else {}
        return {
            **twin,
            "vla_ros": vla_ros.__version__,
            f"robot {self.robot}": sha256(Path(RobotContract.load(self.robot).path)),
            "tasks": sha256(resolve("config/tasks/tabletop.yaml")),
            f"policy {self.policy}": checkpoint.fingerprint(self.policy),
            f"judge {self.judge}": checkpoint.fingerprint(self.judge),
        }


@dataclass(frozen=True)
class Weights:
    """LoRA and heads of one version, as safetensors. The hash is that of the version's file in a store."""

    data: bytes
    sha256: str

    @classmethod
    def of(cls, policy: Model) -> Weights:
        data = save({name: t.detach().contiguous() for name, t in adapter.state(policy).items()})
        return cls(data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Group:
    task: str
    seeds: list[int]


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Errors say which worker's they are."""
    try:
        yield
    except VlaRosError as error:
        raise VlaRosError(f"worker {_name()}: {error}") from error


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class Worker:
    """Cells, policy and judge, the same wherever it is put. Its methods raise VlaRosError that names it."""

    def __init__(self, setup: Setup, identity: dict[str, str]) -> None:
        """
        Args:
            identity: the learner's.
        """
        self._setup, self._identity = setup, identity

    @_named()
    def start(self) -> str:
        """Reads and makes everything; host and process id, by which it is known.

        Raises:
            VlaRosError: something is missing here, or is not what the learner has.
        """
        torch.set_num_threads(1)  # as in the learner; two threads on two busy cores are 3-100 times slower
        setup, own = self._setup, self._setup.identity()
        for name, wanted in self._identity.items():
            if (found := own.get(name, "nothing")) != wanted:
                raise VlaRosError(f"{name}: found {found[:16]}, expected the learner's {wanted[:16]}: copy it to this machine")
        contract = RobotContract.load(setup.robot)
        policy, self._prompt = checkpoint.load(setup.policy, contract.robot)
        self._policy = device.put(adapter.add(policy), setup.device)
        self._judge = device.put(checkpoint.load(setup.judge, contract.robot)[0], setup.device)
        self._cells = environments(contract, setup.cells, setup.twin)
        return _name()

    @_named()
    def run(self, weights: Weights, group: Group) -> tuple[str, list[SimulatedEpisode]]:
        """An episode a seed, and the hash of the weights that the policy has after the last one.

        Raises:
            VlaRosError: the weights came damaged, or are not of this policy.
        """
        if (found := hashlib.sha256(weights.data).hexdigest()) != weights.sha256:
            raise VlaRosError(f"weights have sha256 {found[:16]}, expected {weights.sha256[:16]}: not taken")
        tensors = load(weights.data)
        adapter.check(self._policy, tensors, f"weights {weights.sha256[:16]}")
        adapter.swap(self._policy, tensors)
        judged = self._judge, self._setup.calibration, self._prompt, self._setup.split
        episodes = rollout.run(self._cells, group.seeds, self._policy, *judged, group.task)
        return Weights.of(self._policy).sha256, episodes


class Lost(Exception):
    """A worker is no more; says what is known of its end."""


class Link(Protocol):
    """A worker where it runs."""

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of one of its methods; one at a time, of any thread.

        Raises:
            VlaRosError: of the method.
            Lost: it has died.
        """

    def close(self) -> None:
        """Ends it, in the middle of a group, too; an ask() that waits raises Lost."""


Place = Callable[[Setup, dict[str, str]], Link]  # starts a worker, given Worker's arguments


class Spawned:
    """A worker in a process of this machine. Spawned, because a process must not fork after OpenGL was used."""

    def __init__(self, setup: Setup, identity: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, setup, identity), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is this end's end of file

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((method, arguments))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            raise Lost(f"exit status {self.process.exitcode}") from error
        if isinstance(answer, VlaRosError):
            raise answer
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, setup: Setup, identity: dict[str, str]) -> None:
    """The worker's process. It ends with the learner's, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the learner, which then ends its workers
    worker = Worker(setup, identity)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(worker, method)(*arguments)
        except VlaRosError as error:
            answer = error
        with contextlib.suppress(BrokenPipeError):  # found at the next recv
            pipe.send(answer)


@dataclass(eq=False)
class _Member:
    link: Link
    name: str = "that was starting"


class Crew:
    """Workers that run a learner's groups (practice.Collect). One that dies is replaced, and its group runs again; after as many
    deaths in a row as there are workers, with no group finished in between, it is not: the next one would die of the same.

    Args:
        place: Spawned, or ray_workers.OnRay.
        tell: what happens to workers.
        patience: s in which the first worker must have started; a large model comes over the network.
    """

    def __init__(
        self, setup: Setup, workers: int, place: Place, tell: Callable[[str], None], patience: float = 600.0
    ) -> None:
        self.setup, self.workers, self._place, self._tell, self._patience = setup, workers, place, tell, patience
        self._identity = setup.identity()
        self._threads = ThreadPoolExecutor(workers)  # that wait for an answer each
        self._idle: deque[_Member] = deque()
        self._busy: dict[Future[Any], tuple[_Member, Group | None]] = {}  # without a group: it starts
        self._deaths = 0  # since a group was finished
        for _ in range(workers):
            self._hire()

    def __call__(self, policy: Model, seeds: dict[str, list[int]]) -> Episodes:
        """An episode a seed, in their order, with the policy's weights as they are now.

        Raises:
            VlaRosError: a worker's own, by its name; episodes of other weights; or there is no worker left.
        """
        weights, cells = Weights.of(policy), self.setup.cells
        groups = [Group(task, own[k : k + cells]) for task, own in seeds.items() for k in range(0, len(own), cells)]
        todo, parts = deque(groups), dict[int, list[SimulatedEpisode]]()
        while len(parts) < len(groups):
            while todo and self._idle:
                member, wanted = self._idle.popleft(), todo.popleft()
                self._busy[self._threads.submit(member.link.ask, "run", weights, wanted)] = member, wanted
            for future in self._next():
                member, group = self._busy.pop(future)
                try:
                    answer = future.result()
                except Lost as lost:
                    todo.extendleft([group] if group else [])
                    self._bury(member, lost, group)
                    continue
                self._idle.append(member)
                if group is None:
                    member.name = answer
                    continue
                found, parts[id(group)] = answer
                if found != weights.sha256:
                    raise VlaRosError(f"worker {member.name}: its weights are {found[:16]}, expected {weights.sha256[:16]}")
                self._deaths = 0
        out: Episodes = {task: [] for task in seeds}
        for group in groups:
            out[group.task] += parts[id(group)]
        return out

    def close(self) -> None:
        """Ends all workers."""
        for member in [*self._idle, *(member for member, _ in self._busy.values())]:
            member.link.close()
        self._threads.shutdown()

    def _hire(self) -> None:
        member = _Member(self._place(self.setup, self._identity))
        self._busy[self._threads.submit(member.link.ask, "start")] = member, None

    def _next(self) -> set[Future[Any]]:
        """The answers that came next."""
        if not self._busy:
            raise VlaRosError(f"practice: no worker is left of {self.workers}; their ends are told above")
        starting = all(group is None for _, group in self._busy.values())
        done = wait(self._busy, self._patience if starting else None, FIRST_COMPLETED).done
        if not done:
            found = f"none of {len(self._busy)} workers has started within {self._patience:.0f} s"
            raise VlaRosError(f"practice: {found}; has the machine, or the cluster (`ray status`), room for them?")
        return done

    def _bury(self, member: _Member, lost: Lost, group: Group | None) -> None:
        self._deaths += 1
        again = f"; its {len(group.seeds)} episodes are run again" if group else ""
        replaced = self._deaths <= self.workers
        self._tell(f"worker {member.name} has died ({lost}){again}" + ("" if replaced else "; it is not replaced"))
        member.link.close()
        if replaced:
            self._hire()
