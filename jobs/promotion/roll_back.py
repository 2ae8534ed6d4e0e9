"""Take a version out of traffic: all of it is on the champion, or on the champion before, at once.

In: the version and why; without a version the challenger that is running, else the champion. Out: the alias
`challenger` gone from it; where it is champion, `champion` back on the version of `previous`; tags
rolled_back and the reason; a row of the record, and the promotion's page. Doing it twice is the same
as doing it once: the first reason stays, and without a version nothing more is taken back after a rollback
until a version is promoted. A dry run says what would be taken back.
With a promotion's id it takes back that promotion only, while it is under way: it never touches a version
that was not offered, was refused, or is champion for good.
Errors: SluiceError where there is no such version, where it is champion and nothing that served came before
it, or where alias champion was moved to it by hand, so that the version that serves is not known here.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import Field

from jobs import clock
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch
from jobs.lake.store import Lake, lake_of
from jobs.promotion import state as registry
from jobs.promotion.record import PROMOTE_ROW, ROLL_BACK_ROW, StepRow, read_all_rows, read_rows, write_row
from jobs.promotion.timeline import log_timeline, save_page

if TYPE_CHECKING:
    from mlflow import MlflowClient

NO_PROMOTION = "none"  # what a caller passes whose check offered nothing

READS: tuple[str, ...] = ("registry", "promotion_steps")
WRITES: tuple[str, ...] = ("registry", "promotion_steps")


class Params(JobParams):
    version: str = Field(
        "",
        pattern=r"^\d*$",
        description="version to take out of traffic; empty: the running challenger, else the champion",
    )
    reason: str = Field(min_length=1, description="why, for the record")
    promotion_id: str = Field("", description="only while this promotion is under way; empty: by hand")
    dry_run: bool = Field(False, description="say what would be taken back, change nothing")


def withdraw(client: MlflowClient, name: str, version: str, reason: str) -> bool:
    """Move the aliases and mark the version; says whether anything had to be changed.

    Raises:
        SluiceError: no such version, or it is the champion and there is no version to go back to.
    """
    state = registry.read_version(client, name, version)
    if state is None:
        raise SluiceError(f"roll_back version {version}: {name} has no such version; look it up in MLflow")
    aliases = registry.read_aliases(client, name)
    changed = False
    if aliases.get(registry.CHALLENGER) == version:
        # traffic first: without the alias no replica gives this version another request
        registry.remove_alias(client, name, registry.CHALLENGER, version)
        changed = True
    # an alias moved by hand gave it no traffic, and `previous` is not what serves instead
    if registry.read_routing(client, name).champion == version:
        _champion_back(client, name, state, aliases)
        changed = True
    underway = state.tag(registry.TAG_PROMOTION) in registry.UNDER_WAY
    if changed or underway:
        tags = {
            registry.TAG_PROMOTION_REASON: reason[:1000],
            registry.TAG_PROMOTION: registry.ROLLED_BACK,
        }
        registry.write_tags(client, name, version, tags)
    return changed or underway


def _champion_back(
    client: MlflowClient, name: str, state: registry.VersionState, aliases: dict[str, str]
) -> None:
    target = aliases.get(registry.PREVIOUS)
    if target is None or target == state.version:
        raise SluiceError(
            f"roll_back version {state.version}: it is champion and alias previous names no other version; "
            "give previous to the version that shall serve"
        )
    before = registry.read_version(client, name, target)
    if before is None:
        raise SluiceError(
            f"roll_back version {state.version}: previous names version {target}, which is gone"
        )
    if not registry.has_served(before):
        raise SluiceError(
            f"roll_back version {state.version}: previous names version {target}, which never served; "
            "give previous to the version that shall serve"
        )
    registry.move_alias(client, name, registry.CHAMPION, target)
    if before.tag(registry.TAG_PROMOTION) != registry.COMPLETED:
        return  # serving accepts it only as the version of `previous`
    older = before.tag(registry.TAG_PREVIOUS)
    if older and older != target and registry.read_version(client, name, older) is not None:
        registry.move_alias(client, name, registry.PREVIOUS, older)


def nothing_to_take_back(state: registry.VersionState | None, promotion: str) -> str:
    """Why this promotion has nothing to take back; empty where it is under way or half taken back."""
    if state is None:
        return "nothing to take back: there is no such version"
    present, record = state.tag(registry.TAG_PROMOTION_ID), state.tag(registry.TAG_PROMOTION)
    if promotion == NO_PROMOTION or present != promotion:
        return f"nothing to take back: its promotion is {present or 'none'}, not {promotion}"
    if record not in (*registry.UNDER_WAY, registry.ROLLED_BACK):
        return f"nothing to take back: promotion {promotion} is {record or 'without a record'}"
    return ""


def version_in_traffic(client: MlflowClient, name: str, lake: Lake) -> str:
    """The version that somebody means who names none; empty where the last one was taken back already.

    Raises:
        SluiceError: there is neither challenger nor champion.
    """
    aliases = registry.read_aliases(client, name)
    challenger, champion = aliases.get(registry.CHALLENGER), aliases.get(registry.CHAMPION)
    if challenger:
        return challenger
    if not champion:
        raise SluiceError(f"roll_back: {name} has neither challenger nor champion: the rules answer alone")
    ends = [row for row in read_all_rows(lake) if row.step in (PROMOTE_ROW, ROLL_BACK_ROW)]
    recorded = {row.promotion for row in ends if row.step == ROLL_BACK_ROW}
    promoted_last = not ends or (ends[-1].step, ends[-1].model_version) == (PROMOTE_ROW, champion)
    promoted_at = ends[-1].decided_at if ends and promoted_last else None
    for state in registry.read_versions(client, name):
        record, promotion = state.tag(registry.TAG_PROMOTION), state.tag(registry.TAG_PROMOTION_ID)
        half = record == registry.ROLLED_BACK and promotion and promotion not in recorded
        # one from before the champion's promotion is left over, and nobody means it any more
        if (record in registry.UNDER_WAY or half) and (promoted_at is None or _begun(state) > promoted_at):
            return state.version  # a rollback of it was cut off: the next try ends it
    return champion if promoted_last else ""


def running_promotion(settings: Settings) -> dict[str, str]:
    """Version and promotion_id of the challenger whose promotion is under way; empty where none is."""
    client, name = registry.registry_client(settings), settings.model_name
    version = registry.read_aliases(client, name).get(registry.CHALLENGER)
    state = registry.read_version(client, name, version) if version else None
    if state is None or state.tag(registry.TAG_PROMOTION) not in registry.UNDER_WAY:
        return {}
    return {"version": state.version, "promotion_id": state.tag(registry.TAG_PROMOTION_ID)}


def _begun(state: registry.VersionState) -> datetime:
    """When a version's last step began; where none did, when it was registered."""
    started = state.tag(registry.TAG_STEP_STARTED_AT)
    return datetime.fromisoformat(started) if started else state.registered_at


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    client, name, lake = registry.registry_client(settings), settings.model_name, lake_of(settings)
    if not params.version:
        if params.promotion_id:
            raise SluiceError(f"roll_back of promotion {params.promotion_id}: say which version it is about")
        version = version_in_traffic(client, name, lake)
        if not version:
            last = "the last version was taken back already; name the version to take back the champion too"
            return _untouched(params, last, registry.read_aliases(client, name), watch)
        params = params.model_copy(update={"version": version})
    if params.dry_run:
        aliases = registry.read_aliases(client, name)
        said = _what_would_happen(params.version, aliases)
        return _untouched(params, f"dry run: {said}", aliases, watch)
    return _take_back(params, settings, client, watch)


def _what_would_happen(version: str, aliases: dict[str, str]) -> str:
    if aliases.get(registry.CHALLENGER) == version:
        return f"challenger {version} would lose its traffic"
    if aliases.get(registry.CHAMPION) == version:
        return f"champion {version} would give way to version {aliases.get(registry.PREVIOUS) or 'none'}"
    return f"version {version} is neither challenger nor champion"


def _take_back(params: Params, settings: Settings, client: MlflowClient, watch: Stopwatch) -> Receipt:
    started = clock.now()
    name, lake = settings.model_name, lake_of(settings)
    if params.promotion_id:
        before = registry.read_version(client, name, params.version)
        nothing = nothing_to_take_back(before, params.promotion_id)
        if nothing:
            return _untouched(params, nothing, registry.read_aliases(client, name), watch)
    changed = withdraw(client, name, params.version, params.reason)
    state = registry.read_version(client, name, params.version)
    promotion = state.tag(registry.TAG_PROMOTION_ID) if state else ""
    rolled_back = bool(state and state.tag(registry.TAG_PROMOTION) == registry.ROLLED_BACK)
    reason = state.tag(registry.TAG_PROMOTION_REASON) if state and rolled_back else ""
    version = -1
    recorded = any(row.step == ROLL_BACK_ROW for row in read_rows(lake, promotion)) if promotion else True
    if rolled_back and not recorded:
        row = StepRow(
            promotion=promotion, model_version=params.version, step=ROLL_BACK_ROW,
            outcome="fail", reason=reason, started_at=started, decided_at=clock.now(),
        )  # fmt: skip
        version = write_row(lake, row)
    rows = read_rows(lake, promotion) if promotion else []
    if state and rolled_back:
        log_timeline(client, state, rows)
    report = save_page(settings, promotion, rows) if promotion else ""
    aliases = registry.read_aliases(client, name)
    if aliases.get(registry.CHAMPION) == params.version:
        raise SluiceError(
            f"roll_back version {params.version}: it gets no traffic, but alias champion was moved to it by "
            "hand: set alias champion back to the version that serves"
        )
    facts = {
        "outcome": "rolled_back" if rolled_back else "nothing to do",
        "changed": changed,
        "model_version": params.version,
        "promotion_id": promotion,
        "reason": reason,
        "champion": aliases.get(registry.CHAMPION, ""),
        "report": report,
    }
    return Receipt(
        job="roll_back", table="promotion_steps" if version >= 0 else "registry",
        partition=promotion, version=version, seconds=watch.seconds, facts=facts,
    )  # fmt: skip


def _untouched(params: Params, reason: str, aliases: dict[str, str], watch: Stopwatch) -> Receipt:
    facts = {
        "outcome": "nothing to do",
        "changed": False,
        "model_version": params.version,
        "promotion_id": params.promotion_id,
        "reason": reason,
        "champion": aliases.get(registry.CHAMPION, ""),
    }
    return Receipt(job="roll_back", table="registry", seconds=watch.seconds, facts=facts)
