"""The result of a replay as one HTML page that needs nothing else: a timeline a policy, and tables.

In: replay.json and seconds.json as documents. Out: the page's text. Every text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from jobs.replay.timeline import COLOURS, timeline

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; background: #fff; margin: 2rem auto;
       max-width: 1120px; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { margin-top: 2.4rem; font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.87rem; margin: 0.6rem 0; }
th, td { text-align: left; padding: 0.3rem 0.7rem 0.3rem 0; border-bottom: 1px solid #e3e6ec;
         vertical-align: top; }
th { font-weight: 600; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.note { color: #5b6475; font-size: 0.87rem; } svg { width: 100%; height: auto; }
details { margin: 0.6rem 0; } summary { cursor: pointer; }
.key i { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin: 0 0.3em 0 1em; }
@media (prefers-color-scheme: dark) {
  body { background: #14171d; color: #e4e7ee; } th, td { border-color: #333a47; } .note { color: #9aa3b5; }
  svg text { fill: #c9cfdb; }
}
"""
NOTHING = "none"
FIGURE = 40  # characters that stay on one line: a figure with its interval; a sentence is longer
LABELS = {
    "fraud_caught_per_100_alerts": "frauds caught per 100 alerts",
    "share_of_fraud_amount_stopped": "share of the fraud amount stopped",
    "saved_a_day": "saved a day",
    "alerts_a_day": "alerts a day",
    "false_alarms_a_day": "false alarms a day",
    "false_declines_a_day": "honest payments blocked a day",
    "share_of_bad_days": "share of bad days",
}


def page(result: dict[str, Any], seconds: dict[str, Any]) -> str:
    """The page."""
    policies = result["policies"]
    body = [
        f"<h1>Replay {escape(result['from'])} to {escape(result['to'])}</h1>",
        f'<p class="note">Contract {escape(result["contract"])}; money in {escape(result["currency"])}. Days '
        f"up to {escape(result['scored_to'])} are scored: the labels of later ones were still to come. "
        "Intervals hold 95&nbsp;% and come from drawing days, or whole weeks, again. A bad day has frauds, "
        "and decisions that saved nothing.</p>",
        "<h2>Policies side by side</h2>",
        _scores({name: each["score"] for name, each in policies.items()}),
    ]
    if result["differences"]:
        body += ["<h2>Differences, on the same days</h2>", _scores(result["differences"])]
    body += ["<h2>What it took</h2>", _counts(policies), _key()]
    for name, each in policies.items():
        body += [
            f"<h2>{escape(name)}</h2>",
            timeline(each, result["drift_days"]),
            _versions(each["versions"]),
        ]
        body.append(_happened(each["happened"]))
    body += ["<h2>Seconds on this machine</h2>", _seconds(seconds)]
    title = f"Replay {escape(result['from'])} to {escape(result['to'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts; a number stands in its own type."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(map(_cell, enumerate(row)))}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def _cell(placed: tuple[int, object]) -> str:
    place, content = placed
    text = str(content)
    return f"<td{' class=n' if place and len(text) <= FIGURE else ''}>{escape(text)}</td>"


def interval(found: dict[str, float | None] | None) -> str:
    """A figure with its interval as text."""
    if found is None or found["value"] is None:
        return NOTHING
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:,.3g}"
    return f"{_short(found['value'])} [{_short(found['low'])}, {_short(found['high'])}]"


def _short(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _scores(scores: dict[str, dict[str, Any]]) -> str:
    rows = [
        [label, *(interval(each[figure]) for each in scores.values())] for figure, label in LABELS.items()
    ]
    return table(["", *scores], rows)


def _counts(policies: dict[str, Any]) -> str:
    rows = []
    for label, read in (
        ("trainings, by cause", lambda each: _joined(each["counts"]["trainings_by_cause"])),
        ("trainings that failed", lambda each: each["counts"]["trainings_failed"]),
        ("gates", lambda each: _joined(each["counts"]["gates"])),
        ("ends of versions", lambda each: _joined(each["counts"]["ends"])),
        (
            "champions beside those they replaced",
            lambda each: _joined(each["counts"]["promotions_beside_the_replaced"]),
        ),
        (
            "rollbacks: hours in the step, since it was offered, since its first customer",
            lambda each: _rollbacks(each["rollbacks"]),
        ),
        ("retrainings asked for a month, before a change", lambda each: _short(each["alarms_a_month"])),
        ("days from a known change to an alert / a retraining", lambda each: _drift(each["drift"])),
        ("rows in training frames", lambda each: f"{each['counts']['rows_in_training_frames']:,}"),
        ("days monitored", lambda each: each["counts"]["days_monitored"]),
    ):  # fmt: skip
        rows.append([label, *(read(each) for each in policies.values())])
    return table(["", *policies], rows)


def _rollbacks(found: list[dict[str, Any]]) -> str:
    times = "hours_in_step", "hours_since_offered", "hours_since_first_customer"
    shown = [
        f"version {each['version']} in {each['step']}: {', '.join(_short(each[time]) for time in times)}"
        for each in found
    ]
    return "; ".join(shown) or NOTHING


def _drift(found: list[dict[str, Any]]) -> str:
    def delay(value: float | None) -> str:
        return "never" if value is None else _short(value)

    shown = [
        f"{each['day']}: {delay(each['days_to_alert'])} / {delay(each['days_to_retraining'])}"
        for each in found
    ]
    return "; ".join(shown) or NOTHING


def _joined(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or NOTHING


def _versions(versions: list[dict[str, Any]]) -> str:
    rows = []
    for each in versions:
        instead, against = each["instead"], each.get("against_replaced", {})
        rows.append(
            [
                each["version"],
                each["day"],
                each["reason"][:90],
                each["gate"],
                f"{each['end']}: {each['why'][:110]}" if each["why"] else each["end"],
                _pair(instead),
                interval(instead.get("saved_a_day_difference")),
                interval(against.get("pr_auc_difference")),
            ]
        )
    head = [
        "version", "day", "why it was trained", "gate", "end", "PR-AUC after it, beside what was served",
        "would have saved more a day", "PR-AUC over the replaced champion",
    ]  # fmt: skip
    return table(head, rows) if rows else '<p class="note">No version was trained.</p>'


def _pair(found: dict[str, Any]) -> str:
    if "pr_auc" not in found:
        return str(found.get("problem", NOTHING))
    return f"{found['pr_auc']:.3f} / {found['pr_auc_of_the_other']:.3f}"


def _happened(happened: list[dict[str, Any]]) -> str:
    rows = [
        [each["at"][:16].replace("T", " "), each["what"], each["version"], each["detail"][:220]]
        for each in happened
        if each["what"] != "monitor" or each["facts"]["decision"] != "nothing"
    ]
    listed = table(["when", "what", "version", "why"], rows)
    return f"<details><summary>{len(rows)} things that happened</summary>{listed}</details>"


def _key() -> str:
    named = "".join(f'<i style="background:{colour}"></i>{escape(name)}' for name, colour in COLOURS.items())
    return (
        f'<p class="note key">In the timelines:{named}; a dashed line is the first day of a known change.</p>'
    )


def _seconds(seconds: dict[str, Any]) -> str:
    rows = [
        [
            name,
            _short(each["seconds_a_day_without_training"]),
            _short(each["seconds_of_trainings_a_day_with_one"]),
            _joined_seconds(each["by_part"]),
        ]
        for name, each in seconds["policies"].items()
    ]
    head = ["policy", "a day without its training", "trainings of a day with one", "in all, by part"]
    data = [[name, _joined_seconds(parts)] for name, parts in seconds["data"].items()]
    return table(head, rows) + table(["data, taken in once", "in all, by part"], data)


def _joined_seconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
