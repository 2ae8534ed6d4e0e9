"""What a source promises: one strict model per source, in jobs/conf/contracts/NAME.yaml.

Columns map the source's names to the standard ones; the Great Expectations suite, the row rules and
the simulator's files all follow from the contract.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel

FOLDER = Path(__file__).parent / "contracts"
STANDARD_COLUMNS = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor")


class Column(StrictModel):
    """One standard column and where it comes from."""

    source: str = Field(description="the column's name in the source")
    type: Literal["integer", "timestamp", "money"]
    unit: str = Field("", description="unit in the source; money is stored in integer minor units")
    minimum: float | None = Field(None, description="smallest allowed value, in the source's unit")
    maximum: float | None = Field(None, description="largest allowed value, in the source's unit")
    null_share: float | None = Field(None, ge=0, le=1, description="allowed share of nulls, else policy's")
    description: str = ""


class TransactionFeed(StrictModel):
    """One file a day of card transactions."""

    format: Literal["csv", "parquet"]
    file: str = Field(description="file name with {day} in it")
    columns: dict[str, Column]
    ignored: tuple[str, ...] = Field((), description="source columns that are never published")
    rows_per_day: int = Field(ge=1, description="usual volume; the gate compares with real weekdays")

    @model_validator(mode="after")
    def _has_the_standard_columns(self) -> TransactionFeed:
        if tuple(self.columns) != STANDARD_COLUMNS:
            raise ValueError(f"columns must be exactly {', '.join(STANDARD_COLUMNS)}, in this order")
        if "{day}" not in self.file:
            raise ValueError("file must contain {day}")
        return self


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


class ErrorCosts(StrictModel):
    """What a wrong decision costs, in minor units."""

    false_alarm_minor: int = Field(ge=0, description="a customer who was stopped for nothing")
    missed_fraud_share: float = Field(ge=0, description="share of the amount that is lost")


class Contract(StrictModel):
    """Everything that is promised about one source."""

    name: str
    description: str
    owner: str
    currency: str
    transactions: TransactionFeed
    labels: LabelFeed
    costs: ErrorCosts
    slices: tuple[str, ...] = Field((), description="slices of the evaluation, by name")


def load_contract(name: str, folder: Path = FOLDER) -> Contract:
    """A contract by its name in the folder, or by the path of a YAML file.

    Raises:
        SluiceError: no such contract, an unknown key or a wrong value, with its place.
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


@cache
def contract_of(settings: Settings) -> Contract:
    """The contract of an installation's source."""
    return load_contract(settings.contract)
