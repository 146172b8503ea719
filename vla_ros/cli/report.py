"""A run as one page: how practice went, every version and what it descends from, alarms, pictures and videos.

examples:
  vla-ros report                          of runs/latest, to runs/latest/report.html
  vla-ros report runs/improve             of `vla-ros train improve`
  vla-ros report CELL --out cell.html     of any folder with recordings, a weight store or a log in it

RUN is searched for recorded episodes (*.mcap), a weight store (versions/), the log of a training (log.jsonl), the logs of nodes
(*.log), the demo's summary.json, and pictures and videos. What is not there is left out. The page needs nothing but itself.

exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from vla_ros.cli.train.log import LOG
from vla_ros.errors import VlaRosError

WINDOW = 50  # episodes of a moving average, as the stopping rules'
LARGEST = 30_000_000  # bytes of a video or picture; larger ones are linked
ALARMS = 100  # last lines
ALARM = re.compile(r"\[(WARN|WARNING|ERROR|FATAL)\]")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 13px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eee }
th:first-child, td:first-child { text-align: left } tr.runs { font-weight: 600; background: #eef6ee }
img, video { max-width: 100% } pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; font-size: 12px }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), metavar="RUN", help="folder (runs/latest)")
    parser.add_argument("--out", type=Path, help="the page (RUN/report.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    folder: Path = args.run
    if not folder.is_dir():
        raise VlaRosError(f"{folder}: found no such folder, expected one of a run")
    out: Path = args.out or folder / "report.html"
    points = _points(folder)
    sections = {
        "Evaluation": _summary(folder), "Practice": _practice(folder), "Training": _log(points), "Versions": _versions(folder),
        "Alarms": _alarms(folder, points), "Pictures and videos": _media(folder),
    }  # fmt: skip
    if not any(sections.values()):
        raise VlaRosError(f"{folder}: found neither *.mcap, versions/, log.jsonl, summary.json, *.log nor pictures: no run")
    body = "".join(f"<h2>{title}</h2>\n{text}\n" for title, text in sections.items() if text)
    title = f"{folder.resolve().name}, {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    page = f"<!doctype html><html><head><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    try:
        out.write_text(f"{page}<h1>{escape(title)}</h1>\n{body}</body></html>\n", encoding="utf-8")
    except OSError as error:
        raise VlaRosError(f"{out}: cannot be written: {error.strerror or error}") from error
    print(out)
    return 0


def _summary(folder: Path) -> str:
    """The demo's evaluation, by the simulator's truth."""
    path = folder / "summary.json"
    if not path.is_file():
        return ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            [name, *(_rate(s) for s in (found[key], *(found[key]["tasks"][task] for task in ("reach", "push"))))]
            for name, key in (("stage 1", "stage1"), ("practised", "practised"), ("unseen objects", "unseen_objects"))
        ]
        control = f"{found['missed_ticks']} of {found['ticks']} control ticks missed, {found['limited_ticks']} limited"
        told = f"{found['verdict']}. {found['episodes']} practice episodes, {found['swaps']} swaps; {control}."
    except (ValueError, KeyError, TypeError) as error:
        raise VlaRosError(f"{path}: not a demo's summary: {error}") from error
    return f"<p>{escape(told)}</p>" + _table(("", "all", "reach", "push"), rows)


def _rate(stage: dict[str, Any]) -> str:
    low, high = stage["interval"]
    return f"{stage['success']:.0%} [{low:.0%}, {high:.0%}] n={stage['n']}" if stage["n"] else "–"


def _practice(folder: Path) -> str:
    """Recorded episodes in their order: success as the detector saw it, where audited as it was, versions."""
    from vla_ros.episodes.folder import find_episodes, read_info
    from vla_ros.learning.statistics import wilson

    if not any(folder.rglob("*.mcap")):
        return ""
    infos = [read_info(path) for path in find_episodes(folder)]
    outcomes = [i for i in infos if i.metadata.get("outcome") in ("success", "failure")]
    good, audited = [i.metadata["outcome"] == "success" for i in outcomes], [i for i in outcomes if i.label.get("outcome")]
    agree = sum(i.label["outcome"] == i.metadata["outcome"] for i in audited)
    low, high = wilson(sum(good), len(good))
    rate = f", {sum(good)} successful by the detector ({low:.0%} to {high:.0%})" if good else ""
    told = f"{len(infos)} recorded episodes, {len(infos) - len(outcomes)} aborted or damaged{rate}; "
    told += f"{len(audited)} labelled by a person, who agrees with {agree}." if audited else "none is labelled."
    by_version: dict[int, list[bool]] = {}
    for info, success in zip(outcomes, good, strict=True):
        by_version.setdefault(int(info.metadata.get("policy_version", 0)), []).append(success)
    figure, axes = _figure()
    axes.plot(range(1, len(good) + 1), _moving(good, WINDOW), label=f"mean of {WINDOW} episodes")
    changes = [k for k in range(1, len(outcomes)) if _version(outcomes[k]) != _version(outcomes[k - 1])]
    for k in changes:
        axes.axvline(k + 0.5, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="recorded episode (grey: another version runs)", ylabel="success, detector", ylim=(0, 1.02))
    axes.legend(loc="lower right")
    rows = [[v, len(g), f"{sum(g) / len(g):.0%} [{wilson(sum(g), len(g))[0]:.0%}, {wilson(sum(g), len(g))[1]:.0%}]"]
            for v, g in sorted(by_version.items())]  # fmt: skip
    return f"<p>{escape(told)}</p>{_image(figure)}" + _table(("version", "episodes", "success by the detector"), rows)


def _version(info: Any) -> str:
    return str(info.metadata.get("policy_version", ""))


def _log(points: Sequence[dict[str, Any]]) -> str:
    """Curves of log.jsonl, figures of a kind side by side; of practice, also what was true."""
    names = sorted({k for p in points for k, v in p.items() if isinstance(v, float) and k not in ("seconds", "episodes")})
    done = [sum(len(p.get("practised", ())) for p in points[: k + 1]) for k in range(len(points))]
    x = done if any(done) else [p.get("step", k) for k, p in enumerate(points)]
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault("success" if name.endswith(("_detected", "_true")) else name, []).append(name)
    out = []
    for kind, members in kinds.items():
        figure, axes = _figure(small=True)
        for name in members:
            known = [(at, p[name]) for at, p in zip(x, points, strict=True) if isinstance(p.get(name), float)]
            axes.plot(*zip(*known, strict=True), label=name.replace("_", " "))
        axes.set(xlabel="practice episodes" if any(done) else "step", title=kind.replace("_", " "))
        if len(members) > 1:
            axes.legend(fontsize=8)
        out.append(_image(figure))
    return "\n".join(out)


def _points(folder: Path) -> list[dict[str, Any]]:
    """Of log.jsonl; none where there is no such file."""
    path, points = folder / LOG, []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            points.append(json.loads(line))
        except ValueError as error:
            raise VlaRosError(f"{path}: line {number}: not JSON: {error}") from error
    return points


def _versions(folder: Path) -> str:
    """Every version with its parent; the marked one runs."""
    from vla_ros.policy.store import WeightStore

    stores = [path for path in (folder / "versions", folder / "store", folder) if any(path.glob("*/version.json"))]
    if not stores:
        return ""
    store = WeightStore(stores[0])
    running, rows = store.active(), []
    for number in store.numbers():
        r = store.record(number)
        figures = ", ".join(f"{name} {value:.3g}" for name, value in r.metrics.items())
        rows.append([number, r.parent or "–", r.stage, r.sha256[:12], figures])
    marked = [running is not None and row[0] == running.number for row in rows]
    return _table(("version", "parent", "stage", "sha256", "figures of the update that made it"), rows, marked)


def _alarms(folder: Path, points: Sequence[dict[str, Any]]) -> str:
    """The last warnings and errors of the nodes' logs, and the warnings of a training's."""
    told = [f"{LOG}: version {p.get('version')}: {text}" for p in points for text in p.get("warnings", ())]
    lines: deque[str] = deque(told, maxlen=ALARMS)
    count = len(told)
    for path in sorted(folder.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if ALARM.search(line):
                    lines.append(f"{path.name}: {line.rstrip()}")
                    count += 1
    if not lines:
        return ""
    return f"<p>{count} warnings and errors; the last {len(lines)}:</p><pre>{escape(chr(10).join(lines))}</pre>"


def _media(folder: Path) -> str:
    out = []
    for path in sorted((*folder.glob("*.png"), *folder.glob("*.mp4"))):
        kind = "image/png" if path.suffix == ".png" else "video/mp4"
        small = path.stat().st_size <= LARGEST
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" if small else path.name
        shown = f'<img src="{source}">' if kind == "image/png" else f'<video controls src="{source}"></video>'
        out.append(f"<figure>{shown}<figcaption>{escape(path.name)}</figcaption></figure>")
    return "\n".join(out)


def _table(names: Iterable[str], rows: Iterable[Sequence[object]], marked: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for k, row in enumerate(rows):
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        body.append(f"<tr{' class=runs' if k < len(marked) and marked[k] else ''}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _moving(values: Sequence[bool], width: int) -> list[float]:
    """Mean of each value and those before it, `width` at most."""
    return [sum(values[max(0, k - width + 1) : k + 1]) / min(k + 1, width) for k in range(len(values))]


def _figure(small: bool = False) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 2.8) if small else (8, 3.6), layout="constrained")
    axes.grid(alpha=0.3)
    return figure, axes


def _image(figure: Any) -> str:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    plt.close(figure)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
