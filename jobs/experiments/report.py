"""A look at an experiment as one page for people, with a forest plot of its effects.

In: the look. Out: one HTML file that needs nothing from anywhere: the picture is inside it, it has no script.
"""

from __future__ import annotations

import io
from html import escape
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from jobs.experiments.looks import BETTER, WORSE, Result
from jobs.files import replacing
from jobs.page import figure, page, table

if TYPE_CHECKING:
    from jobs.experiments.read_out import Readout

COLOURS = {BETTER: "#2a9d5c", WORSE: "#c8453b"}
GREY = "#888888"
MOST = 2.0  # a relative change beyond +-200 % is drawn at the edge


def relative(result: Result) -> tuple[float, float, float]:
    """Effect and interval as shares of the control's figure; NaN where that is 0 or unknown."""
    base = result.reading.control
    if not isfinite(base) or base == 0:
        return nan, nan, nan
    return result.reading.effect / base, result.low / base, result.high / base


def forest(results: tuple[Result, ...]) -> Figure:
    """One line per metric: its relative effect and interval, coloured by the conclusion."""
    drawing = Figure(figsize=(9, 1.2 + 0.6 * len(results)), layout="constrained")
    axes = drawing.add_subplot()
    for place, result in enumerate(results):
        effect, low, high = relative(result)
        colour = COLOURS.get(result.conclusion, GREY)
        if isfinite(effect):
            edges = [max(low, -MOST), min(high, MOST)]
            axes.plot(edges, [place, place], color=colour, linewidth=2)
            axes.plot([min(max(effect, -MOST), MOST)], [place], marker="s", color=colour)
        else:
            axes.text(0, place, result.reading.note or "no relative effect", va="center", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(results)), [result.reading.metric.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set(xlabel="treatment against control, relative change with its interval at this look")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    axes.grid(visible=True, axis="x", alpha=0.3)
    return drawing


def readout_page(readout: Readout) -> str:
    """The whole page."""
    params, assigned = readout.params, readout.assigned
    control, treatment = assigned.customers
    kind = {BETTER: "pass", WORSE: "fail", "blocked": "fail"}.get(readout.verdict, "inconclusive")
    told = (
        f"{params.treatment} (version {assigned.versions[1]}) against {params.control} (version "
        f"{assigned.versions[0]}): {len(assigned.answers):,} transactions of {readout.counted[0]} to "
        f"{readout.counted[1]}, {control:,} customers in the control and {treatment:,} in the treatment "
        f"(intended {readout.percent} %, p {readout.ratio_p_value:.3g}); {assigned.outside:,} customers met "
        "neither arm and count in none."
    )
    held = int(assigned.answers["held_out"].sum())
    parts = (
        f"<h2>Verdict: <span class='{kind}'>{escape(readout.verdict)}</span></h2>"
        f"<p>{escape(readout.reason)}</p><p>{escape(told)}</p>",
        _figures(readout) if readout.look else "",
        f"<p>{held:,} payments that would have been blocked were let through at random; they stand for "
        "all of those, and blocked payments count in no figure about honest customers or scores.</p>",
    )
    return page(f"Experiment {params.name}, as of {params.day}", parts)


def _figures(readout: Readout) -> str:
    look = readout.look
    assert look is not None  # noqa: S101 - the caller asked
    head = ("metric", "control", "treatment", "effect", "interval at this look", "p", "p over all looks",
            "p over looks and metrics", "variance left by CUPED", "conclusion", "test")  # fmt: skip
    rows = [
        (
            each.reading.metric.title, *map(_told, (each.reading.control, each.reading.treatment,
            each.reading.effect)), f"{_told(each.low)} to {_told(each.high)}", _told(each.reading.p_value),
            _told(each.sequential_p_value), _told(each.adjusted_p_value),
            f"{each.reading.variance_kept:.0%}", each.conclusion,
            each.reading.note or each.reading.metric.test,
        )
        for each in readout.results
    ]  # fmt: skip
    picture = io.BytesIO()
    forest(readout.results).savefig(picture, format="png", dpi=100)
    about = (
        f"Look {look.number}, {look.times[-1]:.0%} of the plan; a metric alone needs |z| of "
        f"{look.critical:.2f} here."
    )
    shown = figure("Effects of all metrics", picture.getvalue())
    return f"<p>{escape(about)}</p>{shown}{table(head, rows)}"


def _told(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else "none"


def save_readout(readout: Readout, path: Path) -> Path:
    """Write the page; it is there only when it is whole."""
    with replacing(path) as temporary:
        temporary.write_text(readout_page(readout))
    return path
