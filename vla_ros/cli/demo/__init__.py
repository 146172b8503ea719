"""The whole loop from nothing: a simulated Panda learns from demonstrations, works through instructions from camera
pixels, knows by itself when it has succeeded, practises, and swaps its weights while it runs.

Everything is real: MuJoCo physics and rendering, a transformers model with LoRA, real DDS between processes, MCAP files.
The result is a folder runs/<date>/ (runs/latest points to it) with success.png, before_after.mp4, summary.json, the
episodes (they open in Foxglove), checkpoints and versions.

While it runs, look at it from a second terminal:
  vla-ros topic echo /progress                              steps-to-go, live
  vla-ros service call /safety/estop std_srvs/srv/Trigger   stops the arm;  /safety/reset  resumes
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from vla_ros import __version__
from vla_ros.errors import VlaRosError

LOOPBACK = "LOCALHOST"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="all phases in 4 minutes; too short to learn much")
    parser.add_argument("--robot", default="panda", help="name in config/robots, or a path to a contract")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--reuse", type=Path, metavar="RUN", help="take the stage-1 checkpoints of an earlier run")
    parser.add_argument("--seed", type=int, default=1, help="of demonstrations, training and practice (default: 1)")
    parser.add_argument("--practice", type=int, help="practice episodes")
    parser.add_argument("--evaluation", type=int, help="evaluation episodes before, and again after")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", LOOPBACK)
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))  # its own graph; printed for second terminals
    from vla_ros import embedded

    embedded.activate()
    from dataclasses import replace

    from vla_ros.cli.demo.settings import DemoSettings, RunFolder
    from vla_ros.cli.demo.view import View
    from vla_ros.robots.contract import RobotContract

    RobotContract.load(args.robot)
    settings = DemoSettings.quick() if args.quick else DemoSettings()
    settings = replace(
        settings, practice=args.practice or settings.practice, evaluation=args.evaluation or settings.evaluation,
        stage1=replace(settings.stage1, seed=args.seed),
    )  # fmt: skip
    folder = RunFolder(_new_folder(args.runs))
    if args.reuse:
        _reuse(args.reuse, folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the graph in order, as Ctrl-C does
    with View(f"demo  domain {os.environ['ROS_DOMAIN_ID']}  {folder.root}") as view:
        summary = _phases(args, settings, folder, view)
    _report(summary, folder)
    return 0


def _phases(args: argparse.Namespace, settings: Any, folder: Any, view: Any) -> dict[str, Any]:
    from vla_ros.cli.demo.graph import Graph
    from vla_ros.cli.demo.lanes import stage1
    from vla_ros.cli.demo.settings import EVALUATION_SEED, PRACTICE_SEED

    start = time.monotonic()
    figures: dict[str, Any] = {}
    if not args.reuse:
        figures = stage1(args.robot, folder, settings.stage1, view.phase)
    trained = time.monotonic()
    practised: list[dict[str, Any]] = []
    with Graph(args.robot, folder, view.figures) as graph:
        graph.on_episode = practised.append

        def phase(name: str) -> Any:
            return lambda share, note: view.phase(name, share, note=note)

        def evaluate(name: str, first: int, count: int, split: str) -> Any:
            return graph.evaluate(first, count, settings.greedy, split, phase(name))

        before = evaluate("before", EVALUATION_SEED, settings.evaluation, "train")
        practised.clear()
        seed = PRACTICE_SEED + 10_000 * args.seed
        improved = graph.improve(settings.practice, settings.episodes_per_update, seed, settings.practice_task, phase("practice"))
        practice = list(practised)
        after = evaluate("after", EVALUATION_SEED, settings.evaluation, "train")
        unseen = evaluate("held_out", EVALUATION_SEED, settings.held_out, "held_out")
        last = improved.policy_version
        live = graph.live(settings.live_seconds, [1, last, 1, last], seed + 5000, settings.greedy, phase("live"))
        control = {"ticks": graph.figures.ticks, "missed": graph.figures.missed, "limited": graph.figures.limited}
        swaps = graph.figures.swaps
    return {
        "before": before, "after": after, "unseen": unseen, "practice": practice, "live": live, "control": control,
        "swaps": swaps, "figures": figures, "settings": settings, "updates": improved.updates,
        "seconds": round(time.monotonic() - start, 1), "training_seconds": round(trained - start, 1), "seed": args.seed,
    }  # fmt: skip


def _report(run: dict[str, Any], folder: Any) -> None:
    from rich.console import Console

    from vla_ros.cli.demo import report
    from vla_ros.policy.store import WeightStore

    before, after = run["before"], run["after"]
    sentence, p = report.verdict(before, after)
    settings = run["settings"]
    report.curve(folder.root / "success.png", run["practice"], before, after, settings.episodes_per_update)
    report.video(folder.root / "before_after.mp4", before, after)
    report.picture(folder.root / "before_after.png", before, after)
    store = WeightStore(folder.store)
    summary = {
        "stage1": report.stage(before), "practised": report.stage(after), "unseen_objects": report.stage(run["unseen"]),
        "verdict": sentence, "p_value": p, "mode": "greedy" if settings.greedy else "sampled",
        "episodes": len(run["practice"]), "demonstrations": settings.stage1.demonstrations,
        "judge_episodes": settings.stage1.judge_episodes, "updates": run["updates"],
        "swaps": run["swaps"], "missed_ticks": run["control"]["missed"], "limited_ticks": run["control"]["limited"],
        "ticks": run["control"]["ticks"], "live": run["live"], "seconds": run["seconds"],
        "training_seconds": run["training_seconds"], "seed": run["seed"], "stage1_held_out": run["figures"],
        "versions": [asdict(store.record(n)) for n in store.numbers()],
        "evaluated": {name: [asdict(e) for e in part] for name, part in (("before", before), ("after", after))},
        "settings": asdict(settings), "vla_ros": __version__, "commit": _commit(), "python": platform.python_version(),
    }  # fmt: skip
    report.write_summary(folder.root / "summary.json", summary)
    console = Console()
    console.print(report.table({"stage 1": before, "practised": after, "practised, unseen objects": run["unseen"]}))
    live = run["live"]
    console.print(
        f"{sentence}\n{summary['episodes']} practice episodes, {summary['swaps']} swaps, "
        f"{summary['missed_ticks']} of {summary['ticks']} control ticks missed, {summary['limited_ticks']} limited; "
        f"in real time {live['swaps']} swaps with {live['missed_ticks']} of {live['ticks']} ticks missed\n"
        f"{summary['seconds']:.0f} s; everything is in {folder.root}",
        highlight=False,
    )


def _new_folder(runs: Path) -> Path:
    """runs/<date>, and runs/latest pointing to it."""
    root = runs / f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"
    try:
        root.mkdir(parents=True)
        link = runs / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(root.name)
        link.replace(runs / "latest")
    except OSError as error:
        raise VlaRosError(f"{root}: cannot be made ({error.strerror}); choose another folder with --runs") from error
    return root.resolve()


def _reuse(earlier: Path, folder: Any) -> None:
    checkpoints = (earlier / "checkpoints").resolve()
    for name in ("policy", "judge"):
        if not (checkpoints / name / "model.safetensors").is_file():
            raise VlaRosError(f"--reuse {earlier}: {checkpoints / name} holds no checkpoint; give the folder of a finished run")
    (folder.root / "checkpoints").symlink_to(checkpoints)


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
