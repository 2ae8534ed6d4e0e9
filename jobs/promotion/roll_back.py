"""Take a version out of traffic: all of it is on the champion, or on the champion before, at once.

In: the version and why. Out: the alias `challenger` gone from it; where it is champion, `champion` back on
the version of `previous`; tags rolled_back and the reason; a row of the record. Doing it twice is the same
as doing it once: the first reason stays.
Errors: SluiceError where there is no such version, or where it is champion and nothing came before it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import Field

from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch
from jobs.lake.store import Lake
from jobs.promotion import state as registry
from jobs.promotion.record import ROLL_BACK_ROW, StepRow, read_rows, write_row
from jobs.promotion.timeline import log_timeline

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("registry", "promotion_steps")


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version to take out of traffic")
    reason: str = Field(min_length=1, description="why, for the record")


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
    if aliases.get(registry.CHAMPION) == version:
        _champion_back(client, name, state, aliases)
        changed = True
    if aliases.get(registry.CHALLENGER) == version:
        # traffic first: without the alias no replica gives this version another request
        registry.remove_alias(client, name, registry.CHALLENGER, version)
        changed = True
    underway = state.tag(registry.TAG_PROMOTION) in (
        registry.OFFERED, registry.IN_SHADOW, registry.IN_CANARY,
    )  # fmt: skip
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
    if before.tag(registry.TAG_PROMOTION) != registry.COMPLETED:
        registry.write_tags(client, name, target, {registry.TAG_PROMOTION: registry.COMPLETED})
    registry.move_alias(client, name, registry.CHAMPION, target)
    older = before.tag(registry.TAG_PREVIOUS)
    if older and older != target and registry.read_version(client, name, older) is not None:
        registry.move_alias(client, name, registry.PREVIOUS, older)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    started = datetime.now(UTC)
    client, name, lake = registry.registry_client(settings), settings.model_name, Lake(settings.lake)
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
            outcome="fail", reason=reason, started_at=started, decided_at=datetime.now(UTC),
        )  # fmt: skip
        version = write_row(lake, row)
    if state and rolled_back and version >= 0:
        log_timeline(client, state, read_rows(lake, promotion))
    aliases = registry.read_aliases(client, name)
    facts = {
        "outcome": "rolled_back" if rolled_back else "nothing to do",
        "changed": changed,
        "model_version": params.version,
        "promotion_id": promotion,
        "reason": reason,
        "champion": aliases.get(registry.CHAMPION, ""),
    }
    return Receipt(
        job="roll_back", table="promotion_steps" if version >= 0 else "registry",
        partition=promotion, version=version, seconds=watch.seconds, facts=facts,
    )  # fmt: skip
