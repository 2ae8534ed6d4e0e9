"""The timeline of one policy as SVG: who was champion when, promotions, alarms, money and alerts a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from html import escape
from typing import Any

COLOURS = {
    "promoted": "#2f855a", "rolled back or refused": "#c53030", "alert": "#d69e2e",
    "retraining asked for": "#c05621", "a figure is not known": "#a0aec0", "trained": "#6b7280",
    "saved": "#3182ce", "lost": "#e53e3e", "alerts": "#805ad5", "largest PSI": "#0f766e",
}  # fmt: skip
CHAMPIONS = ("#bcd4f0", "#8fb6e4", "#d8e6c9", "#b8d49b", "#f0dcb8", "#e4c08f", "#e0cdea", "#c3a3d6")
LEFT, WIDTH = 110, 980
CHAMPION_TOP, PROMOTION_TOP, ALARM_TOP, MONEY_TOP, ALERT_TOP, PSI_TOP, BOTTOM = 14, 48, 84, 118, 234, 308, 380


class _Days:
    """Where a day stands on the picture."""

    def __init__(self, days: list[str]) -> None:
        self.first = date.fromisoformat(days[0])
        self.width = WIDTH / len(days)

    def of(self, day: str) -> float:
        return LEFT + (date.fromisoformat(day) - self.first).days * self.width

    def at(self, moment: str) -> float:
        found = datetime.fromisoformat(moment)
        part = (found.hour * 60 + found.minute) / 1440
        return self.of(str(found.date())) + part * self.width


def timeline(policy: dict[str, Any], drift_days: list[str]) -> str:
    """The picture."""
    days = policy["days"]
    where = _Days([each["day"] for each in days])
    parts = [
        *_names(),
        *_champions(policy["happened"], where),
        *_promotions(policy["happened"], where),
        *_alarms(policy["happened"], {each["day"]: each["alarms"] for each in days}, where),
        *_money(days, where),
        *_line([(each["day"], each.get("alerts")) for each in days], ALERT_TOP, "alerts", ",.0f", where),
        *_line([(each["day"], each["largest_psi"]) for each in days], PSI_TOP, "largest PSI", ".2f", where),
        *_changes(drift_days, where, [each["day"] for each in days]),
        *_axis(days, where),
    ]
    return (
        f'<svg viewBox="0 0 {LEFT + WIDTH + 10} {BOTTOM + 24}" role="img" font-size="11" '
        f'font-family="system-ui, sans-serif" aria-label="timeline">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str, tip: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.0):.1f}" height="{max(height, 0.5):.1f}" '
        f'fill="{colour}" rx="2"><title>{escape(tip)}</title></rect>'
    )


def _names() -> Iterator[str]:
    rows = ("champion", CHAMPION_TOP), ("promotions", PROMOTION_TOP), ("alarms", ALARM_TOP)
    below = ("saved a day", MONEY_TOP + 40), ("alerts a day", ALERT_TOP + 24), ("largest PSI", PSI_TOP + 24)
    for name, top in (*rows, *below):
        yield _text(LEFT - 8, top + 15, name, "end")


def _champions(happened: list[dict[str, Any]], where: _Days) -> Iterator[str]:
    crowned = [each for each in happened if each["what"] == "champion"]
    for number, each in enumerate(crowned):
        start = where.at(each["at"])
        following = crowned[number + 1 :]
        end = where.at(following[0]["at"]) if following else LEFT + WIDTH
        tip = f"version {each['version']} from {each['at'][:16]}"
        yield _box(start, CHAMPION_TOP, end - start - 1, 22, CHAMPIONS[number % len(CHAMPIONS)], tip)
        if end - start > 18:
            yield _text(start + 4, CHAMPION_TOP + 15, f"v{each['version']}")


def _promotions(happened: list[dict[str, Any]], where: _Days) -> Iterator[str]:
    ends = {
        each["version"]: each for each in happened if each["what"] in ("champion", "rolled back", "refused")
    }
    for each in happened:
        if each["what"] == "offered":
            end, start = ends.get(each["version"]), where.at(each["at"])
            stop = where.at(end["at"]) if end else LEFT + WIDTH
            good = end is None or end["what"] == "champion"
            colour = COLOURS["promoted" if good else "rolled back or refused"]
            said = f"{end['what']}: {end['detail']}" if end else "under way"
            tip = f"version {each['version']}: {said}"
            yield _box(start, PROMOTION_TOP + 4, stop - start, 12, colour, tip)
        elif each["what"] == "refused" and each["version"] not in {
            other["version"] for other in happened if other["what"] == "offered"
        }:
            tip = f"version {each['version']} refused: {each['detail']}"
            yield _box(where.at(each["at"]), PROMOTION_TOP + 4, 3, 12, COLOURS["rolled back or refused"], tip)


def _alarms(happened: list[dict[str, Any]], alarms: dict[str, int], where: _Days) -> Iterator[str]:
    kinds = {"alert": COLOURS["alert"], "retrain": COLOURS["retraining asked for"]}
    for each in happened:
        if each["what"] == "trained":
            x, tip = where.at(each["at"]), f"version {each['version']} trained: {each['detail']}"
            yield _box(x, ALARM_TOP + 16, 3, 8, COLOURS["trained"], tip)
        if each["what"] == "monitor" and each["facts"]["decision"] in kinds:
            colour, x = kinds[each["facts"]["decision"]], where.of(each["facts"]["day"]) + where.width / 2
            if not alarms[each["facts"]["day"]]:
                colour = COLOURS["a figure is not known"]
            tip = f"{each['facts']['day']}: {each['detail']}"
            radius = min(4.0, where.width / 2.2)
            yield (
                f'<circle cx="{x:.1f}" cy="{ALARM_TOP + 9}" r="{radius:.1f}" fill="{colour}">'
                f"<title>{escape(tip)}</title></circle>"
            )


def _money(days: list[dict[str, Any]], where: _Days) -> Iterator[str]:
    saved = {each["day"]: each["saved"] / 100 for each in days if "saved" in each}
    most, least = max([*saved.values(), 1.0]), min([*saved.values(), 0.0])
    scale = 100 / (most - least)
    zero = MONEY_TOP + 4 + most * scale
    for day, value in saved.items():
        top, height = (zero - value * scale, value * scale) if value >= 0 else (zero, -value * scale)
        colour = COLOURS["saved" if value > 0 else "lost"]
        yield _box(where.of(day) + 0.5, top, where.width - 1, height, colour, f"{day}: {value:,.0f}")
    yield _text(LEFT + WIDTH, MONEY_TOP + 2, f"{most:,.0f}", "end")


def _line(
    values: list[tuple[str, float | None]], top: float, name: str, shown: str, where: _Days
) -> Iterator[str]:
    found = [(day, value) for day, value in values if value is not None]
    if not found:
        return
    most = max(value for _, value in found)
    points = [
        f"{where.of(day) + where.width / 2:.1f},{top + 64 - 58 * value / (most or 1.0):.1f}"
        for day, value in found
    ]
    colour = COLOURS[name]
    yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    yield _text(LEFT + WIDTH, top + 4, f"{most:{shown}}", "end")


def _changes(drift_days: list[str], where: _Days, days: list[str]) -> Iterator[str]:
    for day in drift_days:
        if days[0] <= day <= days[-1]:
            x = where.of(day)
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{CHAMPION_TOP}" y2="{BOTTOM}" stroke="#4a5568" '
                f'stroke-dasharray="4 3"><title>known change on {escape(day)}</title></line>'
            )


def _axis(days: list[dict[str, Any]], where: _Days) -> Iterator[str]:
    step = max(1, len(days) // 12)
    yield f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{BOTTOM}" y2="{BOTTOM}" stroke="#a0aec0"/>'
    for each in days[::step]:
        yield _text(where.of(each["day"]), BOTTOM + 14, each["day"][5:])
