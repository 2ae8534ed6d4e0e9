"""From findings to a verdict, and the evidence that the next jobs read.

In: what the suite found. Out: `Validation` (verdict, counts, figures, links) and the parsed rows, both under
`work/<feed>/<day>/`: `validation.json` and `parsed.parquet`.
The gate is closed by a failed rule, by too low a quality score, and by missing evidence.
Errors: GateClosed where validation did not pass, or is missing, unreadable or about another landed file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from jobs.conf.policy import Quality
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, StrictModel, Verdict
from jobs.files import write_whole
from jobs.ingest.landing import Landed, newest
from jobs.quality.findings import Finding, SuiteRun
from jobs.quality.suites import DUPLICATE, VOLUME, Rule

BATCH_ROWS = 1 << 18
PARSED = "parsed.parquet"
VALIDATION = "validation.json"


class Validation(StrictModel):
    """The outcome of validating one landed file."""

    day: date
    feed: str
    landed_digest: str
    contract_digest: str  # of what the source promised at the time
    rows: int = Field(ge=0)
    good_rows: int = Field(ge=0)
    broken_by_rule: dict[str, int]
    figures: dict[str, float | None]  # of the day; None: unknown, for want of history
    quality_score: float | None  # None where there are no rows
    verdict: Verdict
    alerts: tuple[str, ...]
    page: str
    parsed_digest: str


def judge(
    run: SuiteRun,
    rules: tuple[Rule, ...],
    rows: int,
    quality: Quality,
    *,
    bad_rows: int = 0,
    may_be_empty: bool = False,
) -> tuple[Verdict, float | None, dict[str, str]]:
    """The verdict, the quality score and the alerts: rule -> sentence.

    `bad_rows` counts the rows that broke any rule which is scored.
    """
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
        share = finding.broken / finding.checked if finding.checked else 0.0
        sentence = _sentence(rule, finding, rows)
        if rule.critical:
            outcome = Outcome.PASS if finding.passed else Outcome.FAIL
            detail = "" if finding.passed else sentence
            value, threshold = (share, rule.allowed) if rule.scope == "row" else _figure(rule, finding)
            checks.append(
                Check(name=rule.name, outcome=outcome, value=value, threshold=threshold, detail=detail)
            )
        elif not finding.passed:
            alerts[rule.name] = sentence
        if rule.name == DUPLICATE and quality.duplicate_share_warn < share:
            alerts[DUPLICATE] = f"{DUPLICATE}: {share:.2%} of the rows"
    score = 1.0 - bad_rows / rows if rows else None
    if score is not None:
        checks.append(_score_check(score, quality.passing_rows_min))
    return Verdict.of(checks), score, alerts


def _figure(rule: Rule, finding: Finding) -> tuple[float | None, float | None]:
    return finding.observed, rule.minimum if rule.maximum is None else rule.maximum


def _sentence(rule: Rule, finding: Finding, rows: int) -> str:
    """What a broken rule says."""
    if rule.scope == "row":
        share = finding.broken / finding.checked if finding.checked else 0.0
        return f"{rule.name}: {share:.2%} of the rows, at most {rule.allowed:.2%} allowed"
    value = finding.observed or 0.0
    if rule.name == VOLUME:
        return f"{rule.name}: {rows} rows"
    if rule.minimum is not None:
        return (
            f"{rule.name}: {rows} rows, {value:.0%} of the usual number, at least {rule.minimum:.0%} needed"
        )
    if rule.column.endswith("_share"):
        return f"{rule.name}: {value:.2%} of the rows, at most {rule.maximum:.2%} allowed"
    return f"{rule.name}: {rule.column} is {value:.3g}, at most {rule.maximum:g} allowed"


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


def _score_check(score: float, minimum: float) -> Check:
    passed = score >= minimum
    return Check(
        name="quality score",
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        value=score,
        threshold=minimum,
        detail="" if passed else f"only {score:.2%} of the rows pass every rule, {minimum:.0%} must",
    )


def evidence_folder(settings: Settings, feed: str, day: date) -> Path:
    """Where the evidence of a feed's day lies."""
    return settings.work / feed / str(day)


def write_evidence(settings: Settings, validation: Validation, parsed: Path) -> Validation:
    """Put the rows in place, then the verdict with their digest: half of a pair is never accepted."""
    folder = evidence_folder(settings, validation.feed, validation.day)
    validation = validation.model_copy(update={"parsed_digest": _digest(parsed)})
    parsed.replace(folder / PARSED)
    write_whole(folder / VALIDATION, validation.model_dump_json(indent=1))
    return validation


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Parsed:
    """The parsed rows of a validation, read in batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = int(pq.ParquetFile(path).metadata.num_rows)

    def good(self) -> Iterator[pa.RecordBatch]:
        """The rows that broke no rule, without `rule` and `row`."""
        for batch in self._batches(without="row"):
            good = batch.filter(pc.equal(batch["rule"], ""))
            if len(good):
                yield good.drop_columns(["rule"])

    def bad(self) -> pa.Table:
        """The rows that broke a rule."""
        bad = [batch.filter(pc.not_equal(batch["rule"], "")) for batch in self._batches()]
        return pa.Table.from_batches(bad, schema=pq.read_schema(self.path))

    def bad_rows(self) -> int:
        """How many rows broke a rule."""
        return sum(pc.sum(pc.not_equal(batch["rule"], "")).as_py() or 0 for batch in self._batches("rule"))

    def _batches(self, only: str = "", without: str = "") -> Iterator[pa.RecordBatch]:
        # what is read ahead would be kept until the end: the whole file
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            names = [name for name in file.schema_arrow.names if name != without and only in ("", name)]
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names)


def read_evidence(settings: Settings, feed: str, day: date) -> tuple[Validation, Parsed, Landed]:
    """The passed validation of a day, its rows, and the landed file that it is about.

    Raises:
        GateClosed: it did not pass, is missing or unreadable, is about another file, or
            landed = good + quarantined does not hold.
    """
    where = f"{feed} of {day}"
    landed = newest(settings, feed, day)
    folder = evidence_folder(settings, feed, day)
    again = f"run validate_{feed} for this day"
    try:
        validation = Validation.model_validate_json((folder / VALIDATION).read_bytes())
        digest = _digest(folder / PARSED)
    except FileNotFoundError:
        raise _closed(where, f"there is no validation; {again} first") from None
    except ValidationError:
        raise _closed(where, f"the validation is not readable; {again} again") from None
    if validation.landed_digest != landed.digest:
        raise _closed(where, f"the validation is about another landed file; {again} again")
    if validation.parsed_digest != digest:
        raise _closed(where, f"the parsed rows are not those of the validation; {again} again")
    if validation.verdict.outcome is not Outcome.PASS:
        raise GateClosed(validation.verdict, where)
    parsed = Parsed(folder / PARSED)
    if not landed.rows == validation.rows == parsed.rows:
        raise _closed(where, f"{landed.rows} rows were landed but {parsed.rows} were validated")
    return validation, parsed, landed


def split_rows(validation: Validation, parsed: Parsed, landed: Landed) -> tuple[pa.Table, pa.Table]:
    """Good and quarantined rows of a small feed.

    Raises:
        GateClosed: landed = good + quarantined does not hold.
    """
    rows = pq.read_table(parsed.path)
    is_good = pc.equal(rows["rule"], "")
    good, bad = rows.filter(is_good), rows.filter(pc.invert(is_good))
    check_account(validation, landed, len(good), len(bad))
    return good, bad


def check_account(validation: Validation, landed: Landed, good: int, bad: int) -> None:
    """Refuse what loses or invents a row.

    Raises:
        GateClosed: landed = good + quarantined does not hold.
    """
    if not (landed.rows == validation.rows == good + bad and validation.good_rows == good):
        raise _closed(
            f"{validation.feed} of {validation.day}",
            f"{landed.rows} rows were landed but {good} are good and {bad} quarantined",
        )


def _closed(where: str, reason: str) -> GateClosed:
    check = Check(name="evidence", outcome=Outcome.FAIL, detail=reason)
    return GateClosed(Verdict.of([check]), where)


def unknown_figures(figures: Mapping[str, float | None]) -> list[str]:
    """What could not be judged for want of history."""
    return sorted(name for name, value in figures.items() if value is None)
