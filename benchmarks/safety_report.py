"""Figures, table, text and picture of safety_comparison.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from safety_arms import AGAIN, ARMS, NAMES

from vla_ros.learning.statistics import Z, mcnemar, wilson

PATIENCE = 3.0  # times the task's cycle time: the generous limit, at which an episode ends
WITHIN = 0.001  # share of ticks beyond a limit up to which a policy counts as within its limits
OTHERS = ARMS[1:-1]  # the safe arms that the filter is compared with

Results = dict[tuple[str, str], dict[str, dict[str, Any]]]
"""(policy, regime) -> arm -> summary()."""


PICTURE = "safety_comparison.png"
INTRODUCTION = """# Safety filter against clipping and projection

`benchmarks/safety_comparison.py --episodes {episodes}`, commit {commit}; scene seeds {first}..{last}, {use};
half of the scenes are reaching, half pushing. Every arm gets the same scenes, the same policy and the same limits, in the same
simulated cell at 200 Hz. Policies run in open-loop chunks ({rows} rows predicted, {executed} carried out), as VLAs with action
chunks do. *expert*: the scripted demonstrator on the true state. *vla*: the small VLA, stage 1 only, from pictures and words.

Success: the simulator's truth at two successive policy steps, with Wilson's 95 % interval, at the task's cycle time (reaching
1.0 s, pushing 3.6 s) and at {patience} times it; differences from unfiltered are paired, at the longer time, in points, with
McNemar's exact p. *Clean*: success at the longer time without another block moved by 10 mm and without the arm touching the
table. *Duration*: median of the time to success against unfiltered where both succeed. *Off path*: distance of the commanded tip
from the straight lines through the chunk's rows, mean over ticks / 95th percentile of the episodes' maxima. *Changed*: share of
ticks in which the arm's commands are not what was asked. *Beyond*: share of ticks beyond a limit: velocity, acceleration (and
jerk where it is limited) by finite differences of the commands, or position. *Worst*: largest share of the limit. *Bumped*:
episodes in which a block that was not named moved by 10 mm. *Table*: episodes in which the arm touched it.
"""
NOTES = """## How the arms work
- *unfiltered*: a monotone cubic through the rows, sent as it is. The simulated servo only bounds its velocity feed-forward.
- *clipped per step*: the step towards the curve's next point is cut per joint to velocity, then acceleration, then position, in
  the manner of libfranka's `limitRate`; it does not brake in time for what comes, so it overshoots.
- *projected by QP*: the nearest joint velocity (daqp) inside velocity, acceleration and braking bounds and control-barrier rows
  that keep frames in their workspace boxes; nearest in joint space, or (*tip weighted*) with the tip's velocity weighted far
  above the rest, the strongest projection that was found. Gain and weight were chosen in the QP's favour on pilot scenes.
- *unfiltered, 0.01 mrad off*: the first arm again with every command off by 0.01 mrad. Contacts and pictures make single scenes
  chaotic; its difference from the first arm is what chance alone does.
- *slowed along the path*: the package's filter with the same limits. It also checks what the others do not (admission,
  watchdogs, tracking, and what else config/safety asks for).
"""

Setting = dict[str, Any]
"""What INTRODUCTION names; `regimes`: name -> text."""


def summary(episodes: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table; `base` is the unfiltered arm on the same scenes."""
    n, ticks = len(episodes), sum(e["ticks"] for e in episodes)

    def within(e: dict[str, Any], limit: float) -> bool:
        return e["seconds"] is not None and e["seconds"] <= limit * e["cycle_time"] + 1e-9

    def clean(e: dict[str, Any], limit: float) -> bool:
        return within(e, limit) and not e["bumped"] and not e["table"]

    row: dict[str, Any] = {"episodes": n}
    for name, limit, counts in (("normal", 1.0, within), ("generous", PATIENCE, within), ("clean", PATIENCE, clean)):
        good, was = [counts(e, limit) for e in episodes], [counts(e, limit) for e in base]
        gained = sum(g and not w for g, w in zip(good, was, strict=True))
        lost = sum(w and not g for g, w in zip(good, was, strict=True))
        d = (gained - lost) / n
        half = Z * math.sqrt(max(gained + lost - n * d * d, 0.0)) / n
        row[name] = {
            "success": sum(good) / n, "interval": wilson(sum(good), n),
            "difference": d, "difference_interval": [d - half, d + half], "p": mcnemar(was, good),
            **{task: _rate([g for g, e in zip(good, episodes, strict=True) if e["task"] == task]) for task in ("reach", "push")},
        }  # fmt: skip
    ratios = [
        e["seconds"] / b["seconds"] for e, b in zip(episodes, base, strict=True) if e["seconds"] and b["seconds"]
    ]
    # the claim's condition taken by the word: scenes in which no unfiltered command was beyond a limit
    pairs = [(within(e, PATIENCE), within(b, PATIENCE)) for e, b in zip(episodes, base, strict=True) if not b["beyond"]]
    row["inside"] = {
        "scenes": len(pairs), "success": sum(e for e, _ in pairs), "unfiltered": sum(b for _, b in pairs),
        "gained": sum(e and not b for e, b in pairs), "lost": sum(b and not e for e, b in pairs),
    }  # fmt: skip
    row["duration"] = float(np.median(ratios)) if ratios else None
    row["deviation"] = float(np.average([e["deviation"] for e in episodes], weights=[e["ticks"] for e in episodes]))
    row["deviation_max_p95"] = float(np.percentile([e["deviation_max"] for e in episodes], 95))
    row["limited"] = sum(e["limited"] for e in episodes) / ticks
    row["beyond"] = sum(e["beyond"] for e in episodes) / ticks
    row["beyond_ticks"] = {k: sum(e["exceeded"].get(k, 0) for e in episodes) for k in episodes[0]["exceeded"]}
    row["worst"] = {k: max(e["worst"][k] for e in episodes) for k in episodes[0]["worst"]}
    row["table_episodes"] = sum(e["table"] > 0 for e in episodes)
    row["lowest"] = min(e["lowest"] for e in episodes)
    row["bumped"] = sum(e["bumped"] for e in episodes) / n
    events: dict[str, int] = {}
    for e in episodes:
        for name, count in e["events"].items():
            events[name] = events.get(name, 0) + count
    row["events"] = events
    return row


def _rate(good: list[bool]) -> float | None:
    return sum(good) / len(good) if good else None


HEAD = (
    "", "cycle time", "reach / push", "3 × cycle time", "reach / push", "against unfiltered", "clean", "duration",
    "off path, mm", "changed", "beyond", "worst v / a", "bumped", "table",
)  # fmt: skip
SHORT = (0, 1, 3, 6, 7, 8, 9, 10, 12)  # columns that fit a terminal


def _percent(figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    return f"{100 * figures['success']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _tasks(figures: dict[str, Any]) -> str:
    return " / ".join("–" if figures[t] is None else f"{100 * figures[t]:.0f}" for t in ("reach", "push"))


def _difference(figures: dict[str, Any]) -> str:
    low, high = figures["difference_interval"]
    return f"{100 * figures['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _line(arm: str, row: dict[str, Any]) -> list[str]:
    normal, generous = row["normal"], row["generous"]
    return [
        NAMES[arm], _percent(normal), _tasks(normal), _percent(generous), _tasks(generous),
        "" if arm == "direct" else f"{_difference(generous)}, p {generous['p']:.2g}", _percent(row["clean"]),
        "–" if row["duration"] is None else f"{row['duration']:.2f}",
        f"{row['deviation']:.1f} / {row['deviation_max_p95']:.0f}", f"{100 * row['limited']:.0f} %",
        f"{100 * row['beyond']:.2g} %", f"{row['worst']['velocity']:.2f} / {row['worst']['acceleration']:.2f}",
        f"{100 * row['bumped']:.0f} %", str(row["table_episodes"]),
    ]  # fmt: skip


def show(console: Console, results: Results, regimes: dict[str, str]) -> None:
    for (policy, regime), rows in results.items():
        table = Table(title=f"{policy}, {regime}: {regimes[regime]}", title_justify="left")
        for k in SHORT:
            table.add_column(HEAD[k], no_wrap=k == 0)
        for arm, row in rows.items():
            cells = _line(arm, row)
            table.add_row(*(cells[k] for k in SHORT))
        console.print(table)


def verdict(results: Results) -> list[str]:
    """The claim, policy by regime, at the generous limit, so that slowing down is not scored as failing."""
    out = []
    for (policy, regime), rows in results.items():
        path, share = rows["path"], rows["direct"]["beyond"]
        state = f"{policy}, {regime}: unfiltered commands are beyond a limit in {100 * share:.2g} % of the ticks; "
        if share < WITHIN:
            difference, inside = path["generous"]["difference"], path["inside"]
            held = "is" if abs(difference) <= 0.02 + 1e-9 else "is NOT (it is better)" if difference > 0 else "is NOT"
            again = f" (chance alone, {NAMES[AGAIN]}: {_difference(rows[AGAIN]['generous'])})" if AGAIN in rows else ""
            out.append(
                f"{state}the filter {held} within 2 points of unfiltered: {_difference(path['generous'])}{again}; "
                f"in the {inside['scenes']} scenes without any such tick "
                f"{inside['success']} against {inside['unfiltered']} successes"
            )
            continue
        others = ", ".join(f"{NAMES[a]} {_percent(rows[a]['generous'])}" for a in OTHERS)
        best = max(rows[a]["generous"]["success"] for a in OTHERS)
        margin = path["generous"]["success"] - best
        word = "the best of" if margin > 1e-9 else "as good as the best of" if margin > -1e-9 else "NOT the best of"
        broke = [NAMES[a] for a in ARMS[1:] if any(rows[a]["beyond_ticks"].values())]
        out.append(
            f"{state}the filter is {word} the safe ones: {_percent(path['generous'])}; {others}; without touching "
            f"anything else {_percent(path['clean'])} against at best "
            f"{100 * max(rows[a]['clean']['success'] for a in OTHERS):.0f} %"
            + (f"; beyond a limit nevertheless: {', '.join(broke)}" if broke else "")
            + "; paired p of the filter's gain "
            + ", ".join(f"{path['against'][a]:.2g} ({NAMES[a]})" for a in OTHERS)
        )
    return out


def markdown(results: Results, setting: Setting) -> str:
    """The section for docs/, from the figures alone."""
    lines = [INTRODUCTION.format(**setting, patience=f"{PATIENCE:g}")]
    for (policy, regime), rows in results.items():
        title = f"## {policy}, {regime}: {setting['regimes'][regime]}"
        lines += [title, "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
        lines += ["| " + " | ".join(_line(arm, row)) + " |" for arm, row in rows.items()]
        lines.append("")
    lines += [f"![success by arm]({PICTURE})", "", "## The claim, by the figures", ""]
    lines += [f"- {text}." for text in verdict(results)]
    lines += ["", "Ticks or chunks that an arm had to answer in another way:", ""]
    told = [
        f"- {policy}, {regime}, {NAMES[arm]}: {', '.join(f'{k} {n}' for k, n in sorted(events.items()))}"
        for (policy, regime), rows in results.items()
        for arm, row in rows.items()
        if (events := {k: n for k, n in row["events"].items() if ":" in k or k == "infeasible"})
    ]
    return "\n".join([*lines, *(told or ["- none"]), "", NOTES])


def draw(results: Results, path: Path) -> None:
    """A row of panels per policy for success at both limits, and one for how far commands leave the path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"direct": "0.55", "clip": "tab:orange", "qp": "tab:purple", "qp_tip": "tab:pink", "path": "tab:blue"}
    policies, regimes = (list(dict.fromkeys(key[k] for key in results)) for k in (0, 1))
    size = (2.3 * len(regimes) + 1.2, 3.6 * len(policies) + 0.6)
    figure, axes = plt.subplots(2 * len(policies), len(regimes), figsize=size, sharey="row", squeeze=False)
    for (policy, regime), rows in results.items():
        row, column = 2 * policies.index(policy), regimes.index(regime)
        top, below = axes[row, column], axes[row + 1, column]
        for i, arm in enumerate(ARMS):
            for shift, name, alpha in ((-0.2, "normal", 0.45), (0.2, "generous", 1.0)):
                value, (low, high) = 100 * rows[arm][name]["success"], rows[arm][name]["interval"]
                top.bar(i + shift, value, 0.38, color=colours[arm], alpha=alpha)
                reach = [[max(value - 100 * low, 0)], [max(100 * high - value, 0)]]
                top.errorbar(i + shift, value, reach, color="black", capsize=2, lw=1)
            below.bar(i, rows[arm]["deviation_max_p95"], 0.6, color=colours[arm], label=NAMES[arm])
        top.set_title(f"{policy}, {regime}", fontsize=10)
        top.set_ylim(0, 104)
        for panel in (top, below):
            panel.set_xticks([])
            panel.tick_params(labelsize=8)
        if column == 0:
            top.set_ylabel(f"success, %\n(light: cycle time,\nfull: {PATIENCE:g} times it)", fontsize=8)
            below.set_ylabel("off the path, mm\n(95th percentile of\nepisodes' maxima)", fontsize=8)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(ARMS), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)
