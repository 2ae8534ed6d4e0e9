"""From findings to a verdict, and the evidence that the next jobs read.

In: what the suite found. Out: `Validation` (verdict, counts, links) and the parsed rows, both under
`work/<feed>/<day>/`: `validation.json` and `parsed.parquet`.
The gate is closed by a failed rule, by too low a quality score, and by missing evidence.
Errors: GateClosed where validation did not pass, or is missing, unreadable or about another landed file.
"""

from __future__ import annotations

import hashlib
import io
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from jobs.conf.policy import Quality
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, StrictModel, Verdict
from jobs.ingest.files import write_atomic
from jobs.ingest.landing import Landed, newest
from jobs.quality.checkpoint import SuiteRun
from jobs.quality.suites import DUPLICATE, Rule


class Validation(StrictModel):
    """The outcome of validating one landed file."""

    day: date
    feed: str
    landed_digest: str
    rows: int = Field(ge=0)
    good_rows: int = Field(ge=0)
    broken_by_rule: dict[str, int]
    quality_score: float | None  # None where there are no rows
    verdict: Verdict
    alerts: tuple[str, ...]
    page: str
    parsed_digest: str


def broken_rows(run: SuiteRun, rules: tuple[Rule, ...]) -> dict[int, list[str]]:
    """For each row that broke a rule, the rules, in the order of the suite."""
    found = {finding.rule: finding.rows for finding in run.findings}
    broken: dict[int, list[str]] = {}
    for rule in rules:
        if rule.row_level:
            for number in found.get(rule.name, ()):
                broken.setdefault(number, []).append(rule.name)
    return broken


def judge(
    run: SuiteRun,
    rules: tuple[Rule, ...],
    rows: int,
    quality: Quality,
    *,
    may_be_empty: bool = False,
) -> tuple[Verdict, float | None, dict[str, str]]:
    """The verdict, the quality score and the alerts: rule -> sentence."""
    checks = [_evidence(run, rules)]
    if not may_be_empty:
        outcome = Outcome.PASS if rows else Outcome.FAIL
        checks.append(
            Check(name="rows", outcome=outcome, value=rows, threshold=1,
                  detail="" if rows else "the file has no rows")
        )  # fmt: skip
    found = {finding.rule: finding for finding in run.findings}
    alerts: dict[str, str] = {}
    for rule in rules:
        finding = found.get(rule.name)
        if finding is None:
            continue  # the check of the evidence has failed already
        share = len(finding.rows) / finding.checked if finding.checked else 0.0
        sentence = f"{rule.name}: {share:.2%} of the rows, at most {rule.allowed:.2%} allowed"
        if rule.critical:
            outcome = Outcome.PASS if finding.passed else Outcome.FAIL
            detail = "" if finding.passed else sentence
            checks.append(
                Check(name=rule.name, outcome=outcome, value=share, threshold=rule.allowed,
                      detail=detail)
            )  # fmt: skip
        elif not finding.passed:
            counted = finding.observed is not None
            alerts[rule.name] = f"{rule.name}: {finding.observed:g} rows" if counted else sentence
        if rule.name == DUPLICATE and quality.duplicate_share_warn < share:
            alerts[DUPLICATE] = f"{DUPLICATE}: {share:.2%} of the rows"
    score = _score(run, rules, rows)
    if score is not None:
        checks.append(_score_check(score, quality.passing_rows_min))
    return Verdict.of(checks), score, alerts


def _evidence(run: SuiteRun, rules: tuple[Rule, ...]) -> Check:
    """Every rule must have been evaluated, each once."""
    names = [finding.rule for finding in run.findings]
    errors = [f"{finding.rule}: {finding.error}" for finding in run.findings if finding.error]
    wanted = [rule.name for rule in rules]
    if sorted(names) != sorted(wanted):
        missing = sorted(set(wanted) - set(names))
        errors.append(f"no evidence for: {', '.join(missing) or 'a rule named twice'}")
    return Check(
        name="evidence",
        outcome=Outcome.FAIL if errors else Outcome.PASS,
        value=float(len(names)),
        threshold=float(len(wanted)),
        detail="; ".join(errors),
    )


def _score(run: SuiteRun, rules: tuple[Rule, ...], rows: int) -> float | None:
    """Share of rows that pass every rule that counts."""
    if not rows:
        return None
    scored = {rule.name for rule in rules if rule.row_level and rule.scored}
    bad = {number for finding in run.findings if finding.rule in scored for number in finding.rows}
    return 1.0 - len(bad) / rows


def _score_check(score: float, minimum: float) -> Check:
    passed = score >= minimum
    return Check(
        name="quality score",
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        value=score,
        threshold=minimum,
        detail="" if passed else f"only {score:.2%} of the rows pass every rule, {minimum:.0%} must",
    )


def write_evidence(settings: Settings, validation: Validation, parsed: pa.Table) -> Validation:
    """Write the rows, then the verdict that names their digest: a half-written pair is never accepted."""
    folder = settings.work / validation.feed / str(validation.day)
    sink = io.BytesIO()
    pq.write_table(parsed, sink)
    data = sink.getvalue()
    validation = validation.model_copy(update={"parsed_digest": hashlib.sha256(data).hexdigest()})
    write_atomic(folder / "parsed.parquet", data)
    write_atomic(folder / "validation.json", validation.model_dump_json(indent=1).encode())
    return validation


def read_evidence(settings: Settings, feed: str, day: date) -> tuple[Validation, pa.Table, Landed]:
    """The passed validation of a day, its rows, and the landed file that it is about.

    Raises:
        GateClosed: it did not pass, is missing or unreadable, or is about another file.
    """
    where = f"{feed} of {day}"
    landed = newest(settings, feed, day)
    folder = settings.work / feed / str(day)
    again = f"run validate_{feed} for this day"
    try:
        validation = Validation.model_validate_json((folder / "validation.json").read_bytes())
        data = (folder / "parsed.parquet").read_bytes()
    except FileNotFoundError:
        raise _closed(where, f"there is no validation; {again} first") from None
    except ValidationError:
        raise _closed(where, f"the validation is not readable; {again} again") from None
    if validation.landed_digest != landed.digest:
        raise _closed(where, f"the validation is about another landed file; {again} again")
    if validation.parsed_digest != hashlib.sha256(data).hexdigest():
        raise _closed(where, f"the parsed rows are not those of the validation; {again} again")
    if validation.verdict.outcome is not Outcome.PASS:
        raise GateClosed(validation.verdict, where)
    return validation, pq.read_table(io.BytesIO(data)), landed


def split_rows(validation: Validation, parsed: pa.Table, landed: Landed) -> tuple[pa.Table, pa.Table]:
    """Good and quarantined rows.

    Raises:
        GateClosed: landed = good + quarantined does not hold.
    """
    is_good = pc.equal(parsed["rule"], "")
    good, bad = parsed.filter(is_good), parsed.filter(pc.invert(is_good))
    if not (landed.rows == validation.rows == len(good) + len(bad) == len(parsed)):
        raise _closed(
            f"{validation.feed} of {validation.day}",
            f"{landed.rows} rows were landed but {len(good)} are good and {len(bad)} quarantined",
        )
    return good, bad


def _closed(where: str, reason: str) -> GateClosed:
    check = Check(name="evidence", outcome=Outcome.FAIL, detail=reason)
    return GateClosed(Verdict.of([check]), where)
