"""What a source promises: one strict model per source, in jobs/conf/contracts/NAME.yaml, with all its facts.

Columns map the source's names to the standard ones. `transaction_id` is the key, `event_time` the event time;
`available_at`, where the source tells it, is the instant from which a row could be known. Without it a row
counts as known from the midnight that ends its file's day. The table's schema, the Great Expectations suites,
the page of the documentation and the simulator's files follow from the contract; how strict to be about it
stands in the policy. Nothing heavy is imported here: Airflow's DAG parser reads contracts too.
"""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel

FOLDER = Path(__file__).parent / "contracts"
STANDARD_COLUMNS = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor")
STANDARD_TYPES = ("integer", "timestamp", "integer", "integer", "money")
AVAILABLE_AT = "available_at"
COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# columns of our own, in the tables or while a file is checked, and the answer
RESERVED_COLUMNS = {
    "day", "file_day", "part", "feed", "row_number", "rule", "row", "digest", "run", "fields_found",
    "copy_number", "second_of_day", "known", "is_fraud", "reported_at",
}  # fmt: skip
CHECKED_SUFFIX = "_value"  # `x_value` is what the checks read from the text in `x`


class Column(StrictModel):
    """One column and where it comes from."""

    source: str = Field(min_length=1, description="the column's name in the source")
    type: Literal["integer", "money", "decimal", "timestamp", "text"]
    unit: str = Field("", description="money: the contract's currency, stored in minor units; timestamp: UTC")
    minimum: float | None = Field(None, description="smallest allowed value, in the source's unit")
    maximum: float | None = Field(None, description="largest allowed value, in the source's unit")
    null_share: float | None = Field(
        None, ge=0, le=1, description="share of nulls that the file may have; empty: the policy's"
    )
    optional: bool = Field(False, description="a value or the whole column may be absent: then it is null")
    description: str = ""

    @model_validator(mode="after")
    def _means_something(self) -> Column:
        if self.type in ("timestamp", "text") and (self.minimum, self.maximum) != (None, None):
            raise ValueError(f"a column of type {self.type} has no minimum and no maximum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if self.type == "timestamp" and self.unit not in ("", "UTC"):
            raise ValueError(
                "a timestamp's unit is UTC: have the source write UTC, or offsets such as +02:00"
            )
        if self.optional and self.null_share is not None:
            raise ValueError("an optional column may be null in any row: leave out null_share")
        return self


LARGEST_AMOUNT = 10_000_000  # in the source's unit
LATE_DAYS_MAX = 35  # as far as a day's validation looks for its keys on other days


class TransactionFeed(StrictModel):
    """One file a day of card transactions.

    The columns are the five standard ones in their order, then `available_at` where the source has it, then
    optional ones of any plain name.
    """

    format: Literal["csv", "parquet"]
    file: str = Field(description="file name with {day} in it")
    columns: dict[str, Column] = Field(description="standard name -> column, in this order")
    ignored: tuple[str, ...] = Field((), description="source columns that are never published")
    rows_per_day: int = Field(ge=1, description="usual volume; the gate compares with real weekdays")
    late_days: int = Field(
        0, ge=0, le=LATE_DAYS_MAX, description="a file may bring rows of this many days before its own"
    )
    due_hours: float = Field(
        ge=0,
        description="a day's file is due this many hours after the day's end; then its features are known",
    )
    newest_event_hours: float = Field(
        gt=0, le=24, description="the newest event of a whole file lies within this of its day's end"
    )

    @property
    def optional_columns(self) -> dict[str, Column]:
        """What the contract adds to the table `transactions`."""
        known = (*STANDARD_COLUMNS, AVAILABLE_AT)
        return {name: column for name, column in self.columns.items() if name not in known}

    @model_validator(mode="after")
    def _has_the_standard_columns_first(self) -> TransactionFeed:
        names = list(self.columns)
        if tuple(names[: len(STANDARD_COLUMNS)]) != STANDARD_COLUMNS:
            raise ValueError(f"columns must begin with {', '.join(STANDARD_COLUMNS)}, in this order")
        for name, kind in zip(STANDARD_COLUMNS, STANDARD_TYPES, strict=True):
            if self.columns[name].type != kind or self.columns[name].optional:
                raise ValueError(f"column {name} must be of type {kind} and may not be optional")
        largest = self.columns["amount_minor"].maximum
        if largest is None or largest > LARGEST_AMOUNT:
            raise ValueError(
                f"column amount_minor needs a maximum, {LARGEST_AMOUNT:,} at most: squares of amounts are "
                "summed exactly, and a larger one is quarantined"
            )
        if AVAILABLE_AT in names and names.index(AVAILABLE_AT) != len(STANDARD_COLUMNS):
            raise ValueError(f"column {AVAILABLE_AT} must come right after the standard columns")
        if AVAILABLE_AT in names and self.columns[AVAILABLE_AT].type != "timestamp":
            raise ValueError(f"column {AVAILABLE_AT} must be of type timestamp")
        for name, column in self.optional_columns.items():
            _check_name(name, names)
            if not column.optional:
                raise ValueError(f"column {name} is no standard one: it must be optional")
        return self

    @model_validator(mode="after")
    def _names_each_source_column_once(self) -> TransactionFeed:
        named = [*(column.source for column in self.columns.values()), *self.ignored]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(f"the source's column {name} is named twice")
        if self.file.count("{day}") != 1:
            raise ValueError("file must contain {day} once")
        return self


def _check_name(name: str, names: list[str]) -> None:
    if not COLUMN_NAME.fullmatch(name):
        raise ValueError(f"column {name!r}: a name has small letters, digits and underscores")
    if name in RESERVED_COLUMNS or name.removesuffix(CHECKED_SUFFIX) in set(names) - {name}:
        raise ValueError(f"column {name}: that name is one of our own; take another")


class LabelFeed(StrictModel):
    """Chargebacks: each names a transaction that turned out to be fraud."""

    origin: Literal["feed", "transactions"] = Field(
        description="feed: one file a day; transactions: a column of the transactions, shown after delay_days"
    )
    format: Literal["csv", "parquet"] = "csv"
    file: str = Field("{day}.csv", description="file name with {day} in it")
    transaction_id: str = Field("transaction_id", description="the source's column of the transaction")
    is_fraud: str = Field("is_fraud", description="the source's column of the label")
    reported_at: str = Field(
        "", description="the source's column of the instant of the report; empty: midnight of the day"
    )
    delay_days: int = Field(ge=0, description="days after which a label is usually known")
    maturity_days: int = Field(ge=1, description="transactions younger than this have no usable label")
    due_hours: float = Field(
        0,
        ge=0,
        description="a day's file is due this many hours after the day's end; then its features are known",
    )
    horizon_days: int = Field(ge=0, description="days after a transaction in which chargebacks may come")

    @model_validator(mode="after")
    def _is_possible(self) -> LabelFeed:
        if self.horizon_days < self.delay_days:
            raise ValueError(
                f"horizon_days {self.horizon_days}: no label is usually known ({self.delay_days} days) "
                "after the last one may come"
            )
        if self.file.count("{day}") != 1:
            raise ValueError("file must contain {day} once")
        return self


class ErrorCosts(StrictModel):
    """What a wrong decision costs, in minor units."""

    false_alarm_minor: int = Field(ge=0, description="a customer who was stopped for nothing")
    missed_fraud_share: float = Field(ge=0, description="share of the amount that is lost")


GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class Group(StrictModel):
    """Bands of a number of the training frame; a model may not begin to treat one unlike the others."""

    column: str = Field(description="amount_minor or a feature of the model")
    starts: tuple[float, ...] = Field(min_length=1, description="where a band starts; another lies below")

    @model_validator(mode="after")
    def _ascends(self) -> Group:
        if any(after <= before for before, after in pairwise(self.starts)):
            raise ValueError("starts must ascend")
        if not all(math.isfinite(start) and abs(start) < 1e15 for start in self.starts):
            raise ValueError("starts must be numbers below 1e15")
        return self


class Contract(StrictModel):
    """Everything that is promised about one source."""

    name: str
    description: str
    owner: str = Field(description="who answers for the source, and gets its alerts")
    currency: str = Field(description="of every amount; its minor unit is a hundredth")
    transactions: TransactionFeed
    labels: LabelFeed
    costs: ErrorCosts
    slices: tuple[str, ...] = Field((), description="slices of the evaluation, by name")
    groups: dict[GroupName, Group] = Field(
        {}, description="groups whose gap in caught frauds and in false alarms may not grow"
    )

    @property
    def published_after_hours(self) -> float:
        """Hours after a day's end at which both of its files are due: then its features are known."""
        return max(self.transactions.due_hours, self.labels.due_hours)

    @model_validator(mode="after")
    def _is_consistent(self) -> Contract:
        for name, column in self.transactions.columns.items():
            if column.type == "money" and column.unit not in ("", self.currency):
                raise ValueError(f"column {name}: its unit {column.unit} is not the currency {self.currency}")
        answer = self.labels.is_fraud
        if self.labels.origin == "transactions" and answer not in self.transactions.ignored:
            raise ValueError(f"the label's column {answer} must be among the ignored ones: it is the answer")
        return self


def load_contract(name: str, folder: Path = FOLDER) -> Contract:
    """A contract by its name in the folder, or by the path of a YAML file.

    Raises:
        SluiceError: no such contract, not YAML, an unknown key or a wrong value, with its place.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{Path(name).name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise SluiceError(f"contract {name!r}: no file {path}; known contracts: {known}")
    try:
        return Contract.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(f"{path}: {place}: {problem['msg']}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise SluiceError(f"{path}: not a YAML file: {reason}") from None


@cache
def contract_of(settings: Settings) -> Contract:
    """The contract of an installation's source."""
    return load_contract(settings.contract)
