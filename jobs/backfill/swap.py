"""The job `swap_backfill`: what was validated takes production's place, or gives it back.

In: a validated backfill. Out: in each of its tables one Delta commit that replaces all its days, then the
online store where features were swapped; the state swapped. The replaced versions are pinned before; the
same job with `reverse` puts their days back in the same manner.
Each commit carries the backfill's name: a swap that was killed is finished by running it again, and what it
had done is not done twice. Readers see each table as it was or as it becomes.
Errors: GateClosed without a passed validation of exactly what is staged, unless a person accepts the
differences; SluiceError where production's days have changed since they were compared.
"""

from __future__ import annotations

from pydantic import Field

from jobs.backfill.ledger import (
    Entry,
    Request,
    State,
    find,
    next_step,
    pin_name,
    production_of,
    record,
    require,
    staged_settings,
    staging_of,
    working,
)
from jobs.backfill.recipes import Recipe, Rewritten, recipe_of, tables_of
from jobs.backfill.run import Digests, base_digests, drop_staging
from jobs.backfill.validate import changed_partitions, staged_digests
from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, Receipt, SluiceError, Stopwatch, Verdict, days_between
from jobs.features.check import carry_verdict, drop_verdict
from jobs.features.inputs import drop_record, keep_record, read_record
from jobs.lake.pins import pin, unpin
from jobs.lake.ranges import commits_after, range_digests, read_range, replace_range
from jobs.lake.store import Lake
from jobs.lake.tables import Table
from jobs.registry import load_job

READS = ("staging", "backfill_report", "backfills")
WRITES = (
    "backfills",
    "transactions",
    "labels",
    "customer_features",
    "terminal_features",
    "transaction_velocity",
    "online_store",
)
SWAP, REVERSE = "swap", "reverse"


class Params(Request):
    """The backfill to swap in, or to take back."""

    reverse: bool = Field(False, description="put the replaced versions of its days back")
    accept_differences: str = Field(
        "", max_length=500, description="why it is right to go on although a check did not pass"
    )


def commit_of(lake: Lake, table: Table, entry: Entry, direction: str) -> int | None:
    """The version that a backfill's commit made in a table; None where it has not been there yet."""
    for commit in commits_after(lake, table, entry.versions_before.get(table.name, -1)):
        if (commit.get("backfill"), commit.get("direction")) == (entry.name, direction):
            return int(commit["version"])
    return None


def _closed(entry: Entry, reason: str) -> GateClosed:
    check = Check(name="validation", outcome=Outcome.FAIL, detail=reason)
    return GateClosed(Verdict.of([check]), f"backfill {entry.name}")


def require_validated(entry: Entry, accept_differences: str) -> None:
    """Refuse a verdict that is not pass, unless a person accepts it.

    Raises:
        GateClosed: the validation did not pass and was not accepted, or cannot be accepted.
    """
    outcome, reason = entry.evidence["outcome"], entry.evidence["reason"]
    if not entry.evidence["integrity"]:
        raise _closed(entry, f"{reason}; a key that is staged twice cannot be accepted")
    if outcome != Outcome.PASS.value and not accept_differences:
        raise _closed(entry, f"{outcome}: {reason}; look at the report, then say --accept-differences REASON")


def require_same(entry: Entry, wanted: Digests, found: Digests, what: str) -> None:
    """Refuse contents that are not those of the validation.

    Raises:
        GateClosed: something has changed since.
    """
    changed = changed_partitions(wanted, found)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise _closed(entry, f"{what} changed since the validation ({changed[0]}{more}); {_way_out(entry)}")


def _way_out(entry: Entry) -> str:
    """What to do about contents that are not those of the validation."""
    if entry.state is State.SWAPPING:
        return f"take back what is swapped: `sluice backfill swap --name {entry.name} --reverse --execute`"
    return f"run `sluice backfill run --name {entry.name} --execute` and validate it again"


def begin(lake: Lake, settings: Settings, entry: Entry, params: Params) -> Entry:
    """Check what is to be swapped, pin what it replaces, note the intent."""
    require_validated(entry, params.accept_differences)
    require_same(entry, entry.evidence["staged"], staged_digests(settings, entry), "staging has")
    # versions first: a write that comes after them is noticed when its table's turn comes
    versions = {item.table.name: lake.version(item.table) for item in recipe_of(entry.dag).tables}
    require_same(entry, entry.evidence["before"], base_digests(settings, entry, versions), "production has")
    if not params.execute:
        return entry
    pin(lake, pin_name(entry.name), versions)
    evidence = {**entry.evidence, "accepted": params.accept_differences}
    return record(lake, entry.then(State.SWAPPING, params, versions_before=versions, evidence=evidence))


def swap_table(lake: Lake, settings: Settings, entry: Entry, item: Rewritten) -> int:
    """Replace a table's days by what is staged, once; gives the version that did it."""
    name = item.table.name
    first, last = entry.span(item)

    def is_done() -> bool:
        if commit_of(lake, item.table, entry, SWAP) is not None:
            return True
        if lake.version(item.table) != entry.versions_before.get(name, -1):
            now = range_digests(lake, item.table, first, last)
            require_same(entry, {name: entry.evidence["before"][name]}, {name: now}, "production has")
        return False

    staged = read_range(staging_of(settings, entry.name).staging, item.table, first, last)
    note = {"backfill": entry.name, "direction": SWAP}
    replace_range(lake, item.table, staged, first, last, note=note, unless=is_done)
    version = commit_of(lake, item.table, entry, SWAP)
    if version is None:
        raise SluiceError(f"table {name}: the commit of {entry.name} is not in its history; swap it again")
    return version


def restore_table(lake: Lake, entry: Entry, item: Rewritten, *, forced: bool) -> None:
    """Put a table's days back as they were before the swap, once."""
    name = item.table.name
    first, last = entry.span(item)

    def is_done() -> bool:
        # after a whole swap its commit is known, also where the log before it was cut
        if name not in entry.versions_after and commit_of(lake, item.table, entry, SWAP) is None:
            return True  # the swap never came to this table
        if commit_of(lake, item.table, entry, REVERSE) is not None:
            return True
        now = range_digests(lake, item.table, first, last)
        changed = changed_partitions({name: entry.evidence["staged"][name]}, {name: now})
        if changed and not forced:
            raise SluiceError(
                f"backfill {entry.name}: {changed[0]} was written again after the swap and taking it back "
                "would lose that; if this is right, say --accept-differences REASON"
            )
        return False

    before = entry.versions_before.get(name, -1)
    rows = (
        read_range(lake, item.table, first, last, version=before)
        if before >= 0
        else item.table.schema.empty_table()
    )
    note = {"backfill": entry.name, "direction": REVERSE}
    replace_range(lake, item.table, rows, first, last, note=note, unless=is_done)


def finish_swap(lake: Lake, settings: Settings, entry: Entry, params: Params) -> Entry:
    """Do what is left of a swap that has begun."""
    recipe = recipe_of(entry.dag)
    tables = tables_of(entry.dag, contract_of(settings))
    versions = {item.table.name: swap_table(lake, settings, entry, item) for item in tables}
    if recipe.after_swap:
        keep_records(settings, entry, versions)
        serve(lake, settings, recipe, entry)
    return record(lake, entry.then(State.SWAPPED, params, versions_after=versions))


def finish_reverse(lake: Lake, settings: Settings, entry: Entry, params: Params) -> Entry:
    """Do what is left of taking a swap back."""
    recipe = recipe_of(entry.dag)
    for item in reversed(tables_of(entry.dag, contract_of(settings))):
        restore_table(lake, entry, item, forced=bool(params.accept_differences))
    if recipe.after_swap:
        for day in days_between(entry.first, entry.last):
            drop_record(settings, day)
            drop_verdict(settings, day)
        serve(lake, settings, recipe, entry)
    entry = record(lake, entry.then(State.REVERSED, params))
    unpin(lake, pin_name(entry.name))
    return entry


def keep_records(settings: Settings, entry: Entry, versions: dict[str, int]) -> None:
    """Carry over what each day's features were built from, with the versions that now hold them."""
    staged = staged_settings(settings, entry.name)
    for day in days_between(entry.first, entry.last):
        found = read_record(staged, day)
        if found is None:
            drop_record(settings, day)
            drop_verdict(settings, day)
        else:
            keep_record(settings, day, found.model_copy(update={"versions": found.versions | versions}))
            carry_verdict(staged, settings, day, versions)


def serve(lake: Lake, settings: Settings, recipe: Recipe, entry: Entry) -> None:
    """What the DAG does once its tables are there, for the days that have rows."""
    there = set.intersection(*(set(lake.partitions(item.table)) for item in recipe.tables))
    days = [day for day in days_between(entry.first, entry.last) if str(day) in there]
    for step in recipe.after_swap if days else ():
        job = load_job(step.job)
        job.run(job.Params.model_validate(step.of_days(days)), settings)


def swapped(lake: Lake, settings: Settings, entry: Entry, params: Params) -> Entry:
    """The backfill after a swap, or as it is where nothing is to be executed."""
    require(entry, State.VALIDATED, State.SWAPPING, State.SWAPPED)
    if entry.state is State.VALIDATED:
        entry = begin(lake, settings, entry, params)
    if params.execute:
        if entry.state is State.SWAPPING:
            entry = finish_swap(lake, settings, entry, params)
        drop_staging(settings, entry.name)  # its rows are in production now
    return entry


def taken_back(lake: Lake, settings: Settings, entry: Entry, params: Params) -> Entry:
    """The backfill after its reversal, or as it is where nothing is to be executed."""
    require(entry, State.SWAPPING, State.SWAPPED, State.REVERSING, State.REVERSED)
    if params.execute and entry.state is not State.REVERSED:
        if entry.state is not State.REVERSING:
            entry = record(lake, entry.then(State.REVERSING, params))
        entry = finish_reverse(lake, settings, entry, params)
    if params.execute:
        unpin(lake, pin_name(entry.name))
        drop_staging(settings, entry.name)
    return entry


def run(params: Params, settings: Settings) -> Receipt:
    """Swap in or take back, or say what that would replace."""
    watch = Stopwatch()
    lake = production_of(settings)
    with working(lake, params.name):
        found = find(lake, params.name)
        entry = (taken_back if params.reverse else swapped)(lake, settings, found, params)
    return Receipt(
        job="swap_backfill",
        table=" ".join(item.table.name for item in recipe_of(entry.dag).tables),
        partition=entry.name,
        version=max(entry.versions_after.values(), default=-1),
        seconds=watch.seconds,
        facts={
            "state": entry.state.value,
            "executed": params.execute and entry.state is not found.state,
            "days": entry.days,
            "versions_before": entry.versions_before,
            "versions_after": entry.versions_after,
            "report": entry.report,
            "next_step": next_step(entry),
        },
    )
