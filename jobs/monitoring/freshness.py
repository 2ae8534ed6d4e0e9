"""Job check_freshness: an alert where a feed's newest day is overdue.

In: the partitions of transactions and merged_labels, the contract's `due_hours`, the policy's
`quality.freshness_alert_hours`. Out: alerts; the receipt says which day of each feed is the newest, and
which should be there.
A day's file is due `due_hours` after the day's end, and overdue the policy's hours later. One alert for each
feed and overdue day, however often this runs. Whether older days have gaps is not judged here.
Errors: none of its own; an overdue feed is an alert, not a failed run.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from pydantic import AwareDatetime, Field

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, Stopwatch
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import MERGED_LABELS, TRANSACTIONS, Table
from jobs.quality.feeds import LABELS_FEED, TRANSACTIONS_FEED

READS = ("transactions", "merged_labels")
WRITES = ("alerts",)

# what tells that a day of a feed is there, and the DAG that brings it
FEEDS: dict[str, tuple[Table, str]] = {
    TRANSACTIONS_FEED: (TRANSACTIONS, "fraud_ingest"),
    LABELS_FEED: (MERGED_LABELS, "fraud_labels"),
}


class Params(JobParams):
    """The moment to judge."""

    as_of: AwareDatetime = Field(description="instant with its zone, e.g. 2026-01-31T06:00:00Z")


def newest_overdue(as_of: datetime, hours: float) -> date:
    """The newest day that ended at least so many hours before an instant."""
    return (as_of.astimezone(UTC) - timedelta(hours=hours)).date() - timedelta(days=1)


def newest_there(lake: Lake, table: Table) -> date | None:
    """The newest day of a table."""
    days = lake.partitions(table)
    return date.fromisoformat(days[-1]) if days else None


def overdue_alert(feed: str, wanted: date, found: date | None, hours: float, owner: str) -> Alert:
    """The alert of a feed whose newest day is older than it should be."""
    there = f"the newest day is {found}" if found else "there is no day yet"
    return Alert(
        key=f"freshness/{feed}/{wanted}",
        cause=f"{feed} of {wanted} is not there {hours:g} hours after its day ended; {there}",
        owner=owner,
        action=(
            f"look at {FEEDS[feed][1]} for {wanted} in Airflow; where it waits for the file, ask the sender; "
            "then run the day again"
        ),
        facts={"expected_day": str(wanted), "newest_day": str(found or "")},
    )


def run(params: Params, settings: Settings) -> Receipt:
    """Compare both feeds with what is due."""
    watch = Stopwatch()
    contract, lake = contract_of(settings), lake_of(settings)
    grace = policy_of(settings).quality.freshness_alert_hours
    due = {TRANSACTIONS_FEED: contract.transactions.due_hours, LABELS_FEED: contract.labels.due_hours}
    alerts: list[Alert] = []
    facts: dict[str, str] = {}
    for feed, (table, _) in FEEDS.items():
        hours = due[feed] + grace
        wanted = newest_overdue(params.as_of, hours)
        if settings.last_day is not None:
            wanted = min(wanted, settings.last_day)
        found = newest_there(lake, table)
        facts |= {f"{feed}_newest": str(found or ""), f"{feed}_expected": str(wanted)}
        if wanted >= settings.first_day and (found is None or found < wanted):
            alerts.append(overdue_alert(feed, wanted, found, hours, contract.owner))
    new = raise_alerts(settings, alerts)
    return Receipt(
        job="check_freshness",
        table=WRITES[0],
        partition=params.as_of.astimezone(UTC).isoformat(timespec="minutes"),
        rows=new,
        seconds=watch.seconds,
        facts={**facts, "overdue": [alert.cause for alert in alerts], "new_alerts": new},
    )
