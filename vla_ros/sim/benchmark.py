"""config/benchmarks/*.yaml: a simulated benchmark of somebody else's as a policy sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.errors import VlaRosError
from vla_ros.paths import resolve
from vla_ros.robots.shapes import picture_shape
from vla_ros.robots.strict import Section, load_yaml


@dataclass(frozen=True)
class Measured:
    """One entry of the state: an index into the environment's vector; low..high becomes -1..1."""

    name: str
    index: int
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkTask:
    instruction: str
    arguments: dict[str, Any]  # of the environment's constructor


@dataclass(frozen=True)
class Benchmark:
    """Which environment runs in which interpreter, and what of it a policy gets and gives; see metaworld.yaml."""

    name: str
    path: Path
    python: Path
    packages: tuple[str, ...]
    environment: dict[str, str]  # file, or id and import
    image_from: str
    image_size: tuple[int, int]  # px, height and width of one camera's picture
    cameras: int
    state_from: str
    state: tuple[Measured, ...]
    actions: int  # numbers of an action
    bins: int  # of each, where a head draws tokens
    repeat: int  # simulator steps per decision
    success: str
    horizon: int  # decisions
    tasks: dict[str, BenchmarkTask]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of an observation: [H, W, 3], or [cameras, H, W, 3] of several."""
        return picture_shape(self.cameras, self.image_size)

    def model_shapes(self) -> dict[str, Any]:
        """What a model's config takes from it, as robots.shapes.model_shapes does from a contract."""
        return {
            "image_size": list(self.image_size), "cameras": self.cameras, "state_dim": len(self.state),
            "action_dim": self.actions, "chunk": 1,
        }  # fmt: skip

    @classmethod
    def load(cls, name: str | Path) -> Benchmark:
        """By name (config/benchmarks/<name>.yaml) or path.

        Raises:
            VlaRosError: missing, or anything in it is wrong.
        """
        path = Path(name) if str(name).endswith(".yaml") else resolve(f"config/benchmarks/{name}.yaml")
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise VlaRosError(f"benchmark {name}: {path} does not exist; found there: {there}")
        keys = ("python", "packages", "environment", "image", "state", "action", "success", "horizon", "tasks")
        y = load_yaml(path).check_keys(*keys)
        environment = y.section("environment").check_keys("file", "id", "import", "arguments")
        image = y.section("image").check_keys("from", "size", "cameras")
        action = y.section("action").check_keys("size", "bins", "repeat")
        state = y.section("state").check_keys("from", "entries")
        entries, tasks = state.section("entries"), y.section("tasks")
        height, width = image.numbers("size", 2)
        shared = environment.mapping("arguments") if "arguments" in environment.keys() else {}  # noqa: SIM118 (no dict)
        return cls(
            name=path.stem, path=path, python=resolve(y.text("python")), packages=y.texts("packages"),
            environment=_environment(environment), image_from=image.text("from"), image_size=(int(height), int(width)),
            cameras=image.integer("cameras", 1), state_from=state.text("from"),
            state=tuple(_measured(key, entries.section(key)) for key in entries.keys()),  # noqa: SIM118 (no dict)
            actions=action.integer("size", 1), bins=action.integer("bins", 2), repeat=action.integer("repeat", 1),
            success=y.text("success"),
            horizon=y.integer("horizon", 1),
            tasks={key: _task(tasks.section(key), shared) for key in tasks.keys()},  # noqa: SIM118 (no dict)
        )  # fmt: skip


def _environment(y: Section) -> dict[str, str]:
    """A file beside the YAML, or a name that is registered with Gymnasium."""
    found = {key: y.text(key) for key in y.keys() if key != "arguments"}  # noqa: SIM118 (no dict)
    if ("file" in found) == ("id" in found):
        raise VlaRosError(f"{y.path}: {y.key}: found {sorted(found)}, expected either `file` or `id`")
    if "file" in found:
        file = y.path.parent / found["file"]
        if not file.is_file():
            raise y.wrong("file", f"a file beside the YAML, {file}")
        found["file"] = str(file.resolve())
    return found


def _measured(name: str, y: Section) -> Measured:
    y.check_keys("index", "low", "high")
    low = y.number("low")
    high = y.number("high", low)
    if low == high:
        raise y.wrong("high", f"more than low, {low:g}")
    return Measured(name, y.integer("index", 0), low, high)


def _task(y: Section, shared: dict[str, Any]) -> BenchmarkTask:
    y.check_keys("instruction", "arguments")
    own = y.mapping("arguments") if "arguments" in y.keys() else {}  # noqa: SIM118 (no dict)
    return BenchmarkTask(y.text("instruction"), {**shared, **own})
