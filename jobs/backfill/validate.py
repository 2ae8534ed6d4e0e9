"""The job `validate_backfill`: compares what is staged with production: may it be swapped?

In: a staged backfill. Out: reports/backfills/<name>/report.json and index.html (a picture for people), and
the state validated with the verdict and the digests of both sides: a swap takes exactly these contents.
Nothing but staging is read for the new side, so a validation can be repeated; policy section `backfill`.
Errors: SluiceError where production has changed since it was staged; GateClosed where the verdict is not
pass and no difference was accepted, or where a key is staged twice, which nobody can accept.
"""

from __future__ import annotations

from pydantic import Field

from jobs.backfill.compare import (
    TableDifference,
    checks_of,
    columns_of,
    difference,
    integrity_name,
)
from jobs.backfill.ledger import (
    Entry,
    Request,
    State,
    find,
    next_step,
    production_of,
    record,
    require,
    staging_of,
    working,
)
from jobs.backfill.recipes import Rewritten, tables_of
from jobs.backfill.report import Report, write_report
from jobs.backfill.run import Digests, base_digests, read_base
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome, Receipt, SluiceError, Stopwatch, Verdict
from jobs.lake.ranges import partitions_within, range_digests, read_range
from jobs.lake.staging import StagedLake
from jobs.lake.store import Lake

READS = ("staging", "backfills")
WRITES = ("backfills", "backfill_report")


class Params(Request):
    """The backfill to compare with production."""

    accept_differences: str = Field(
        "", max_length=500, description="why the differences are right: lets what did not pass go on"
    )


def require_unchanged(entry: Entry, base: Digests | None, now: Digests) -> None:
    """Refuse to compare with a production that is no longer the one that staging began from.

    Raises:
        SluiceError: some partition has changed.
    """
    if base is None:
        raise SluiceError(f"backfill {entry.name}: nothing is staged; {run_again(entry)}")
    changed = changed_partitions(base, now)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise SluiceError(
            f"backfill {entry.name}: production has changed since it was staged ({changed[0]}{more}); "
            f"{run_again(entry)}"
        )


def changed_partitions(before: Digests, after: Digests) -> list[str]:
    """Partitions whose contents differ, as `table partition`."""
    found = []
    for table in sorted({*before, *after}):
        first, second = before.get(table, {}), after.get(table, {})
        found += [
            f"{table} {name}"
            for name in sorted({*first, *second})
            if first.get(name, "") != second.get(name, "")
        ]
    return found


def run_again(entry: Entry) -> str:
    """What to do when staging is stale."""
    return f"stage it again with `sluice backfill run --name {entry.name} --execute`"


def compare_table(
    item: Rewritten, entry: Entry, production: Lake, staged: StagedLake, settings: Settings
) -> TableDifference:
    """One table, one partition in memory at a time."""
    policy = policy_of(settings)
    first, last = entry.span(item)
    names = {
        *partitions_within(production, item.table, first, last),
        *partitions_within(staged.staging, item.table, first, last),
    }
    columns = columns_of(item)
    parts = []
    for name in sorted(names):
        before = read_range(production, item.table, name, name).read_all()
        after = read_range(staged.staging, item.table, name, name).read_all()
        parts.append(difference(item.table, name, before, after))
        columns.collect(before, after)
    return TableDifference(
        table=item.table.name,
        decides=item.decides,
        partitions=tuple(parts),
        shifts=columns.shifts(policy.backfill, policy.drift),
    )


def staged_digests(settings: Settings, entry: Entry) -> Digests:
    """What is staged, as digests."""
    staged = staging_of(settings, entry.name).staging
    return {
        item.table.name: range_digests(staged, item.table, *entry.span(item))
        for item in tables_of(entry.dag, contract_of(settings))
    }


def compare(settings: Settings, entry: Entry, digests: Digests) -> Report:
    """Every table, and the verdict."""
    production, staged = production_of(settings), staging_of(settings, entry.name)
    limits = policy_of(settings).backfill
    tables = [
        compare_table(item, entry, production, staged, settings)
        for item in tables_of(entry.dag, contract_of(settings))
    ]
    for found in tables:
        compared = {part.partition: part.digest_after for part in found.partitions if part.digest_after}
        if compared != digests[found.table]:
            raise SluiceError(
                f"backfill {entry.name}: staging changed while it was compared; validate it again"
            )
    verdict = Verdict.of([check for found in tables for check in checks_of(found, limits)])
    return Report(
        name=entry.name,
        dag=entry.dag,
        first=entry.first,
        last=entry.last,
        reason=entry.reason,
        person=entry.person,
        verdict=verdict,
        tables=tuple(tables),
    )


def has_integrity(report: Report) -> bool:
    """Whether every key is staged once: the one thing that cannot be accepted away."""
    names = {integrity_name(found.table) for found in report.tables}
    failed = [check for check in report.verdict.checks if check.outcome is Outcome.FAIL]
    return not any(check.name in names for check in failed)


def run(params: Params, settings: Settings) -> Receipt:
    """Compare, write the report, keep the verdict."""
    watch = Stopwatch()
    lake = production_of(settings)
    with working(lake, params.name):
        entry = find(lake, params.name)
        require(entry, State.STAGED, State.VALIDATED)
        base = read_base(settings, entry.name)
        now = base_digests(settings, entry)
        require_unchanged(entry, base, now)
        digests = staged_digests(settings, entry)
        report = compare(settings, entry, digests)
        page = write_report(settings, report)
        evidence = {
            "outcome": report.verdict.outcome.value,
            "integrity": has_integrity(report),
            "reason": report.verdict.reason,
            "before": now,
            "staged": digests,
        }
        if (entry.state, entry.evidence) != (State.VALIDATED, evidence):
            entry = record(lake, entry.then(State.VALIDATED, params, report=page, evidence=evidence))
    accepted = params.accept_differences and evidence["integrity"]
    if report.verdict.outcome is not Outcome.PASS and not accepted:
        raise GateClosed(report.verdict, f"backfill {entry.name}; report: {settings.reports / page}", page)
    parts = [part for found in report.tables for part in found.partitions]
    return Receipt(
        job="validate_backfill",
        table="backfill_report",
        partition=entry.name,
        rows=sum(part.rows_after for part in parts),
        seconds=watch.seconds,
        facts={
            "outcome": report.verdict.outcome.value,
            "reason": report.verdict.reason,
            "partitions": len(parts),
            "equal": sum(part.equal for part in parts),
            "added": sum(part.added for part in parts),
            "removed": sum(part.removed for part in parts),
            "changed": sum(part.changed for part in parts),
            "report": page,
            "next_step": next_step(entry),
        },
    )
