"""The contract: one place for a source's facts, and what a change of it does to the table."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from docs.pages import contract_section
from docs.sources import yaml_leaves
from jobs.conf.contract import FOLDER, STANDARD_COLUMNS, Contract, load_contract
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.ingest.releases import quarantined
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS, transactions_table
from jobs.quality.feeds import transactions_feed
from jobs.simulator import simulate
from tests.data_support import DAY, HEADER, good_row, good_rows, ingest_day, put_transactions, run_named

NEXT = DAY + timedelta(days=1)
CHANNEL = {"source": "channel", "type": "text", "optional": True}
FEE = {"source": "fee", "type": "money", "unit": "EUR", "maximum": 50, "optional": True}
RATE = {"source": "rate", "type": "decimal", "minimum": 0, "optional": True}
KNOWN = {"source": "known_at", "type": "timestamp"}
Facts = dict[str, Any]


def simulated() -> Facts:
    facts: Facts = yaml.safe_load((FOLDER / "simulated.yaml").read_text())
    return facts


def with_columns(**added: Facts) -> Facts:
    facts = simulated()
    facts["transactions"]["columns"] |= copy.deepcopy(added)
    return facts


def under(home: Settings, facts: Facts, name: str) -> Settings:
    """The same installation with another contract."""
    path = home.home.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(facts, sort_keys=False))
    return home.model_copy(update={"contract": str(path)})


def put_rows(home: Settings, header: str, rows: list[str], day: date) -> None:
    put_transactions(home, rows, day).write_text("\n".join([header, *rows]) + "\n")


# what a contract may say


def changed(place: str, value: object) -> Facts:
    facts = simulated()
    *parents, last = place.split(".")
    node = facts
    for part in parents:
        node = node[part]
    node[last] = value
    return facts


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("transactions.columns", {}, "columns must begin with transaction_id"),
        ("transactions.columns.channel", {"source": "channel", "type": "text"}, "must be optional"),
        ("transactions.columns.Channel", CHANNEL, "small letters"),
        ("transactions.columns.x; drop", CHANNEL, "small letters"),
        ("transactions.columns.file_day", CHANNEL, "one of our own"),
        ("transactions.columns.amount_minor_value", CHANNEL, "one of our own"),
        ("transactions.columns.channel", CHANNEL | {"source": "amount"}, "amount is named twice"),
        ("transactions.columns.channel", CHANNEL | {"minimum": 1}, "text has no minimum"),
        ("transactions.columns.channel", CHANNEL | {"null_share": 0.1}, "leave out null_share"),
        ("transactions.columns.fee", FEE | {"minimum": 51}, "minimum 51 is above maximum 50"),
        ("transactions.columns.fee", FEE | {"unit": "USD"}, "its unit USD is not the currency EUR"),
        ("transactions.columns.available_at", KNOWN | {"type": "text"}, "must be of type timestamp"),
        ("transactions.columns.available_at", KNOWN | {"unit": "CET"}, "unit is UTC"),
        ("transactions.columns.customer_id", FEE | {"type": "integer"}, "may not be optional"),
        ("transactions.columns.customer_id.type", "decimal", "must be of type integer"),
        ("transactions.ignored", ["amount"], "amount is named twice"),
        ("transactions.file", "{day}-{day}.csv", "file must contain {day} once"),
        ("transactions.late_days", -1, "greater than or equal to 0"),
        ("labels.horizon_days", 1, "no label is usually known"),
        ("labels.origin", "transactions", "is_fraud must be among the ignored ones"),
        ("transactions.due", 3, "Extra inputs are not permitted"),
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused(
    tmp_path: Path, place: str, value: object, says: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(changed(place, value), sort_keys=False))
    with pytest.raises(SluiceError) as caught:
        load_contract(str(path))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_order_is_standard_columns_then_available_at_then_the_optional_ones() -> None:
    Contract.model_validate(with_columns(available_at=KNOWN, channel=CHANNEL))
    with pytest.raises(ValidationError, match="available_at must come right after"):
        Contract.model_validate(with_columns(channel=CHANNEL, available_at=KNOWN))


def test_a_file_that_is_no_yaml_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: [")
    with pytest.raises(SluiceError, match="not a YAML file"):
        load_contract(str(tmp_path / "mine.yaml"))


def test_nothing_heavy_is_imported_to_read_a_contract() -> None:
    code = (
        "import sys; from jobs.conf.contract import load_contract; load_contract('simulated'); "
        "print([name for name in ('pandas', 'pyarrow', 'numpy', 'deltalake') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# what follows from it


def other_values(value: Any) -> Any:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value + 0.0001
    if isinstance(value, int):
        return value + 1
    return (*value, "more") if isinstance(value, tuple) else f"{value}x"


def leaves(model: Any, place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(model, dict):
        return [leaf for key, value in model.items() for leaf in leaves(value, (*place, key))]
    return [(place, model)]


FULL = Contract.model_validate(with_columns(available_at=KNOWN, channel=CHANNEL, fee=FEE, rate=RATE))
OPTIONAL = ("channel", "fee", "rate")  # have no null_share
FACTS = [
    (place, value)
    for place, value in leaves(FULL.model_dump())
    if not (place[-1] == "null_share" and place[-2] in OPTIONAL)
]


@pytest.mark.parametrize(
    ("place", "value"), FACTS, ids=lambda part: ".".join(map(str, part))
    if isinstance(part, tuple) else ""
)  # fmt: skip
def test_every_fact_of_a_contract_is_on_its_page(place: tuple[str, ...], value: Any) -> None:
    facts = FULL.model_dump()
    node = facts
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = 0.5 if value is None else other_values(value)
    models = {"transactions": FULL.transactions, "labels": FULL.labels, "costs": FULL.costs}
    one = rebuilt(FULL, facts, models)
    assert contract_section(one) != contract_section(FULL), place


def rebuilt(contract: Contract, facts: Facts, models: dict[str, Any]) -> Contract:
    """The contract with these values, unchecked: some of them contradict each other."""
    parts = {name: model.model_copy(update=dict(facts[name])) for name, model in models.items()}
    columns = {
        name: contract.transactions.columns[name].model_copy(update=values)
        for name, values in facts["transactions"]["columns"].items()
    }
    parts["transactions"] = parts["transactions"].model_copy(update={"columns": columns})
    groups = {name: group.model_copy(update=facts["groups"][name]) for name, group in contract.groups.items()}
    return contract.model_copy(update=facts | parts | {"groups": groups})


def test_no_fact_stands_in_the_contract_and_in_the_policy() -> None:
    policy = {place.rpartition(".")[2] for place in yaml_leaves(FOLDER.parent / "policy.yaml")}
    contract = {part for place, _ in leaves(FULL.model_dump()) for part in place}
    assert policy & contract == set()


def test_the_table_has_the_contract_s_optional_columns_after_the_standard_ones() -> None:
    table = transactions_table(FULL)
    assert table.schema.names == [*TRANSACTIONS.schema.names, "channel", "fee", "rate"]
    assert [str(table.schema.field(name).type) for name in table.optional] == ["string", "int64", "double"]
    assert transactions_table(load_contract("simulated")) == TRANSACTIONS


def test_the_feed_of_the_checks_says_what_the_contract_says() -> None:
    feed = transactions_feed(FULL)
    assert (feed.late_days, feed.key, feed.instant) == (3, "transaction_id", "event_time")
    assert list(feed.columns) == [*STANDARD_COLUMNS, "available_at", "channel", "fee", "rate"]
    assert list(feed.required) == [*STANDARD_COLUMNS, "available_at"]


# the simulator


def test_the_simulator_writes_the_names_the_order_and_the_file_of_the_contract(home: Settings) -> None:
    facts = with_columns(available_at=KNOWN, channel=CHANNEL)
    for name, source in zip(STANDARD_COLUMNS, ("id", "paid at", "card", "till", "total"), strict=True):
        facts["transactions"]["columns"][name]["source"] = source
    facts["transactions"]["file"] = "pay-{day}.csv"
    facts["labels"] |= {"file": "back-{day}.csv", "transaction_id": "id", "is_fraud": "bad"}
    other = under(home, facts, "other")
    folders = {"destination": home.source_uri, "labels_destination": home.labels_uri}
    period = {"first_day": DAY, "last_day": NEXT, "rows_per_day": 60}
    simulate.run(simulate.Params.model_validate(folders | period), other)
    text = pd.read_csv(Path(home.source_uri) / f"pay-{DAY}.csv", dtype=str)
    assert list(text.columns) == ["id", "paid at", "card", "till", "total", "known_at"]
    assert set(text["known_at"]) == {"2026-01-06T00:00:00Z"}
    assert (Path(home.labels_uri) / f"back-{NEXT}.csv").read_text().startswith("id,reported_at,bad\n")
    ingested = ingest_day(other)["publish_transactions"].rows
    assert ingested == len(text)


@pytest.mark.parametrize(
    ("name", "says"), [("handbook", "only CSV is simulated"), ("column", "no chargeback feed")]
)
def test_a_source_that_the_simulator_cannot_stand_in_for_is_refused(
    home: Settings, name: str, says: str
) -> None:
    if name == "handbook":
        settings = home.model_copy(update={"contract": "handbook"})
    else:
        facts = changed("transactions.ignored", ["is_fraud"])
        facts["labels"]["origin"] = "transactions"
        settings = under(home, facts, name)
    params = {"first_day": DAY, "last_day": DAY, "destination": home.source_uri}
    with pytest.raises(SluiceError, match=says):
        simulate.run(simulate.Params.model_validate(params), settings)


def test_chargebacks_come_within_the_horizon_and_usually_within_the_delay() -> None:
    labels = load_contract("simulated").labels
    assert max(simulate.REPORT_DAYS) == labels.horizon_days
    known = zip(simulate.REPORT_DAYS, simulate.REPORT_SHARES, strict=True)
    assert sum(share for days, share in known if days <= labels.delay_days) >= 0.75


# schema evolution


def test_a_new_optional_column_is_taken_in_and_older_rows_are_null_there(home: Settings) -> None:
    put_transactions(home, good_rows(3))
    ingest_day(home)
    wider = under(home, with_columns(channel=CHANNEL, fee=FEE, rate=RATE), "wider")
    rows = [good_row(11, NEXT) + ",web,1.25,0.5", good_row(12, NEXT) + ",,,"]
    put_rows(home, f"{HEADER},channel,fee,rate", rows, NEXT)
    ingest_day(wider, NEXT)
    table = lake_of(home).read(transactions_table(load_contract(wider.contract))).sort_by("transaction_id")
    assert table.select(["transaction_id", "channel", "fee", "rate"]).to_pylist() == [
        {"transaction_id": 1, "channel": None, "fee": None, "rate": None},
        {"transaction_id": 2, "channel": None, "fee": None, "rate": None},
        {"transaction_id": 3, "channel": None, "fee": None, "rate": None},
        {"transaction_id": 11, "channel": "web", "fee": 125, "rate": 0.5},
        {"transaction_id": 12, "channel": None, "fee": None, "rate": None},
    ]
    assert lake_of(home).read(TRANSACTIONS).column_names == TRANSACTIONS.schema.names


def test_a_file_without_the_optional_column_is_whole_all_the_same(home: Settings) -> None:
    wider = under(home, with_columns(channel=CHANNEL, fee=FEE), "wider")
    put_transactions(home, good_rows(150))
    receipts = ingest_day(wider)
    assert receipts["publish_transactions"].rows == 150
    assert receipts["validate_transactions"].facts["broken_by_rule"] == {}


def test_a_value_of_an_optional_column_that_cannot_be_read_or_is_out_of_bounds_is_quarantined(
    home: Settings,
) -> None:
    wider = under(home, with_columns(fee=FEE, rate=RATE), "wider")
    rows = [f"{row},1.00,0.25" for row in good_rows(150)]
    bad = [good_row(201) + ",free,1", good_row(202) + ",50.01,1", good_row(203) + ",1,much"]
    put_rows(home, f"{HEADER},fee,rate", [*rows, *bad, good_row(204) + ",1,-1"], DAY)
    ingest_day(wider)
    assert quarantined(lake_of(home))["rule"].to_pylist() == [
        "fee: not money", "fee: bounds", "rate: not a number", "rate: bounds",
    ]  # fmt: skip


def test_a_column_that_the_contract_does_not_know_is_refused_by_name(home: Settings) -> None:
    wider = under(home, with_columns(channel=CHANNEL), "wider")
    put_rows(home, f"{HEADER},channel,colour", [good_row(1) + ",web,red"], DAY)
    run_named("land_transactions", wider)
    with pytest.raises(SluiceError, match="column 'colour' is not in the contract"):
        run_named("validate_transactions", wider)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "column channel is no longer declared"),
        ({"channel": CHANNEL | {"type": "integer"}}, "column channel is string and cannot become long"),
    ],
    ids=["removed", "another type"],
)
def test_any_other_change_is_refused_by_name_before_anything_is_written(
    home: Settings, columns: dict[str, Facts], says: str
) -> None:
    wider = under(home, with_columns(channel=CHANNEL), "wider")
    put_transactions(home, good_rows(3))
    ingest_day(wider)
    lake = lake_of(home)
    before = (lake.version(TRANSACTIONS), len(quarantined(lake)))
    changed = under(home, with_columns(**columns), "changed")
    put_transactions(home, [*good_rows(150), "x"])
    for job in ("land_transactions", "validate_transactions"):
        run_named(job, changed)
    for job in ("quarantine_transactions", "publish_transactions"):
        with pytest.raises(SluiceError, match=says):
            run_named(job, changed)
    assert (lake.version(TRANSACTIONS), len(quarantined(lake))) == before


def test_a_table_of_before_the_standard_columns_grew_is_refused_and_not_filled_with_nulls(
    home: Settings,
) -> None:
    older = replace(TRANSACTIONS, schema=TRANSACTIONS.schema.remove(len(TRANSACTIONS.schema) - 1))
    lake = lake_of(home)
    lake.replace(older, older.schema.empty_table(), DAY)
    with pytest.raises(SluiceError, match="column file_day is new and not optional"):
        lake.replace(TRANSACTIONS, TRANSACTIONS.schema.empty_table(), DAY)


def test_the_source_s_own_instant_of_availability_is_published_and_the_nominal_one_where_it_has_none(
    home: Settings,
) -> None:
    own = under(home, with_columns(available_at=KNOWN | {"optional": True}), "own")
    rows = [good_row(1) + ",2026-01-05T11:30:00Z", good_row(2) + ","]
    put_rows(home, f"{HEADER},known_at", rows, DAY)
    ingest_day(own)
    found = lake_of(home).read(TRANSACTIONS).sort_by("transaction_id")["available_at"].to_pylist()
    assert found == [datetime(2026, 1, 5, 11, 30, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)]
