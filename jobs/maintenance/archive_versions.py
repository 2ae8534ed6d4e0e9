"""The job `archive_versions`: versions of the model that nobody serves, offers or may go back to.

In: the registry, the policy's `retention.model_versions_days`. Out: the tag sluice.archived with the day, and
for a version that was never offered the promotion state `refused`; a completed or rolled back promotion stays
on record. The pins of its run go, so that vacuum_tables may clean the tables that it was trained on, and
check_challenger refuses it from then on. Nothing is deleted: bundle, figures and lineage stay in MLflow.
Never archived, whatever their age: a version with any alias, the one that the champion replaced, and one
whose promotion is under way.
Age: the later of the version's creation and of the day that it was trained for. A run for an earlier day
leaves a version alone that is younger than that day, and a model trained today on old days is not old.
Errors: SluiceError where MLflow does not answer, or where alias champion was moved by hand, so that the
version that serves is not known here; nothing is archived then.
"""

from __future__ import annotations

import logging
from datetime import date

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch
from jobs.lake.pins import unpin
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import PINS
from jobs.maintenance.common import TRAINING_PIN, MaintenanceParams, oldest_kept
from jobs.promotion import state as registry
from jobs.promotion.state import VersionState

READS = ("registry", "pins")
WRITES = ("registry",)

log = logging.getLogger(__name__)


class Params(MaintenanceParams):
    """The day from whose end ages are counted back."""


def last_day(state: VersionState) -> date:
    """The day that a version's age is counted from.

    Raises:
        SluiceError: its tag sluice.day is no day.
    """
    created, named = state.registered_at.date(), state.tag(registry.TAG_DAY)
    if not named:
        return created
    try:
        return max(created, date.fromisoformat(named))
    except ValueError:
        raise SluiceError(
            f"model version {state.version}: its tag {registry.TAG_DAY} is {named!r}, no day as YYYY-MM-DD; "
            "set it right in MLflow"
        ) from None


def stale(versions: list[VersionState], kept: set[str], before: date) -> list[VersionState]:
    """Versions that may be archived: old, not among those to keep, not archived and not under way."""
    return [
        version
        for version in versions
        if version.version not in kept
        and not version.tag(registry.TAG_ARCHIVED)
        and version.tag(registry.TAG_PROMOTION) not in registry.UNDER_WAY
        and last_day(version) < before
    ]


def archive_tags(state: VersionState, day: date) -> dict[str, str]:
    """The tags of an archived version; what became of a promotion stays on record."""
    archived = {registry.TAG_ARCHIVED: str(day)}  # last: a version with it is not looked at again
    if state.tag(registry.TAG_PROMOTION):
        return archived
    reason = registry.archived_text(str(day))
    return {registry.TAG_PROMOTION_REASON: reason, registry.TAG_PROMOTION: registry.REFUSED} | archived


def unneeded_pins(lake: Lake, versions: list[VersionState], archived: set[str]) -> list[str]:
    """Pins of runs all of whose versions are archived; also those that a killed job left."""
    needed = {each.tag(registry.TAG_RUN) for each in versions if each.version not in archived}
    runs = {each.tag(registry.TAG_RUN) for each in versions} - needed
    there = {str(name) for name in lake.partitions(PINS)}
    return sorted(there & {f"{TRAINING_PIN}{run}" for run in runs})


def run(params: Params, settings: Settings) -> Receipt:
    """Archive what is stale."""
    watch = Stopwatch()
    client, name, lake = registry.registry_client(settings), settings.model_name, lake_of(settings)
    versions = registry.read_versions(client, name)
    champion, problem = registry.settled_champion(client, name)
    if problem:
        raise SluiceError(f"archive_versions: nothing is archived: {problem}")
    by_number = {each.version: each for each in versions}
    replaced = by_number[champion].tag(registry.TAG_PREVIOUS) if champion in by_number else ""
    # aliases last: whatever got one until now is kept
    kept = {champion, replaced, *registry.read_aliases(client, name).values()}
    before = oldest_kept(params.day, policy_of(settings).retention.model_versions_days)
    found = stale(versions, kept, before)
    for state in () if params.dry_run else found:
        registry.write_tags(client, name, state.version, archive_tags(state, params.day))
        log.info("version %s of %s: archived", state.version, last_day(state))
    archived = {each.version for each in versions if each.tag(registry.TAG_ARCHIVED)}
    pins = unneeded_pins(lake, versions, (archived | {each.version for each in found}) - kept)
    for pin in () if params.dry_run else pins:
        unpin(lake, pin)
    return Receipt(
        job="archive_versions",
        table=WRITES[0],
        partition=str(params.day),
        rows=len(found),
        seconds=watch.seconds,
        facts={"dry_run": params.dry_run, "versions": [each.version for each in found], "pins": pins},
    )
