"""Log, figures and report of endurance.py: what grew, how fast, and what befell the cell."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_ros.cli.figure import save

NAME = "endurance"
WARM = 10 / 60  # h, of a process that has just started: its caches fill
LEAST = 8  # samples of a slope
FIGURES = {"rss": "resident memory [MB]", "files": "open files", "threads": "threads"}
DISK = ("episodes", "versions")
FLAT = 0.1  # of its mean, in twenty hours: less growth than that is of no concern
Events = Sequence[Mapping[str, Any]]
Life = tuple[NDArray[np.float64], NDArray[np.float64]]  # h and values of one process


class Log:
    """Events, one a line, each with its time `t` [simulated h]; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self.events: list[dict[str, Any]] = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def add(self, t: float, kind: str, **more: Any) -> None:
        event = {"t": round(t, 6), "kind": kind, **more}
        self.events.append(event)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["kind"] == kind]

    @property
    def hours(self) -> float:
        return max((float(e["t"]) for e in self.events), default=0.0)

    @property
    def starts(self) -> list[dict[str, Any]]:
        return self.of("start")

    def check(self, setup: Mapping[str, Any]) -> None:
        """Raises SystemExit where the run was begun with another set-up."""
        begun = self.of("setup")
        if not begun:
            self.add(0.0, "setup", **setup)
            return
        for key, value in setup.items():
            if begun[0].get(key) != value:
                raise SystemExit(f"{self._path}: {key}: found {begun[0].get(key)!r}, now {value!r}; choose another --run")


def sample(pids: Mapping[str, int], disk: Mapping[str, Path]) -> dict[str, Any]:
    """Of every process [its life, resident MB, open files, threads, CPU s]; of the disk MB by folder, MB free, and how many
    recordings broke off. What ends while it is looked at is left out."""
    processes = {}
    for name, pid in pids.items():
        status = Path(f"/proc/{pid}/status")
        try:
            told = dict(line.split(":", 1) for line in status.read_text().splitlines())
            stat = (status.parent / "stat").read_text().rpartition(")")[2].split()
            files = sum(1 for _ in (status.parent / "fd").iterdir())
            rss, threads = int(told["VmRSS"].split()[0]) / 1024, int(told["Threads"])
        except (OSError, KeyError):
            continue
        cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        processes[name] = [f"{pid} since {stat[19]}", round(rss, 2), files, threads, cpu]
    sizes = {name: round(sum(f.stat().st_size for f in _files(folder)) / 1e6, 3) for name, folder in disk.items()}
    broken = sum(f.suffix == ".part" for folder in disk.values() for f in _files(folder))
    free = shutil.disk_usage(next(iter(disk.values())).parent).free / 1e6
    return {"processes": processes, "disk": sizes, "free": round(free), "parts": broken, "load": os.getloadavg()[0]}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def series(events: Events, figure: str) -> dict[str, list[Life]]:
    """By process, of each life: h since the first call, and values; from WARM after its start on."""
    index = {"rss": 1, "files": 2, "threads": 3}[figure]
    lives: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for e in events:
        for name, values in e["processes"].items():
            lives.setdefault(name, {}).setdefault(values[0], []).append((e["t"], values[index]))
    return {name: [life for points in of.values() if len((life := _warm(points))[0]) > 1] for name, of in lives.items()}


def _warm(points: Sequence[tuple[float, float]]) -> Life:
    t, y = np.array(points).T
    return t[t >= t[0] + WARM], y[t >= t[0] + WARM]


def slope(lives: Sequence[Life]) -> dict[str, float] | None:
    """One slope [per h] of all lives, each with a level of its own: least squares, and a 95 % interval that allows for neighbours
    that resemble each other (Newey and West 1987). None where there are too few samples."""
    n = sum(len(t) for t, _ in lives)
    if n < LEAST:
        return None
    centred = [(t - t.mean(), y - y.mean()) for t, y in lives]
    squares = sum(float(x @ x) for x, _ in centred)
    b = sum(float(x @ y) for x, y in centred) / squares
    variance, lags = 0.0, int(4 * (n / 100) ** (2 / 9))
    for x, y in centred:
        m = x * (y - b * x)
        neighbours = range(1, min(lags, len(m) - 1) + 1)
        variance += float(m @ m) + 2 * sum((1 - k / (lags + 1)) * float(m[k:] @ m[:-k]) for k in neighbours)
    free = n - 1 - len(lives)
    half = 1.96 * max(0.0, variance * n / free) ** 0.5 / squares if free > 0 else float("inf")
    mean = float(np.concatenate([y for _, y in lives]).mean())
    return {"per_hour": b, "low": b - half, "high": b + half, "mean": mean, "samples": n}


def hourly(episodes: Events) -> dict[str, list[float | None]]:
    """By task, of each hour the share of its whole episodes that the judge saw succeed; None where there was none."""
    whole = [e for e in episodes if e["outcome"] != "aborted"]
    hours = range(int(whole[-1]["t"]) + 1) if whole else range(0)
    seen = {task: [[e["outcome"] == "success" for e in whole if e["task"] == task and int(e["t"]) == h] for h in hours]
            for task in sorted({e["task"] for e in whole})}  # fmt: skip
    return {task: [float(np.mean(own)) if own else None for own in of] for task, of in seen.items()}


def figures(log: Log, setup: Mapping[str, Any]) -> dict[str, Any]:
    samples, episodes = log.of("sample"), log.of("episode")
    starts, stops = log.starts, log.of("stop")
    wall = sum(b["wall"] - a["wall"] for a, b in zip(starts, stops, strict=False)) / 3600
    ran = sum(b["t"] - a["t"] for a, b in zip(starts, stops, strict=False))
    slopes = {f: {name: s for name, lives in series(samples, f).items() if (s := slope(lives))} for f in FIGURES}
    ends = [(s["t"], s["endpoints"]) for s in samples if "endpoints" in s]
    grew = [
        f"{name}: {FIGURES[f]} {s['per_hour']:+.3g} per hour [{s['low']:.3g}, {s['high']:.3g}]"
        for f, by_name in slopes.items()
        for name, s in by_name.items()
        if s["low"] > 0 and 20 * s["per_hour"] > FLAT * s["mean"]
    ]
    recovered = log.of("recovered")
    return {
        "setup": dict(setup), "hours": log.hours, "wall_hours": wall,
        "simulated_per_wall": ran / wall if wall else None, "calls": len(starts), "episodes": len(episodes),
        "success": hourly(episodes), "aborted": Counter(e["reason"] for e in episodes if e["outcome"] == "aborted"),
        "deaths": Counter(e["victim"] for e in log.of("death")), "drops": len(log.of("drop")),
        "asked": Counter(e["what"] for e in log.of("asked")), "answered": len(log.of("answered")),
        "ended": Counter(e["reason"] for e in log.of("ended")), "faults": [e["what"] for e in log.of("fault")],
        "recovered": {
            victim: {"median_s": float(np.median([r["seconds"] for r in recovered if r["victim"] == victim])),
                     "most_s": max(r["seconds"] for r in recovered if r["victim"] == victim)}
            for victim in sorted({r["victim"] for r in recovered})
        },
        "slopes": slopes, "endpoints": slope([_warm(ends)]) if ends else None, "grew": grew,
        "disk": {k: [s["disk"][k] for s in samples[:1] + samples[-1:]] for k in DISK if samples and k in samples[0]["disk"]},
        "load": float(np.mean([s["load"] for s in samples])) if samples else None, "samples": len(samples),
    }  # fmt: skip


def markdown(found: Mapping[str, Any], commit: str) -> str:
    setup = found["setup"]
    counts = lambda c: ", ".join(f"{n} {what}" for what, n in sorted(c.items())) or "none"  # noqa: E731
    lines = [
        "# Endurance", "",
        f"`benchmarks/endurance.py`, {setup['mode']}, {setup['policy']}; commit {commit};"
        f" load of the machine {found['load'] or 0:.1f}.", "",
        f"**{found['hours']:.2f} simulated hours** in {found['wall_hours']:.2f} h"
        f" ({found['simulated_per_wall'] or 0:.2f} simulated s per s), {found['calls']} calls; {found['episodes']} episodes,"
        f" aborted: {counts(found['aborted'])}.", "",
        f"- blocks thrown off the table: {found['drops']}; a person was asked for {sum(found['asked'].values())} times"
        f" ({counts(found['asked'])}), came {setup['answer']:g} simulated minutes later",
        f"- deaths: {counts(found['deaths'])}; practice went on after (median, longest): "
        + (", ".join(f"{v} {r['median_s']:.0f}, {r['most_s']:.0f} s" for v, r in found["recovered"].items()) or "–"),
        f"- practice ended by itself: {counts(found['ended'])}; it was asked for again",
        *(f"- {task}: success by the judge's word, hour by hour: " + ", ".join("–" if v is None else f"{v:.0%}" for v in by_hour)
          for task, by_hour in found["success"].items()),
        f"- faults (episodes and versions that are not whole): {len(found['faults'])}",
        *(f"  - {fault}" for fault in found["faults"][:20]),
        "- disk [MB], first and last: " + ", ".join(f"{k} {a:.1f}, {b:.1f}" for k, (a, b) in found["disk"].items()),
    ]  # fmt: skip
    if found["endpoints"]:
        e = found["endpoints"]
        lines.append(f"- DDS endpoints: {e['mean']:.0f}, {e['per_hour']:+.2g} per hour [{e['low']:.2g}, {e['high']:.2g}]")
    lines += [
        "", "Growth per simulated hour [95 %], of all lives of a process together, each from "
        f"{60 * WARM:.0f} min after its start on:", "",
        "| process | " + " | ".join(FIGURES.values()) + " | samples |", "|---" * (len(FIGURES) + 2) + "|",
    ]  # fmt: skip
    for name in found["slopes"]["rss"]:
        mine = [found["slopes"][f][name] for f in FIGURES]
        cells = [f"{s['mean']:.0f}: {s['per_hour']:+.2f} [{s['low']:.2f}, {s['high']:.2f}]" for s in mine]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {mine[0]['samples']} |")
    grew = "; ".join(found["grew"]) or "nothing"
    lines += ["", f"What grows by more than a tenth in twenty hours, significantly: {grew}."]
    return "\n".join(lines) + f"\n\n![]({NAME}.png)\n"


def draw(log: Log, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    samples = log.of("sample")
    figure, axes = plt.subplots(5, 1, figsize=(9, 12), sharex=True, layout="constrained")
    names = sorted({name for s in samples for name in s["processes"]})
    for axis, (index, label) in zip(axes, enumerate(FIGURES.values(), 1), strict=False):
        for k, name in enumerate(names):
            points = [(s["t"], s["processes"][name][index]) for s in samples if name in s["processes"]]
            axis.plot(*zip(*points, strict=True), color=f"C{k}", lw=1, label=name)
        axis.set_ylabel(label)
    for kind in DISK:
        if points := [(s["t"], s["disk"][kind]) for s in samples if kind in s["disk"]]:
            axes[3].plot(*zip(*points, strict=True), lw=1, label=kind)
    axes[3].set_ylabel("disk [MB]")
    for task, by_hour in hourly(log.of("episode")).items():
        axes[4].plot(np.arange(len(by_hour)) + 0.5, np.array(by_hour, float), marker=".", lw=1, label=task)
    axes[4].set_ylabel("judged success")
    axes[4].set_xlabel("simulated hours")
    for axis in axes:
        for kind, colour in (("death", "tab:red"), ("drop", "tab:blue")):
            for e in log.of(kind):
                axis.axvline(e["t"], color=colour, alpha=0.25, lw=0.8)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=7, ncols=4, loc="lower right")
    axes[3].legend(fontsize=7)
    if axes[4].lines:
        axes[4].legend(fontsize=7)
    axes[0].set_title("red: a node was killed; blue: a block fell off the table", fontsize=9)
    save(figure, out)


def write(folder: Path, log: Log, setup: Mapping[str, Any], commit: str) -> dict[str, Any]:
    """endurance.json, .md and .png."""
    found = figures(log, setup)
    (folder / f"{NAME}.json").write_text(json.dumps({"commit": commit, **found}, indent=1) + "\n", encoding="utf-8")
    (folder / f"{NAME}.md").write_text(markdown(found, commit), encoding="utf-8")
    draw(log, folder / f"{NAME}.png")
    return found
