"""The rules of a feed, derived from its contract and the policy.

Out: a tuple of `Rule`s. A rule about rows names a column of the checked frame (`frame.checked`); a row that
breaks it is quarantined, and where more than `allowed` of the rows do, the rule closes the gate. A rule about
the day names a figure (`figures.py`); where the figure is unknown there is nothing to judge.
Great Expectations' form of each rule is made in `checkpoint.py`, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from jobs.conf.contract import Column
from jobs.conf.policy import Quality
from jobs.quality.feeds import TRANSACTIONS_FEED, Feed

DAY_SECONDS = 86_400
FIELDS = "fields_found"
SECOND = "second_of_day"
COPY = "copy_number"
DUPLICATE = "duplicate"
LATE = "brought_late"
LATE_ALREADY = "brought late already"
SHAPE = "row: wrong number of fields"
UNKNOWN = "unknown transaction"
UNKNOWN_MANY = "unknown transaction: most of them"
VOLUME = "volume"
VOLUME_COLLAPSED = "volume: collapsed"
FRESHNESS = "freshness"


class Rule(NamedTuple):
    """One line of the suite: the column's values lie in [minimum, maximum]."""

    name: str
    column: str
    minimum: float | None
    maximum: float | None
    allowed: float = 0.0  # share of rows that may break it
    strict_max: bool = False
    scope: Literal["row", "day"] = "row"
    critical: bool = True  # it can close the gate; otherwise it alerts
    scored: bool = True  # counts in the quality score


def missing(name: str) -> str:
    """The column that says where a value is missing; null in rows of another shape."""
    return f"{name}_missing"


def unreadable(name: str) -> str:
    """The column that says where a value cannot be read; null where it is missing."""
    return f"{name}_unreadable"


def rules_of(feed: Feed, quality: Quality) -> tuple[Rule, ...]:
    """All rules about rows, in the order in which a quarantined row names them."""
    fields = len(feed.columns) + len(feed.ignored)
    share = 1.0 - quality.passing_rows_min
    rules = [Rule(SHAPE, FIELDS, fields, fields, share)]
    for name, column in feed.columns.items():
        rules += _column_rules(name, column, quality)
    if feed.instant:
        first = -feed.late_days * DAY_SECONDS
        name = f"{feed.instant}: outside the day"
        rules.append(Rule(name, SECOND, first, DAY_SECONDS, share, strict_max=True))
    rules.append(Rule(DUPLICATE, COPY, 0, 0, quality.duplicate_share_fail))
    if feed.name == TRANSACTIONS_FEED:
        # a repaired day is not to be refused because later files have helped out: told, never closed
        share = quality.duplicate_share_warn
        rules.append(Rule(LATE_ALREADY, LATE, 0, 0, share, critical=False, scored=False))
    return tuple(rules)


def _column_rules(name: str, column: Column, quality: Quality) -> list[Rule]:
    nulls = quality.null_share_fail if column.null_share is None else column.null_share
    share = 1.0 - quality.passing_rows_min
    rules = [Rule(f"{name}: not {_kind(column)}", unreadable(name), 0, 0, share)]
    if not column.optional:
        rules.insert(0, Rule(f"{name}: missing", missing(name), 0, 0, nulls))
    if column.minimum is not None or column.maximum is not None:
        rules.append(Rule(f"{name}: bounds", name, column.minimum, column.maximum, share))
    return rules


def _kind(column: Column) -> str:
    kinds = {"integer": "a whole number", "money": "money", "timestamp": "a timestamp"}
    return {**kinds, "decimal": "a number", "text": "text"}[column.type]


def shifted(name: str) -> tuple[str, str]:
    """The two rules about the distribution of a column: it alerts, it closes the gate."""
    return f"distribution of {name}: shifted", f"distribution of {name}: another one"


def transactions_rules(quality: Quality, newest_event_hours: float) -> tuple[Rule, ...]:
    """The rules about a day of transactions."""
    rules = [
        Rule(VOLUME, "volume_share", quality.volume_share_alert, None, scope="day", critical=False),
        Rule(VOLUME_COLLAPSED, "known_volume_share", quality.volume_share_fail, None, scope="day"),
        Rule(FRESHNESS, "newest_event_age_hours", None, newest_event_hours, scope="day"),
    ]
    for name in ("amount_minor", "hour"):
        alert, fail = shifted(name)
        rules.append(
            Rule(alert, f"{name}_psi", None, quality.distribution_psi_alert, scope="day", critical=False)
        )
        rules.append(Rule(fail, f"{name}_psi", None, quality.distribution_psi_fail, scope="day"))
    return tuple(rules)


def labels_rules(quality: Quality) -> tuple[Rule, ...]:
    """The rules about a day of chargebacks: each names a published transaction.

    A few that do not are kept: their transaction may be late, or its day may be waiting for a repair.
    """
    share = 1.0 - quality.passing_rows_min
    return (
        Rule(UNKNOWN, "unknown_share", None, share, scope="day", critical=False),
        Rule(UNKNOWN_MANY, "judged_unknown_share", None, quality.unknown_label_share_fail, scope="day"),
    )
