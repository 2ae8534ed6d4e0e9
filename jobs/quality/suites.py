"""The rules of a feed, derived from its contract, as Great Expectations expectations.

In: a feed and the policy. Out: a tuple of `Rule`s; each carries one expectation, whether it speaks of rows
(then a row that breaks it is quarantined) and whether it can close the gate.
`mostly` is the share below which the rule itself closes the gate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column as Value

from jobs.conf.contract import Column
from jobs.conf.policy import Quality
from jobs.quality.feeds import Feed
from jobs.quality.parse import FIELDS

DAY_SECONDS = 86_400
DUPLICATE = "duplicate"
SHAPE = "row: wrong number of fields"
UNKNOWN = "unknown transaction"
VOLUME = "volume"
ROWS_FLOOR = "rows_floor"  # parameter of the volume rule, computed for each day


class Rule(NamedTuple):
    """One line of the suite."""

    name: str
    expectation: Any
    row_level: bool  # a row that breaks it is quarantined
    critical: bool
    allowed: float  # share of rows that may break it
    scored: bool  # counts in the quality score


def rules_of(feed: Feed, quality: Quality) -> tuple[Rule, ...]:
    """All rules of a feed, in the order in which a quarantined row names them."""
    fields = len(feed.columns) + len(feed.ignored)
    rules = [_between(SHAPE, FIELDS, quality, fields, fields)]
    for name, column in feed.columns.items():
        rules += _column_rules(name, column, fields, quality)
    if feed.instant:
        rules.append(
            _between(
                f"{feed.instant}: outside the day",
                "second_of_day",
                quality,
                0,
                DAY_SECONDS,
                strict_max=True,
            )
        )
    rules.append(_between(DUPLICATE, "copy_number", quality, 0, 0, allowed=quality.duplicate_share_fail))
    return tuple(rules)


def volume_rule() -> Rule:
    """Rows against the usual number for this weekday: an alert, never a closed gate."""
    expectation = gxe.ExpectTableRowCountToBeBetween(
        min_value={"$PARAMETER": ROWS_FLOOR}, severity="warning", meta={"rule": VOLUME}
    )
    return Rule(VOLUME, expectation, row_level=False, critical=False, allowed=0.0, scored=False)


def known_rule(quality: Quality) -> Rule:
    """A chargeback names a published transaction: an alert where many do not.

    The label is kept all the same: its transaction may be late, or its day may be waiting for a repair.
    """
    allowed = 1.0 - quality.passing_rows_min
    expectation = gxe.ExpectColumnValuesToBeInSet(
        column="known", value_set=[1], mostly=1.0 - allowed, severity="warning",
        meta={"rule": UNKNOWN},
    )  # fmt: skip
    return Rule(UNKNOWN, expectation, row_level=False, critical=False, allowed=allowed, scored=False)


def _column_rules(name: str, column: Column, fields: int, quality: Quality) -> list[Rule]:
    nulls = quality.null_share_fail if column.null_share is None else column.null_share
    missing, wrong, bounds = f"{name}: missing", f"{name}: not {_kind(column)}", f"{name}: bounds"
    rules = [
        Rule(
            missing,
            gxe.ExpectColumnValuesToNotBeNull(
                column=name, mostly=1.0 - nulls, row_condition=Value(FIELDS) == fields,
                meta={"rule": missing},
            ),
            row_level=True, critical=True, allowed=nulls, scored=True,
        ),
        Rule(
            wrong,
            gxe.ExpectColumnValuesToNotBeNull(
                column=f"{name}_value", mostly=quality.passing_rows_min,
                row_condition=Value(name).is_not_null(), meta={"rule": wrong},
            ),
            row_level=True, critical=True, allowed=1.0 - quality.passing_rows_min, scored=True,
        ),
    ]  # fmt: skip
    if column.optional:
        del rules[0]
    if column.minimum is not None or column.maximum is not None:
        rules.append(_between(bounds, f"{name}_value", quality, column.minimum, column.maximum))
    return rules


def _between(
    rule: str,
    column: str,
    quality: Quality,
    minimum: float | None,
    maximum: float | None,
    *,
    strict_max: bool = False,
    allowed: float | None = None,
) -> Rule:
    share = 1.0 - quality.passing_rows_min if allowed is None else allowed
    expectation = gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=minimum, max_value=maximum, strict_max=strict_max,
        mostly=1.0 - share, meta={"rule": rule},
    )  # fmt: skip
    return Rule(rule, expectation, row_level=True, critical=True, allowed=share, scored=True)


def _kind(column: Column) -> str:
    kinds = {"integer": "a whole number", "money": "money", "timestamp": "a timestamp"}
    return {**kinds, "decimal": "a number", "text": "text"}[column.type]
