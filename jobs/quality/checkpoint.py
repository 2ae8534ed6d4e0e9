"""Running a suite with Great Expectations: a file context in `<home>/gx`, Data Docs in `<home>/reports`.

In: rules and a frame. Out: what each rule found. One validation at a time: Great Expectations' file stores
know no locks, so a lock that the kernel drops when its holder dies guards them; a run takes about 0.2 s.
A run is named by its day and the landed file's digest, so repeating it writes the same page again.
Errors: SluiceError where the context cannot be made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any, NamedTuple

import great_expectations as gx
import pandas as pd
from great_expectations.checkpoint import UpdateDataDocsAction
from great_expectations.exceptions import GreatExpectationsError
from ruamel.yaml.error import YAMLError

from jobs.conf.settings import Settings
from jobs.core import SluiceError, midnight
from jobs.ingest.files import write_atomic
from jobs.locks import file_lock
from jobs.quality.parse import FIELDS
from jobs.quality.suites import Rule

SITE = "local_site"
PAGES_IN_INDEX = 120  # the newest data days; older pages stay, linked by their receipts
STAMP = ".set_up"
# what reading a configuration file raises that was cut off in the middle
HALF_WRITTEN = (
    GreatExpectationsError, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError,
)  # fmt: skip


class Finding(NamedTuple):
    """What one rule found."""

    rule: str
    passed: bool
    checked: int  # rows that the rule looked at
    rows: tuple[int, ...]  # numbers of the rows that broke it
    observed: float | None  # of a rule about the table
    error: str  # the rule could not be evaluated


class SuiteRun(NamedTuple):
    """What a suite found, and the page that shows it (relative to `<home>/reports`)."""

    findings: tuple[Finding, ...]
    page: str


def run_suite(
    settings: Settings,
    feed: str,
    day: date,
    run_name: str,
    rules: tuple[Rule, ...],
    frame: pd.DataFrame,
    parameters: dict[str, Any],
) -> SuiteRun:
    """Validate a frame with the suite of a feed; writes the result and its Data Docs page."""
    name = f"{feed}_suite"
    # the clock stays out: the run's time is the day's, and the site's index is sorted by it
    run_id = gx.RunIdentifier(run_name=run_name, run_time=midnight(day))
    with _lock(settings):
        checkpoint = _checkpoint(settings, feed, name, rules)
        result = checkpoint.run(
            batch_parameters={"dataframe": frame},
            expectation_parameters=parameters,
            run_id=run_id,
        )
    findings = tuple(_finding(entry) for outcome in result.run_results.values() for entry in outcome.results)
    folder = settings.reports / "data_docs" / "validations" / name / run_name
    pages = sorted(folder.rglob("*.html"))
    return SuiteRun(findings, str(pages[-1].relative_to(settings.reports)) if pages else "")


def _finding(entry: Any) -> Finding:
    result = dict(entry.result)
    failures = _exceptions(entry.exception_info or {})
    observed = result.get("observed_value")
    return Finding(
        rule=entry.expectation_config.meta["rule"],
        passed=bool(entry.success),
        checked=int(result.get("element_count") or 0),
        rows=tuple(int(number) for number in result.get("unexpected_index_list") or ()),
        observed=float(observed) if isinstance(observed, int | float) else None,
        error=failures[0] if failures else "",
    )


def _exceptions(information: dict[str, Any]) -> list[str]:
    """Messages of what could not be evaluated; the library nests them by metric."""
    if "raised_exception" in information:
        information = {"": information}
    return [
        str(entry.get("exception_message"))
        for entry in information.values()
        if isinstance(entry, dict) and entry.get("raised_exception")
    ]


def _checkpoint(settings: Settings, feed: str, name: str, rules: tuple[Rule, ...]) -> Any:
    """The checkpoint of a suite; what a killed process left half written is made anew."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # nothing leaves the machine
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    folder = settings.home / "gx"
    try:
        return _stored_checkpoint(settings, feed, name, rules)
    except HALF_WRITTEN:
        for entry in folder.iterdir() if folder.exists() else ():
            if entry.name == "uncommitted":
                continue  # past results stay
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    try:
        return _stored_checkpoint(settings, feed, name, rules)
    except HALF_WRITTEN as error:
        raise SluiceError(
            f"{folder}: Great Expectations cannot use this folder ({type(error).__name__}); "
            "move it away and run again"
        ) from None


def _stored_checkpoint(settings: Settings, feed: str, name: str, rules: tuple[Rule, ...]) -> Any:
    """The stored checkpoint, set up again where its rules are not the ones wanted."""
    wanted = [gx.__version__, str(settings.reports)]
    wanted += [str(rule.expectation.configuration.to_json_dict()) for rule in rules]
    stamp = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    stamp_file = settings.home / "gx" / f"{STAMP}_{feed}"
    context = _open_context(settings)
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return context.checkpoints.get(name)
    stamp_file.unlink(missing_ok=True)
    source = context.data_sources.add_or_update_pandas(f"{feed}_frames")
    batch = source.add_dataframe_asset(feed).add_batch_definition_whole_dataframe("day")
    suite = gx.ExpectationSuite(name=name, expectations=[rule.expectation for rule in rules])
    definition = gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add_or_update(suite))
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[context.validation_definitions.add_or_update(definition)],
        actions=[UpdateDataDocsAction(name="update_data_docs", site_names=[SITE])],
        result_format={"result_format": "COMPLETE"},
    )
    checkpoint = context.checkpoints.add_or_update(checkpoint)
    write_atomic(stamp_file, stamp.encode())
    return checkpoint


def _open_context(settings: Settings) -> Any:
    settings.home.mkdir(parents=True, exist_ok=True)
    context = gx.get_context(mode="file", project_root_dir=str(settings.home))
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(settings.reports / "data_docs"),
        },
        "site_index_builder": {
            "class_name": "DefaultSiteIndexBuilder",
            "validation_results_limit": PAGES_IN_INDEX,
        },
    }
    if context.variables.data_docs_sites.get(SITE) != site:
        context.variables.progress_bars = {"globally": False}
        context.variables.analytics_enabled = False
        context.update_data_docs_site(SITE, site)
        context.variables.save()
    return context


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    with file_lock(settings.home / ".gx.lock"):
        yield


def shown(frame: pd.DataFrame, hidden: tuple[str, ...] = ("row",)) -> pd.DataFrame:
    """The columns that the suite looks at, plain types only, index: row number."""
    columns = [name for name in frame.columns if name not in hidden]
    plain = frame[columns].copy()
    for name in columns:
        if str(plain[name].dtype) in ("Int64", "Float64"):
            plain[name] = plain[name].astype("float64")
    plain[FIELDS] = plain[FIELDS].astype("int64")
    return plain
