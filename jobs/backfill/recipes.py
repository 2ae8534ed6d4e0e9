"""What a backfill of each DAG runs and rewrites: its tasks as steps, its tables as ranges of partitions.

A test holds the steps against the tasks of the DAG files, so that there is one graph. How the days of a step
follow one another is a property of its job and stated here once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import Any

from jobs.conf.contract import Contract
from jobs.core import SluiceError, days_between
from jobs.features.declarations import VELOCITY_FEATURES, stored_features
from jobs.features.tables import CUSTOMER_FEATURES, TERMINAL_FEATURES, TRANSACTION_VELOCITY
from jobs.lake.tables import (
    LABELS,
    LANDED_FILES,
    MERGED_LABELS,
    QUARANTINE,
    TRANSACTIONS,
    Table,
    feed_part,
    transactions_table,
)
from jobs.quality.feeds import LABELS_FEED, TRANSACTIONS_FEED

HOUR = "hour of "  # before the name of a column of instants: its hour in UTC


class Start(StrEnum):
    """What is staged before the first job runs."""

    NOTHING = "nothing"
    PRODUCTION = "production's rows"
    OTHER_FILES = "production's rows of other days' files"


class Pace(StrEnum):
    """How the days of one step follow one another."""

    AT_ONCE = "several days at once"  # no day looks at another
    IN_ORDER = "one day after another"  # a day looks at what the days before it left
    RANGE = "all days in one call"


@dataclass(frozen=True)
class Step:
    """One job, as the DAG's task of the same name calls it."""

    job: str
    pace: Pace = Pace.IN_ORDER

    def arguments(self, first: date, last: date) -> dict[str, Any]:
        """The job's arguments for these days; a job of the range takes `last` or a list of days."""
        if self.pace is not Pace.RANGE:
            return {"day": first}
        if self.job == "build_features":
            return {"day": first, "last": last}
        return self.of_days(days_between(first, last))

    def of_days(self, days: list[date]) -> dict[str, Any]:
        """The arguments of a job that takes a list of days."""
        return {"day": days[0], "days": ",".join(map(str, days))}


@dataclass(frozen=True)
class Rewritten:
    """One table that a backfill rewrites."""

    table: Table
    feed: str = ""  # of a table that both feeds share: its partitions are feed.day
    starts_from: Start = Start.NOTHING
    late: bool = False  # files bring rows of days before their own
    decides: bool = True  # False: bookkeeping, reported but never a reason to refuse
    distributions: tuple[str, ...] = ()  # columns whose distribution may not shift

    def partitions(self, first: date, last: date) -> tuple[str, str]:
        """The first and the last partition of a range of days."""
        if self.feed:
            return feed_part(self.feed, first), feed_part(self.feed, last)
        return str(first), str(last)


@dataclass(frozen=True)
class Recipe:
    """A DAG that can be backfilled. Its tables are swapped in this order: what others wait for last."""

    dag: str
    steps: tuple[Step, ...]
    tables: tuple[Rewritten, ...]
    after_swap: tuple[Step, ...] = ()


def _features(table: Table, entity: Any) -> Rewritten:
    return Rewritten(table, distributions=tuple(feature.name for feature in stored_features(entity)))


RECIPES = {
    recipe.dag: recipe
    for recipe in (
        Recipe(
            "fraud_ingest",
            steps=(
                Step("land_transactions", Pace.AT_ONCE),
                # a row that an earlier day has published is a copy; what is usual is learnt from weeks before
                Step("validate_transactions"),
                Step("quarantine_transactions"),
                Step("publish_transactions"),
            ),
            tables=(
                Rewritten(LANDED_FILES, starts_from=Start.PRODUCTION, decides=False),
                Rewritten(QUARANTINE, feed=TRANSACTIONS_FEED, decides=False),
                Rewritten(
                    TRANSACTIONS,
                    starts_from=Start.OTHER_FILES,
                    late=True,
                    distributions=("amount_minor", f"{HOUR}event_time"),
                ),
            ),
        ),
        Recipe(
            "fraud_labels",
            steps=(Step("land_labels", Pace.AT_ONCE), Step("validate_labels"), Step("merge_labels")),
            tables=(
                Rewritten(LANDED_FILES, starts_from=Start.PRODUCTION, decides=False),
                Rewritten(QUARANTINE, feed=LABELS_FEED, decides=False),
                Rewritten(LABELS, distributions=("is_fraud",)),
                Rewritten(MERGED_LABELS, decides=False),
            ),
        ),
        Recipe(
            "fraud_features",
            steps=(Step("build_features", Pace.RANGE), Step("check_features", Pace.RANGE)),
            tables=(
                _features(CUSTOMER_FEATURES, "customer"),
                _features(TERMINAL_FEATURES, "terminal"),
                Rewritten(TRANSACTION_VELOCITY, distributions=VELOCITY_FEATURES),
            ),
            after_swap=(Step("materialize_features", Pace.RANGE),),
        ),
    )
}


def recipe_of(dag: str) -> Recipe:
    """The recipe of a DAG.

    Raises:
        SluiceError: the DAG cannot be backfilled.
    """
    if dag not in RECIPES:
        raise SluiceError(f"DAG {dag!r} cannot be backfilled; these can: {', '.join(RECIPES)}")
    return RECIPES[dag]


def tables_of(dag: str, contract: Contract) -> tuple[Rewritten, ...]:
    """The tables of a DAG with the columns that the contract gives them."""
    own = transactions_table(contract)
    return tuple(
        replace(item, table=own) if item.table is TRANSACTIONS else item for item in recipe_of(dag).tables
    )
