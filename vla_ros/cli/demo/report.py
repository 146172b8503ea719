"""What a demo run leaves behind: table, success curve, video before and after, summary.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import matplotlib
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from vla_ros.cli.demo.graph import EpisodeResult
from vla_ros.episodes import EpisodeReader, load_episode
from vla_ros.learning.statistics import mcnemar, wilson

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CAMERA = "/camera/front/image_raw"
PUSH = ("push", "slide", "move")
FPS = 10


def rate(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success with its interval, and how the detector saw the same episodes."""
    good = sum(r.true_success for r in results)
    return {
        "success": round(good / max(len(results), 1), 4),
        "n": len(results),
        "interval": [round(x, 4) for x in wilson(good, len(results))],
        "detected": round(sum(r.detected for r in results) / max(len(results), 1), 4),
        "false_detections": sum(r.detected and not r.true_success for r in results),
        "steps": round(float(np.mean([r.steps for r in results])), 2) if results else 0.0,
    }


def stage(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """One stage of the summary: rate, n and interval over all episodes, and the same for each task."""
    push = [r for r in results if r.instruction.startswith(PUSH)]
    return {**rate(results), "tasks": {"reach": rate([r for r in results if r not in push]), "push": rate(push)}}


def verdict(before: Sequence[EpisodeResult], after: Sequence[EpisodeResult]) -> tuple[str, float]:
    """A sentence, and the p-value behind it."""
    b, a = [r.true_success for r in before], [r.true_success for r in after]
    p = mcnemar(b, a)
    change = (sum(a) - sum(b)) / max(len(b), 1)
    if p < 0.05:
        effect = "helped" if change > 0 else "HURT"
        return f"practice {effect}: {change:+.0%} on the same held-out scenes (McNemar p = {p:.2g})", p
    return f"practice made no significant difference: {change:+.0%} on the same held-out scenes (McNemar p = {p:.2g})", p


def table(rows: dict[str, Sequence[EpisodeResult]]) -> Table:
    """Stage by task, with intervals."""
    out = Table(title="success on held-out scenes, simulator's truth, 95 % interval")
    for column in ("", "all", "reach", "push", "detected", "steps"):
        out.add_column(column, justify="right" if column else "left")
    for name, results in rows.items():
        s = stage(results)
        cells = [_percent(part) for part in (s, s["tasks"]["reach"], s["tasks"]["push"])]
        out.add_row(name, *cells, f"{s['detected']:.0%}", f"{s['steps']:.1f}")
    return out


def _percent(s: dict[str, Any]) -> str:
    low, high = s["interval"]
    return f"{s['success']:.0%} [{low:.0%}, {high:.0%}] n={s['n']}" if s["n"] else "-"


def curve(
    path: Path,
    practice: Sequence[dict[str, Any]],
    before: Sequence[EpisodeResult],
    after: Sequence[EpisodeResult],
    per_update: int,
) -> None:
    """Success against practice episodes: the two evaluations with intervals, and the detector's view of each batch."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    batches = [practice[i : i + per_update] for i in range(0, len(practice), per_update)]
    x = [min((i + 1) * per_update, len(practice)) - per_update / 2 for i in range(len(batches))]
    y = [float(np.mean([e["outcome"] == "success" for e in b])) for b in batches]
    axes.plot(x, y, "o-", color="#8aa", label="practice batches (detector's verdict, sampled actions)")
    for at, results, name in ((0, before, "before"), (len(practice), after, "after")):
        s = rate(results)
        low, high = s["interval"]
        axes.errorbar(
            [at], [s["success"]], [[s["success"] - low], [high - s["success"]]], fmt="s", capsize=4, markersize=8,
            color="#c33" if name == "before" else "#282", label=f"evaluation {name} (truth, n = {s['n']}, 95 %)",
        )  # fmt: skip
    axes.set(xlabel="practice episodes", ylabel="success", ylim=(0, 1.02), title="Self-improvement on the live graph")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def video(path: Path, before: Sequence[EpisodeResult], after: Sequence[EpisodeResult], scenes: int = 6) -> None:
    """The same scenes before (left) and after (right), with steps-to-go drawn in; scenes that changed come first."""
    chosen = _changed_first(before, after)[:scenes]
    writer = imageio_ffmpeg.write_frames(str(path), (2 * 384, 480), fps=FPS, codec="libx264", output_params=["-crf", "23"])
    writer.send(None)
    for index in chosen:
        left, right = _frames(before[index], "before"), _frames(after[index], "after practice")
        for k in range(max(len(left), len(right)) + FPS):
            pair = [side[min(k, len(side) - 1)] for side in (left, right)]
            writer.send(np.ascontiguousarray(np.hstack(pair)))
    writer.close()


def _changed_first(before: Sequence[EpisodeResult], after: Sequence[EpisodeResult]) -> list[int]:
    """Scenes whose outcome differs come first: they are what practice is about, whichever way they went."""
    return sorted(range(len(before)), key=lambda i: before[i].true_success == after[i].true_success)


def picture(path: Path, before: Sequence[EpisodeResult], after: Sequence[EpisodeResult], scenes: int = 2) -> None:
    """Beginning, middle and end of a few scenes, before practice in the left half, after it in the right half."""
    rows = []
    for index in _changed_first(before, after)[:scenes]:
        for result, title in ((before[index], "before"), (after[index], "after practice")):
            frames = _frames(result, title)
            rows.append(np.hstack([frames[round(share * (len(frames) - 1))] for share in (0.0, 0.5, 1.0)]))
    pairs = [np.hstack(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    cv2.imwrite(str(path), np.vstack(pairs)[..., ::-1])


def _frames(result: EpisodeResult, title: str) -> list[NDArray[np.uint8]]:
    """[480, 384, 3] pictures of one recorded episode: camera above, steps-to-go curve below."""
    data = load_episode(result.file, strict=False)
    pictures = {}
    for m in EpisodeReader(Path(result.file), strict=False).of(CAMERA):
        stamp = m.header.stamp.sec + m.header.stamp.nanosec * 1e-9
        pictures[round(stamp, 3)] = np.asarray(m.data, np.uint8).reshape(m.height, m.width, 3)
    out = []
    togo = data.steps_to_go
    for k, stamp in enumerate(data.stamps):
        picture = pictures.get(round(float(stamp), 3), data.images[k])
        frame = np.full((480, 384, 3), 24, np.uint8)
        frame[:384] = cv2.resize(picture, (384, 384), interpolation=cv2.INTER_CUBIC)
        _text(frame, title, (8, 20), 0.5)
        _text(frame, result.instruction, (8, 378), 0.45)
        top = max(45.0, float(togo.max()))
        points = np.stack([8 + np.arange(k + 1) * 368 / max(len(data.stamps) - 1, 45), 472 - togo[: k + 1] * 70 / top], 1)
        cv2.polylines(frame, [points.astype(np.int32)], False, (90, 200, 120), 2, cv2.LINE_AA)
        _text(frame, f"steps to go {togo[k]:4.1f}", (8, 398), 0.4)
        if k == len(data.stamps) - 1:
            good = result.true_success
            _text(frame, "done" if good else "not done", (270, 20), 0.6, (90, 220, 90) if good else (240, 90, 80))
        out.append(frame)
    return out


def _text(
    frame: NDArray[np.uint8], text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int] = (240, 240, 240)
) -> None:
    cv2.putText(frame, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(frame, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    path.write_text(json.dumps(summary, indent=1) + "\n")
