"""The promotion record: one row per promotion and step in `promotion_steps`, and what is required of it.

In: verdicts. Out: rows, replaced as one partition per promotion. One promotion has one operator, so its
partition is read, extended and replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from jobs import clock
from jobs.conf.policy import Policy
from jobs.core import Check, GateClosed, Outcome, SluiceError, StrictModel, Verdict
from jobs.lake.store import Lake
from jobs.lake.tables import PROMOTIONS
from jobs.promotion.state import (
    CHALLENGER,
    OFFERED,
    SHADOW_STEP,
    TAG_APPROVED_AT,
    TAG_APPROVED_BY,
    TAG_APPROVED_PROMOTION,
    TAG_APPROVED_VERSION,
    TAG_AUTHOR,
    TAG_JUDGED_AGAINST,
    TAG_PROMOTION,
    TAG_PROMOTION_ID,
    TAG_STEP_STARTED_AT,
    VersionState,
    needs_person,
    steps_of,
)

CHECK_ROW, PROMOTE_ROW, ROLL_BACK_ROW = "check", "promote", "roll_back"
CLOCKS_APART = timedelta(minutes=5)  # by which an approval may seem to come from the future


class StepRow(StrictModel):
    """One row of the record."""

    promotion: str
    model_version: str
    step: str
    outcome: str
    reason: str
    champion_requests: int = 0
    challenger_requests: int = 0
    started_at: datetime
    decided_at: datetime
    evidence: str = ""


def promotion_name(text: str, version: str) -> str:
    """An id that can name a partition; one is made from version and instant where none is given."""
    given = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
    return given or f"v{version}-{clock.now():%Y%m%dT%H%M%S}"


def unused_name(lake: Lake, promotion: str) -> str:
    """The id, or the next one where it has rows: a version offered again passes its steps anew."""
    found, number = promotion, 1
    while read_rows(lake, found):
        number += 1
        found = f"{promotion}-{number}"
    return found


def write_row(lake: Lake, row: StepRow) -> int:
    """Add a row to its promotion's record, in place of an earlier one of the same step."""
    kept = [each for each in read_rows(lake, row.promotion) if each.step != row.step]
    rows = [each.model_dump() for each in [*kept, row]]
    return lake.replace(PROMOTIONS, pa.Table.from_pylist(rows, PROMOTIONS.schema), row.promotion)


def read_rows(lake: Lake, promotion: str) -> list[StepRow]:
    """The record of one promotion in the order of its decisions."""
    return _in_order(lake.read(PROMOTIONS, first=promotion, last=promotion))


def read_all_rows(lake: Lake) -> list[StepRow]:
    """The record of all promotions in the order of the decisions."""
    return _in_order(lake.read(PROMOTIONS))


def _in_order(found: pa.Table) -> list[StepRow]:
    rows = found.to_pylist()
    return sorted((StepRow.model_validate(row) for row in rows), key=lambda row: row.decided_at)


def evidence_text(verdict: Verdict, further: Mapping[str, Any] | None = None) -> str:
    """A verdict's checks as JSON for the record."""
    checks = [check.model_dump(mode="json", exclude_none=True) for check in verdict.checks]
    return json.dumps({"checks": checks, **(further or {})})


def passed_steps(lake: Lake, state: VersionState) -> dict[str, StepRow]:
    """The steps that this version has passed in its present promotion."""
    promotion = state.tag(TAG_PROMOTION_ID)
    if not promotion:
        return {}
    return {
        row.step: row
        for row in read_rows(lake, promotion)
        if row.model_version == state.version and row.outcome == Outcome.PASS.value
    }


def required_steps(policy: Policy, has_champion: bool) -> tuple[str, ...]:
    """Steps before a version may be champion: the first version goes live after its shadow."""
    return steps_of(policy) if has_champion else (SHADOW_STEP,)


def closed(name: str, reason: str, where: str) -> GateClosed:
    """A gate that is closed for one reason."""
    check = Check(name=name, outcome=Outcome.FAIL, detail=reason)
    return GateClosed(Verdict.of([check]), where)


def require_offered(aliases: Mapping[str, str], version: str, where: str) -> None:
    """The version must still be the challenger: taking the alias away is how a person stops a promotion."""
    held = aliases.get(CHALLENGER)
    if held != version:
        now = f"points at version {held}" if held else "was taken away"
        raise closed("challenger", f"alias challenger {now}, so version {version} goes no further", where)


def evidence_problem(state: VersionState, champion: str) -> str:
    """Why the gate's evidence says nothing about a change from this champion; empty where it does."""
    against = state.tag(TAG_JUDGED_AGAINST)
    if against == champion:
        return ""
    judged = f"against version {against}" if against else "without a champion"
    now = f"version {champion}" if champion else "none"
    return f"the gate judged it {judged}, the champion now is {now}: evaluate it again by training again"


def require_settled(champion_problem: str, where: str) -> None:
    """Raises GateClosed where it cannot be told which version is the champion."""
    if champion_problem:
        raise closed("champion", champion_problem, where)


def require_evidence(state: VersionState, champion: str, where: str) -> None:
    """Raises GateClosed where the gate judged the version against another champion."""
    problem = evidence_problem(state, champion)
    if problem:
        raise closed("evidence", problem, where)


def author_problem(state: VersionState, person: str) -> str:
    """Why this person may not approve the version: its author may not, under no spelling of the name."""
    author = state.tag(TAG_AUTHOR).strip()
    if not author:
        return "its author is not known, so nobody can be told to be another: train again"
    same = person.strip().casefold() == author.casefold()
    return f"{person.strip()} is the author: somebody else must approve" if same else ""


def age_problem(at: str, policy: Policy, now: datetime) -> str:
    """Why an approval of this instant does not hold now."""
    try:
        age = now - instant(at)
    except SluiceError as error:
        return f"the approval's instant {error}"
    if age < -CLOCKS_APART:
        return f"the approval's instant lies in the future ({at})"
    if age > timedelta(days=policy.approval.expires_days):
        return f"the approval of {at} has expired: approve again"
    return ""


def approval_problem(state: VersionState, policy: Policy, now: datetime, *, has_champion: bool) -> str:
    """Why the approval that this version needs does not hold; empty where it does or none is needed."""
    if not needs_person(state, has_champion):
        return ""
    person, at = state.tag(TAG_APPROVED_BY).strip(), state.tag(TAG_APPROVED_AT)
    if not person or not at:
        return "a person must approve this version first: `sluice record_approval`"
    given_to = state.tag(TAG_APPROVED_VERSION)
    if given_to != state.version:
        what = f"was given to version {given_to}" if given_to else "names no version"
        return f"the approval by {person} {what}"
    # an approval may age while the steps that it allowed take their time
    problem = author_problem(state, person) or ("" if _begun(state) else age_problem(at, policy, now))
    if problem:
        return problem
    if state.tag(TAG_APPROVED_PROMOTION) != state.tag(TAG_PROMOTION_ID):
        return f"the approval by {person} was given to an earlier promotion of it: approve again"
    return ""


def _begun(state: VersionState) -> bool:
    """Whether the version's present promotion has had its first step started."""
    return bool(state.tag(TAG_STEP_STARTED_AT)) and state.tag(TAG_PROMOTION) != OFFERED


def require_approval(state: VersionState, policy: Policy, where: str, *, has_champion: bool) -> None:
    """Raises GateClosed where a needed approval is missing, another promotion's, or too old to begin with."""
    problem = approval_problem(state, policy, clock.now(), has_champion=has_champion)
    if problem:
        raise closed("approval", problem, where)


def instant(text: str) -> datetime:
    """An ISO instant in UTC; one without a zone is taken as UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SluiceError(f"{text!r} is no ISO instant, such as 2026-03-01T12:00:00+00:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
