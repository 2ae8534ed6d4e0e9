"""Running a suite with Great Expectations: a file context in `<home>/gx`, Data Docs in `<home>/reports`.

In: rules, and the checked rows in chunks. Out: what each rule found in the whole day, and one page of it.
Great Expectations judges every chunk; its counts are added up, and the shares of the sums decide. It then
stores the sums as the result of one validation and draws its page, as it does for a batch of its own.
A run is named by its day and the landed file's digest, so repeating it writes the same page again. One
process at a time writes there: Great Expectations' file stores know no locks, so a lock that the kernel drops
when its holder dies guards them.
Errors: SluiceError where the context cannot be made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from datetime import date
from functools import partial
from types import CodeType
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)
from great_expectations.exceptions import GreatExpectationsError
from great_expectations.render.view import view as pages
from jinja2.bccache import Bucket, BytecodeCache
from numpy.typing import NDArray
from pydantic.v1 import PrivateAttr  # what the library is made with
from ruamel.yaml.error import YAMLError

from jobs.conf.settings import Settings
from jobs.core import SluiceError, midnight
from jobs.files import write_whole
from jobs.locks import file_lock
from jobs.quality.findings import Finding, SuiteRun
from jobs.quality.suites import Rule

logging.getLogger("great_expectations").setLevel(logging.ERROR)
SITE = "local_site"
PAGES_IN_INDEX = 120  # the newest data days; older pages stay, linked by their receipts
STAMP = ".set_up"
SHOWN_VALUES = 20  # of those that broke a rule
# what reading a configuration file raises that was cut off in the middle
HALF_WRITTEN = (
    GreatExpectationsError, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError,
)  # fmt: skip


class CompiledTemplates(BytecodeCache):
    """Code of the pages' templates, by name and text, as long as the process lives."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Jinja compiles what is not known."""
        bucket.code = self._known.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what Jinja has compiled."""
        if bucket.code is not None:
            self._known[bucket.key, bucket.checksum] = bucket.code


# the library makes an environment for each kind of page of each validation, and each compiled every template
pages.Environment = partial(pages.Environment, bytecode_cache=CompiledTemplates())


class Judge:
    """A suite at work: rows in chunks, then the day's figures, then the page."""

    def __init__(self, feed: str, rules: tuple[Rule, ...]) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # nothing leaves the machine
        self.name = f"{feed}_suite"
        self._rules = {rule.name: rule for rule in rules}
        # nothing is stored while chunks are judged, and no site is made
        context = gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(),
                progress_bars=ProgressBarsConfig(globally=False),
                analytics_enabled=False,
            ),
        )
        source = context.data_sources.add_pandas(f"{feed}_frames")
        self._batches = source.add_dataframe_asset(feed).add_batch_definition_whole_dataframe("day")
        self._suites = {
            scope: context.suites.add(
                gx.ExpectationSuite(
                    name=f"{feed}_{scope}",
                    expectations=[expectation(rule) for rule in rules if rule.scope == scope],
                )
            )
            for scope in ("row", "day")
        }
        self._sums: dict[str, Any] = {}  # rule -> result of Great Expectations, counts added up
        self._meta: dict[str, Any] = {}
        self._batch_id = ""

    def rows(self, frame: Mapping[str, NDArray[np.float64]]) -> dict[str, int]:
        """Judge a chunk of rows; gives how many broke each rule."""
        # one block of numbers: pandas joins separate columns again at every expectation
        numbers = np.stack(list(frame.values()))
        return self._judge("row", pd.DataFrame(numbers.T, columns=list(frame), copy=False))

    def figures(self, figures: Mapping[str, float | None]) -> None:
        """Judge the figures of the day; one that is unknown breaks nothing."""
        if self._suites["day"].expectations:
            values = {name: [np.nan if value is None else value] for name, value in figures.items()}
            self._judge("day", pd.DataFrame(values, dtype=np.float64))

    def _judge(self, scope: str, frame: pd.DataFrame) -> dict[str, int]:
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        style = {"result_format": "BASIC", "partial_unexpected_count": SHOWN_VALUES}
        # each expectation asks for its column's present rows: where all are, pandas need not copy the frame
        with pd.option_context("mode.copy_on_write", True):
            outcome = batch.validate(self._suites[scope], result_format=style)
        self._meta = self._meta or dict(outcome.meta)
        self._batch_id = self._batch_id or str(outcome.batch_id)
        counts = {}
        for entry in outcome.results:
            name = entry.expectation_config.meta["rule"]
            counts[name] = int(entry.result.get("unexpected_count") or 0)
            known = self._sums.get(name)
            self._sums[name] = entry if known is None else _sum(known, entry)
        return counts

    def finish(self, settings: Settings, day: date, run_name: str) -> SuiteRun:
        """Store the sums and draw the page (relative to `<home>/reports`)."""
        entries = [
            _decided(self._sums[name], rule) for name, rule in self._rules.items() if name in self._sums
        ]
        passed = sum(bool(entry.success) for entry in entries)
        # the clock stays out: the run's time is the day's, and the site's index is sorted by it
        run_id = gx.RunIdentifier(run_name=run_name, run_time=midnight(day))
        result = gx.core.ExpectationSuiteValidationResult(
            success=passed == len(entries) > 0,
            results=entries,
            suite_name=self.name,
            statistics={
                "evaluated_expectations": len(entries),
                "successful_expectations": passed,
                "unsuccessful_expectations": len(entries) - passed,
                "success_percent": 100.0 * passed / len(entries) if entries else None,
            },
            meta={**self._meta, "run_id": run_id, "validation_time": run_id.run_time},
            batch_id=self._batch_id,
        )
        with file_lock(settings.home / ".gx.lock"):
            context = _file_context(settings, self.name, tuple(self._rules.values()))
            suite = ExpectationSuiteIdentifier(name=self.name)
            stored = ValidationResultIdentifier(
                expectation_suite_identifier=suite, run_id=run_id, batch_identifier=self._batch_id
            )
            context.validation_results_store.store_validation_results(result, stored, suite)
            context.build_data_docs(site_names=[SITE], resource_identifiers=[stored, suite])
        folder = settings.reports / "data_docs" / "validations" / self.name / run_name
        pages = sorted(folder.rglob("*.html"))
        page = str(pages[-1].relative_to(settings.reports)) if pages else ""
        return SuiteRun(tuple(_finding(entry) for entry in entries), page)


class ExpectColumnValuesToBeBetween(gxe.ExpectColumnValuesToBeBetween):  # type: ignore[misc]
    """The library's own in every respect, its name too.

    It is asked for its configuration over a hundred times in a validation and makes a new one each time: half
    of what a chunk costs. The library copies one before it changes it, and sets nothing but these two fields.
    """

    _kept: Any = PrivateAttr(None)

    @property
    def configuration(self) -> Any:
        state = (self.id, self.rendered_content)
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, super().configuration)
        return self._kept[1]


def expectation(rule: Rule) -> Any:
    """A rule in Great Expectations' form."""
    return ExpectColumnValuesToBeBetween(
        column=rule.column,
        min_value=rule.minimum,
        max_value=rule.maximum,
        strict_max=rule.strict_max,
        mostly=1.0 - rule.allowed,
        severity="critical" if rule.critical else "warning",
        description=_description(rule),
        meta={"rule": rule.name},
    )


def _description(rule: Rule) -> str:
    if rule.scope == "row":
        return f"{rule.name}: at most {rule.allowed:.2%} of the rows"
    bounds = [] if rule.minimum is None else [f"at least {rule.minimum:g}"]
    bounds += [] if rule.maximum is None else [f"at most {rule.maximum:g}"]
    return f"{rule.name}: {rule.column} is {' and '.join(bounds)}, or unknown"


def _sum(known: Any, added: Any) -> Any:
    """Two results of one rule as one."""
    for count in ("element_count", "unexpected_count", "missing_count"):
        known.result[count] = (known.result.get(count) or 0) + (added.result.get(count) or 0)
    examples = [
        *known.result.get("partial_unexpected_list", ()),
        *added.result.get("partial_unexpected_list", ()),
    ]
    known.result["partial_unexpected_list"] = examples[:SHOWN_VALUES]
    if _error(added) and not _error(known):
        known.exception_info = added.exception_info
    return known


def _decided(entry: Any, rule: Rule) -> Any:
    """The result with its shares and its success as the counts have them."""
    counts = entry.result
    rows, missing, broken = (
        int(counts.get(name) or 0) for name in ("element_count", "missing_count", "unexpected_count")
    )
    present = rows - missing
    counts["missing_percent"] = 100.0 * missing / rows if rows else None
    counts["unexpected_percent"] = counts["unexpected_percent_nonmissing"] = (
        100.0 * broken / present if present else None
    )
    counts["unexpected_percent_total"] = 100.0 * broken / rows if rows else None
    entry.success = not _error(entry) and (not present or (present - broken) / present >= 1.0 - rule.allowed)
    return entry


def _finding(entry: Any) -> Finding:
    values = entry.result.get("partial_unexpected_list") or ()
    return Finding(
        rule=entry.expectation_config.meta["rule"],
        passed=bool(entry.success),
        checked=int(entry.result.get("element_count") or 0) - int(entry.result.get("missing_count") or 0),
        broken=int(entry.result.get("unexpected_count") or 0),
        observed=float(values[0]) if values else None,
        error=_error(entry),
    )


def _error(entry: Any) -> str:
    """Why a rule could not be evaluated; the library nests the messages by metric."""
    information = entry.exception_info or {}
    if "raised_exception" in information:
        information = {"": information}
    for found in information.values():
        if isinstance(found, dict) and found.get("raised_exception"):
            return str(found.get("exception_message"))
    return ""


def _file_context(settings: Settings, name: str, rules: tuple[Rule, ...]) -> Any:
    """The context with the suite in it; what a killed process left half written is made anew."""
    folder = settings.home / "gx"
    try:
        return _stored_context(settings, name, rules)
    except HALF_WRITTEN:
        for entry in folder.iterdir() if folder.exists() else ():
            if entry.name == "uncommitted":
                continue  # past results stay
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    try:
        return _stored_context(settings, name, rules)
    except HALF_WRITTEN as error:
        raise SluiceError(
            f"{folder}: Great Expectations cannot use this folder ({type(error).__name__}); "
            "move it away and run again"
        ) from None


def _stored_context(settings: Settings, name: str, rules: tuple[Rule, ...]) -> Any:
    """The context; its suite is stored again where its rules are not the ones wanted."""
    expectations = [expectation(rule) for rule in rules]
    wanted = [gx.__version__, str(settings.reports)]
    wanted += [str(each.configuration.to_json_dict()) for each in expectations]
    stamp = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    stamp_file = settings.home / "gx" / f"{STAMP}_{name}"
    context = _open_context(settings)
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        context.suites.get(name)  # readable
        return context
    stamp_file.unlink(missing_ok=True)
    context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=expectations))
    write_whole(stamp_file, stamp)
    return context


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
