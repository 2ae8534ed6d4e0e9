"""A figure over days as a small picture: inline SVG, no script, every text escaped.

In: points by day, limits, the days that the picture spans. Out: SVG. A day without a value is a gap in the
line and a mark at the bottom: it never looks like a good day. Colours are classes, so that the page decides
what they are in the dark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from html import escape
from itertools import groupby

from jobs.monitoring.figures import INVESTIGATE, OK
from jobs.monitoring.model_state import Point, Series

WIDTH, HEIGHT, EDGE = 220.0, 64.0, 6.0


def sparkline(series: Series, first: date, last: date, written: Callable[[float], str]) -> str:
    """The days from `first` to `last`; `written` spells a value in the tooltip of its day."""
    days = max((last - first).days, 1)
    points = [point for point in series.points if first <= point.day <= last]
    place = _scale(points, series.limits)

    def x(day: date) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (day - first).days / days

    parts = [
        f'<line class="limit" x1="0" x2="{WIDTH:.0f}" y1="{place(limit):.1f}" y2="{place(limit):.1f}"/>'
        for limit in series.limits
    ]
    for run in _runs(points):
        path = " ".join(f"{x(day):.1f},{place(value):.1f}" for day, value in run)
        parts.append(f'<polyline class="curve" points="{path}"/>')
    for point in points:
        if point.value is None:
            parts.append(_mark(point, x(point.day), HEIGHT - 3, 2.2, "not measured"))
        else:
            radius = 3.4 if point is points[-1] else 2.4
            parts.append(_mark(point, x(point.day), place(point.value), radius, written(point.value)))
    label = escape(f"{series.name} from {first} to {last}")
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _mark(point: Point, x: float, y: float, radius: float, value: str) -> str:
    """A dot that a pointer can read; quiet days are seen as the line alone."""
    subject = "" if point.subject == "all" else f" {point.subject}"
    told = escape(f"{point.day}: {value}{subject} ({point.status})")
    kind = "quiet" if point.status in (OK, INVESTIGATE) else escape(point.status)
    return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{told}</title></circle>'


def _runs(points: Sequence[Point]) -> list[list[tuple[date, float]]]:
    """Days one after the other that have a value: a line is drawn through these and through no gap."""
    measured = [(point.day, point.value) for point in points if point.value is not None]
    numbered = groupby(enumerate(measured), key=lambda each: each[1][0].toordinal() - each[0])
    return [[pair for _, pair in run] for _, run in numbered]


def _scale(points: Sequence[Point], limits: Sequence[float]) -> Callable[[float], float]:
    """Value -> height, so that every value and every limit is inside the picture."""
    values = [point.value for point in points if point.value is not None] + list(limits)
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or abs(high) or 1.0

    def place(value: float) -> float:
        return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / span

    return place
