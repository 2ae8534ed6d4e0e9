"""Validating one landed file of either feed: what both validation jobs share.

In: a landed raw object. Out: `Validation` and the parsed rows (`frame.py` names their columns) in `work/`, a
Data Docs page, alerts. The file is read in chunks: first its keys, to know the copies, then everything once.
The rows to quarantine come from masks of our own; Great Expectations counts them too, and where it counts
otherwise the gate is closed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import Contract, contract_of
from jobs.conf.policy import Quality
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome, Receipt, Stopwatch
from jobs.ingest.landing import Landed, landed_object, newest
from jobs.ingest.releases import is_releasable, released_rows
from jobs.lake.store import lake_of
from jobs.lake.tables import RULE_SEPARATOR
from jobs.quality.checkpoint import Judge
from jobs.quality.chunks import Chunk, open_rows
from jobs.quality.copies import Copies, Keys, Published, find_copies, read_keys
from jobs.quality.feeds import Feed
from jobs.quality.findings import Finding, SuiteRun
from jobs.quality.frame import (
    broken_by,
    check_columns,
    checked,
    parsed,
    parsed_schema,
    rule_texts,
    typed,
)
from jobs.quality.gate import (
    Validation,
    evidence_folder,
    judge,
    unknown_figures,
    write_evidence,
)
from jobs.quality.suites import LATE_ALREADY, Rule

DIGEST_DIGITS = 16
GOOD_OR_LATE = pa.array(["", LATE_ALREADY])


class Tally(NamedTuple):
    """What was counted while a file was read."""

    rows: int
    bad_rows: int  # broke a rule that is scored, also where a person has vouched for them since
    good_rows: int
    broken_by_rule: dict[str, int]
    disagreements: list[str]  # rules of which Great Expectations counts other rows than we


def validate_landed(
    settings: Settings,
    feed: Feed,
    day: date,
    quality: Quality,
    rules: tuple[Rule, ...],
    *,
    published: Callable[[Keys], Published],
    figures: Callable[[Keys, Tally], dict[str, float | None]],
    look: Callable[[pa.RecordBatch], None] = lambda good: None,
    may_be_empty: bool = False,
) -> Receipt:
    """Read, check, write the evidence.

    `published` marks the rows whose key another file has published, `look` sees all good rows and those that
    a later file has brought, and `figures` gives what the rules about the day judge.

    Raises:
        GateClosed: the file does not pass; its evidence is written by then.
    """
    watch = Stopwatch()
    landed = newest(settings, feed.name, day)
    where = f"{feed.name} of {day} ({landed.address})"
    path = landed_object(settings, landed)
    first_pass = open_rows(path, feed.format, where)
    check_columns(first_pass.header, feed, where)
    keys = read_keys(first_pass.chunks, feed, landed.rows)

    def chunks(only: str | None) -> Iterator[Chunk]:
        return open_rows(path, feed.format, where).chunks(only)

    copies = find_copies(chunks, feed, keys, published(keys))
    judging = Judge(feed.name, rules)
    folder = evidence_folder(settings, feed.name, day)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".parsed.{os.getpid()}"
    try:
        released = released_rows(lake_of(settings), feed.name, day, landed.digest)
        tally = _read_all(chunks(None), copies, released, feed, day, rules, judging, partial, look)
        known = figures(keys, tally)
        judging.figures(known)
        run = judging.finish(settings, day, landed.run_name)
        validation, alerts = _decide(
            settings, feed, landed, quality, rules, tally, known, run, may_be_empty=may_be_empty
        )
        validation = write_evidence(settings, validation, partial)
    finally:
        partial.unlink(missing_ok=True)
    raise_alerts(settings, quality_alerts(settings, validation, alerts))
    if validation.verdict.outcome is not Outcome.PASS:
        evidence = settings.reports / validation.page
        raise GateClosed(validation.verdict, f"{where}; evidence: {evidence}", validation.page)
    return _receipt(validation, landed, watch)


def _read_all(
    chunks: Iterator[Chunk], copies: Copies, released: set[int], feed: Feed, day: date,
    rules: tuple[Rule, ...], judging: Judge, target: Path, look: Callable[[pa.RecordBatch], None],
) -> Tally:  # fmt: skip
    """Judge every chunk and write its parsed rows."""
    of_rows = [rule for rule in rules if rule.scope == "row"]
    counts: Counter[str] = Counter()
    disagreements: set[str] = set()
    rows = bad_rows = good_rows = 0
    with pq.ParquetWriter(target, parsed_schema(feed), use_dictionary=["rule"]) as writer:
        for chunk in _or_one_empty(chunks):
            values = typed(chunk, feed)
            frame = checked(chunk, values, copies.of(chunk), feed, day)
            broken = {rule.name: broken_by(rule, frame) for rule in of_rows}
            ours = {name: int(mask.sum()) for name, mask in broken.items()}
            theirs = judging.rows(frame)
            disagreements |= {name for name, count in ours.items() if theirs.get(name) != count}
            texts = rule_texts(broken, chunk.size)
            bad_rows += int(np.any([broken[rule.name] for rule in of_rows if rule.scored], axis=0).sum())
            for place in _vouched_for(texts, released, chunk.first):
                texts[place] = ""
                for mask in broken.values():
                    mask[place] = False
            batch = parsed(chunk, values, texts, feed, day)
            writer.write_batch(batch)
            look(batch.filter(pc.is_in(batch["rule"], GOOD_OR_LATE)))
            counts.update({name: int(mask.sum()) for name, mask in broken.items()})
            rows += chunk.size
            good_rows += int((texts == "").sum())
    return Tally(
        rows, bad_rows, good_rows, {n: c for n, c in sorted(counts.items()) if c}, sorted(disagreements)
    )


def _vouched_for(texts: NDArray[Any], released: set[int], first: int) -> list[int]:
    """Places of the released rows, except of those that have come to break another rule since."""
    places = [number - first for number in released if first <= number < first + len(texts)]
    return [place for place in places if texts[place] and is_releasable(texts[place].split(RULE_SEPARATOR))]


def _or_one_empty(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks; one without rows where there is none, so that every rule is evaluated."""
    none = True
    for chunk in chunks:
        none = False
        yield chunk
    if none:
        yield Chunk(1, {}, np.empty(0, dtype=np.int64), [])


def _decide(
    settings: Settings,
    feed: Feed,
    landed: Landed,
    quality: Quality,
    rules: tuple[Rule, ...],
    tally: Tally,
    figures: Mapping[str, float | None],
    run: SuiteRun,
    *,
    may_be_empty: bool,
) -> tuple[Validation, dict[str, str]]:
    run = run._replace(findings=tuple(_trusted(finding, tally) for finding in run.findings))
    verdict, score, alerts = judge(
        run, rules, tally.rows, quality, bad_rows=tally.bad_rows, may_be_empty=may_be_empty
    )
    validation = Validation(
        day=landed.day,
        feed=feed.name,
        landed_digest=landed.digest,
        contract_digest=contract_digest(contract_of(settings)),
        rows=tally.rows,
        good_rows=tally.good_rows,
        broken_by_rule=tally.broken_by_rule,
        figures=dict(figures),
        quality_score=score,
        verdict=verdict,
        alerts=tuple(alerts.values()),
        page=run.page,
        parsed_digest="",
    )
    return validation, alerts


def _trusted(finding: Finding, tally: Tally) -> Finding:
    if finding.rule not in tally.disagreements or finding.error:
        return finding
    return finding._replace(error="Great Expectations counts other rows than the quarantine")


def contract_digest(contract: Contract) -> str:
    """Digest of everything that a contract says."""
    return hashlib.sha256(contract.model_dump_json().encode()).hexdigest()


def quality_alerts(settings: Settings, validation: Validation, found: dict[str, str]) -> list[Alert]:
    """The alerts of a day's feed; `found` is rule -> sentence."""
    return [
        Alert(
            key=f"{validation.day}/{validation.feed}/{rule}",
            cause=f"{validation.feed} of {validation.day}: {sentence}",
            owner=contract_of(settings).owner,
            action="ask the sender whether the file is whole; land and validate the day again if it is not",
            facts={"rows": validation.rows, "good_rows": validation.good_rows, "report": validation.page},
        )
        for rule, sentence in found.items()
    ]


def _receipt(validation: Validation, landed: Landed, watch: Stopwatch) -> Receipt:
    return Receipt(
        job=f"validate_{validation.feed}",
        table="validation" if validation.feed == "transactions" else "validation_labels",
        partition=str(validation.day),
        rows=validation.rows,
        digest=validation.parsed_digest[:DIGEST_DIGITS],
        seconds=watch.seconds,
        facts={
            "verdict": validation.verdict.outcome.value,
            "reason": validation.verdict.reason,
            "good_rows": validation.good_rows,
            "quarantined_rows": validation.rows - validation.good_rows,
            "broken_by_rule": validation.broken_by_rule,
            "quality_score": validation.quality_score,
            "alerts": list(validation.alerts),
            "unknown": unknown_figures(validation.figures),
            "report": validation.page,
            "landed_version": landed.sequence,
        },
    )
