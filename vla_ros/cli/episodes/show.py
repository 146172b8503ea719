"""`vla-ros episodes show`: topics with their rates, metadata, label, missing and late frames, and the curve of steps-to-go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_ros.cli.figure import save
from vla_ros.cli.safety.recording import find
from vla_ros.cli.safety.replay_command import console
from vla_ros.episodes.check import JITTER
from vla_ros.episodes.labels import read_label
from vla_ros.episodes.reader import EpisodeReader
from vla_ros.episodes.tensors import CHUNK, OBSERVATION, PROGRESS, is_corrected
from vla_ros.errors import VlaRosError
from vla_ros.robots.contract import RobotContract
from vla_ros.robots.observation import seconds

WIDTH, HEIGHT = 72, 8  # characters of the curve
EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Frames:
    """Observations against the contract's rate."""

    rate: float  # Hz
    missing: list[tuple[float, int]]  # (s since the first one, how many are missing before it)
    late: list[tuple[float, float]]  # (s since the first one, s between its stamp and its recording)


def run(episode: str, runs: Path, plot: Path | None) -> int:
    """The whole command."""
    if plot is not None and plot.suffix != ".png":
        raise VlaRosError(f"--plot {plot}: expected a file name that ends in .png")
    path = find(episode, runs)
    reader = EpisodeReader(path, strict=False)
    to = console()
    metadata = reader.metadata
    to.print(f"[bold]{escape(metadata.get('episode_id', path.stem))}[/]  {escape(metadata.get('instruction', ''))}")
    to.print(escape(str(path)), style="dim", soft_wrap=True)
    if reader.damage:
        to.print(escape(reader.damage), style="bold red", soft_wrap=True)
    to.print(_topics(reader))
    to.print("metadata: " + escape(", ".join(f"{key} {value}" for key, value in sorted(metadata.items())) or "none"))
    label = read_label(path)
    said = f"{label.get('outcome', '')} ({label.get('note') or 'no note'}, {label.get('stamp', '')})" if label else "none"
    to.print(f"label:    {escape(said)}")
    if frames := examine_frames(reader):
        _tell_frames(frames, to)
    _tell_corrected(reader, to)
    times, estimates, rewards = _progress(reader)
    if len(times):
        print(f"steps to go: {estimates[0]:.1f} at the beginning, {estimates[-1]:.1f} at the end, least {estimates.min():.1f}")
        print("\n".join(curve(estimates, float(times[-1]))))
        if plot is not None:
            draw(path.stem, times, estimates, rewards, plot)
            print(f"plot: {plot}")
    else:
        print(f"steps to go: {PROGRESS} was not recorded")
        if plot is not None:
            raise VlaRosError(f"{path}: {PROGRESS}: found no messages, expected some: there is nothing to plot")
    return 0


def examine_frames(reader: EpisodeReader) -> Frames | None:
    """None where the episode has no observations, or does not say of which robot it is."""
    robot = reader.metadata.get("robot", "")
    if not robot:
        return None
    rate = RobotContract.load(robot).observation.rate
    recorded = [message.stamp_ns * 1e-9 for message in reader if message.topic == OBSERVATION]
    stamps = [seconds(message.header.stamp) for message in reader.of(OBSERVATION)]
    if not stamps or len(recorded) != len(stamps):
        return None
    intervals = np.diff(stamps) * rate
    missing = [(stamps[k + 1] - stamps[0], round(intervals[k]) - 1) for k in np.flatnonzero(intervals > 1 + JITTER)]
    # The first one was heard before the recording began.
    late = [(s - stamps[0], r - s) for s, r in zip(stamps[1:], recorded[1:], strict=True) if r - s > 1 / rate]
    return Frames(rate, missing, late)


def _tell_frames(frames: Frames, to: Console) -> None:
    count = sum(number for _, number in frames.missing)
    to.print(f"missing frames: {count} at {frames.rate:g} Hz{_listed([f'{n} before {t:.2f} s' for t, n in frames.missing])}")
    to.print(f"late frames:    {len(frames.late)}{_listed([f'{late * 1e3:.0f} ms at {t:.2f} s' for t, late in frames.late])}")


def _tell_corrected(reader: EpisodeReader, to: Console) -> None:
    """Nothing where nobody took over."""
    chunks = reader.of(CHUNK)
    by_hand = [seconds(m.observation_stamp) - seconds(chunks[0].observation_stamp) for m in chunks if is_corrected(m)]
    if by_hand:
        to.print(f"a person acted: {len(by_hand)} of {len(chunks)} steps, from {by_hand[0]:.2f} to {by_hand[-1]:.2f} s")


def _listed(entries: Sequence[str], most: int = 5) -> str:
    more = f", and {len(entries) - most} more" if len(entries) > most else ""
    return f" ({', '.join(entries[:most])}{more})" if entries else ""


def _topics(reader: EpisodeReader) -> Table:
    table = Table()
    for name in ("topic", "type", "messages", "rate [Hz]", "longest gap [s]", "size [MB]"):
        table.add_column(name, justify="left" if name in ("topic", "type") else "right")
    for topic, count in sorted(reader.topics().items()):
        of = [message for message in reader if message.topic == topic]
        stamps = np.array([message.stamp_ns for message in of]) * 1e-9
        span = stamps[-1] - stamps[0]
        rate, gap = (f"{(count - 1) / span:.1f}", f"{np.diff(stamps).max():.3f}") if span > 0 else ("-", "-")
        size = sum(len(message.cdr) for message in of) / 1e6
        table.add_row(escape(topic), of[0].type_name, str(count), rate, gap, f"{size:.2f}")
    return table


def _progress(reader: EpisodeReader) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """s since the first estimate, steps-to-go, reward; [N] each."""
    messages = reader.of(PROGRESS)
    times = np.array([seconds(m.header.stamp) for m in messages], np.float64)
    estimates, rewards = (np.array([getattr(m, name) for m in messages], np.float64) for name in ("steps_to_go", "reward"))
    return times - times[0] if len(times) else times, estimates, rewards


def curve(values: NDArray[np.float64], duration: float) -> list[str]:
    """Lines of a bar chart [HEIGHT x at most WIDTH] from 0 to the largest value; NaN is an empty column."""
    columns = min(WIDTH, len(values))
    picked = values[np.linspace(0, len(values) - 1, columns).round().astype(int)]
    top = max(float(np.nanmax(picked, initial=0.0)), 1e-9)
    levels = np.nan_to_num(np.clip(picked / top, 0, 1)) * HEIGHT * 8
    lines = []
    for row in reversed(range(HEIGHT)):
        eighths = np.clip(levels - 8 * row, 0, 8).round().astype(int)
        lines.append(f"{top * (row + 1) / HEIGHT:7.1f} │" + "".join(EIGHTHS[k] for k in eighths))
    end = f"{duration:.1f} s"
    return [*lines, " " * 8 + "└" + "─" * columns, " " * 9 + "0" + end.rjust(max(columns - 1, len(end) + 1))]


def draw(name: str, times: NDArray[np.float64], estimates: NDArray[np.float64], rewards: NDArray[np.float64], out: Path) -> None:
    """Writes the PNG.

    Raises:
        VlaRosError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7, 4.5), layout="constrained", height_ratios=(2, 1))
    upper.plot(times, estimates, color="#1b4965")
    upper.set(ylabel="steps to go", title=name)
    upper.set_ylim(bottom=0)
    lower.bar(times[1:], rewards[1:], width=0.8 * float(np.diff(times).min()) if len(times) > 1 else 0.1, color="#7fb685")
    lower.set(xlabel="time [s]", ylabel="reward [steps]")
    save(figure, out)
