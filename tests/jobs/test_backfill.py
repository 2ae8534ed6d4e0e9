"""Rewriting days: staged beside production, swapped in as a whole, taken back as a whole, one at a time."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.backfill import ledger, swap
from jobs.backfill.recipes import RECIPES, Pace
from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, SluiceError
from jobs.lake.pins import pinned
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import BACKFILLS, LANDED_FILES, QUARANTINE, TRANSACTIONS
from jobs.registry import run_job
from tests.backfill_support import CORRECTED, DAYS, NOON, ask, contents, copied, numbered, planned, staged
from tests.data_support import ingest_day, put_transactions

pytest_plugins = ("tests.four_days",)
ACCEPTED = "the sender corrected two days"


def corrected(home: Settings) -> None:
    """The source sends both middle days again: six rows more, one amount changed."""
    for day in DAYS[1:3]:
        rows = numbered(day, CORRECTED)
        put_transactions(home, [rows[0].replace("12.50", "13.75"), *rows[1:]], day)


def state(home: Settings, name: str) -> str:
    return ledger.find(lake_of(home), name).state.value


def swapped(home: Settings) -> str:
    name = staged(home)
    with pytest.raises(GateClosed):
        ask(home, "validate", name=name)
    ask(home, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    return name


def test_staging_leaves_production_alone_until_the_swap(ingested: Settings) -> None:
    corrected(ingested)
    before = contents(ingested)
    name = staged(ingested)
    assert contents(ingested) == before
    assert state(ingested, name) == "staged"
    theirs = lake_of(ingested.model_copy(update={"staging": name}))
    assert [theirs.read(TRANSACTIONS, first=day, last=day).num_rows for day in DAYS] == [120, 126, 126, 120]
    assert theirs.read(TRANSACTIONS).num_rows == 492


def test_after_the_swap_the_tables_equal_those_built_from_the_corrected_files(
    ingested: Settings, tmp_path: Path
) -> None:
    corrected(ingested)
    name = swapped(ingested)
    fresh = ingested.model_copy(update={"home": tmp_path / "fresh"})
    for day in DAYS:
        ingest_day(fresh, day)
    lake, other = lake_of(ingested), lake_of(fresh)
    for table in (TRANSACTIONS, QUARANTINE):
        assert content_digest(lake.read(table)) == content_digest(other.read(table))
    versions = lake.read(LANDED_FILES, first=DAYS[1], last=DAYS[1]).to_pylist()
    assert sorted(row["sequence"] for row in versions if row["feed"] == "transactions") == [1, 2]
    assert state(ingested, name) == "swapped"


def test_taking_it_back_restores_every_table_as_it_was(ingested: Settings) -> None:
    before = contents(ingested)
    corrected(ingested)
    name = swapped(ingested)
    assert contents(ingested) != before
    assert pinned(lake_of(ingested)) != {}
    ask(ingested, "swap", name=name, execute=True, reverse=True)
    assert contents(ingested) == before
    assert (state(ingested, name), pinned(lake_of(ingested))) == ("reversed", {})


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(110, 130), min_size=4, max_size=4),
    keeps_row_2=st.booleans(),
    sent_again=st.sets(st.sampled_from(DAYS), min_size=1),
)
def test_a_swap_equals_a_fresh_build_and_its_reversal_the_state_before(
    counts: list[int],
    keeps_row_2: bool,
    sent_again: set[date],
    four_days: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("law")
    home = copied(four_days, folder)
    before = contents(home)
    for day, count in zip(DAYS, counts, strict=True):
        if day in sent_again:
            rows = numbered(day, count)
            # without it the first day, the next one's copy is the only one, and counts
            put_transactions(home, rows if keeps_row_2 or day > DAYS[0] else [rows[0], *rows[2:]], day)
    name = staged(home, first=DAYS[0], last=DAYS[3])
    ask(home, "validate", name=name, accept_differences=ACCEPTED)
    ask(home, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    fresh = home.model_copy(update={"home": folder / "fresh"})
    for day in DAYS:
        ingest_day(fresh, day)
    for table in (TRANSACTIONS, QUARANTINE):
        assert content_digest(lake_of(home).read(table)) == content_digest(lake_of(fresh).read(table))
    ask(home, "swap", name=name, execute=True, reverse=True)
    assert contents(home) == before


def test_nothing_of_production_changes_without_execute(ingested: Settings) -> None:
    corrected(ingested)
    before = contents(ingested)
    name = planned(ingested)
    assert ask(ingested, "run", name=name).facts["executed"] is False
    assert state(ingested, name) == "planned"
    ask(ingested, "run", name=name, execute=True)
    ask(ingested, "validate", name=name, accept_differences=ACCEPTED)
    ask(ingested, "swap", name=name, accept_differences=ACCEPTED)
    ask(ingested, "abort", name=name)
    assert state(ingested, name) == "validated"
    assert contents(ingested) == before


def test_a_second_backfill_over_the_same_days_is_refused_while_the_first_is_open(ingested: Settings) -> None:
    name = planned(ingested)
    with pytest.raises(SluiceError, match=rf"{name} .* is planned and rewrites some of the same days"):
        ask(ingested, "plan", dag="fraud_ingest", first=DAYS[2], last=DAYS[3], reason="another")
    # files of the next days bring late rows of these
    with pytest.raises(SluiceError, match="rewrites some of the same days"):
        planned(ingested, first=DAYS[3], last=DAYS[3])
    late_days = contract_of(ingested).transactions.late_days
    after = DAYS[3] + timedelta(days=late_days)
    assert planned(ingested, first=after, last=after) != name
    ask(ingested, "abort", name=name, execute=True)
    assert planned(ingested) == "ingest-20260106-20260107-2"


def test_of_two_plans_at_the_same_time_one_is_refused(ingested: Settings) -> None:

    def plan(person: str) -> str:
        try:
            return ask(
                ingested, "plan", dag="fraud_ingest", first=DAYS[0], last=DAYS[1], reason="x", person=person
            ).partition
        except SluiceError:
            return "refused"

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(plan, "abcdef"))
    assert answers == ["ingest-20260105-20260106-1", *["refused"] * 5]


def test_the_same_request_twice_is_one_backfill_and_a_run_twice_does_nothing_again(
    ingested: Settings,
) -> None:
    name = staged(ingested)
    assert planned(ingested) == name
    assert ask(ingested, "run", name=name, execute=True).facts["executed"] is False
    ask(ingested, "validate", name=name)
    ask(ingested, "validate", name=name)
    ask(ingested, "swap", name=name, execute=True)
    version = lake_of(ingested).version(TRANSACTIONS)
    ask(ingested, "swap", name=name, execute=True)
    assert lake_of(ingested).version(TRANSACTIONS) == version
    steps = [entry.state.value for entry in ledger.steps_of(lake_of(ingested), name)]
    assert steps == ["planned", "staged", "validated", "swapping", "swapped"]


def test_a_backfill_that_changes_nothing_passes_and_leaves_the_same_contents(ingested: Settings) -> None:
    before = contents(ingested)
    name = staged(ingested)
    receipt = ask(ingested, "validate", name=name)
    assert (receipt.facts["outcome"], receipt.facts["equal"]) == ("pass", receipt.facts["partitions"])
    ask(ingested, "swap", name=name, execute=True)
    assert contents(ingested) == before


def test_what_did_not_pass_is_swapped_only_with_a_reason_which_the_ledger_keeps(ingested: Settings) -> None:
    corrected(ingested)
    name = staged(ingested)
    with pytest.raises(GateClosed, match=r"transactions: rows: 0.05, allowed 0.02 \(2026-01-06: 120 rows"):
        ask(ingested, "validate", name=name)
    with pytest.raises(GateClosed, match="--accept-differences REASON"):
        ask(ingested, "swap", name=name, execute=True)
    ask(ingested, "swap", name=name, execute=True, accept_differences=ACCEPTED, person="grace")
    last = ledger.find(lake_of(ingested), name)
    assert (last.person, last.evidence["accepted"], last.reason) == ("grace", ACCEPTED, "a corrected file")


def test_a_swap_needs_the_validation_of_exactly_what_is_staged(ingested: Settings) -> None:
    name = staged(ingested)
    with pytest.raises(SluiceError, match="is staged: compare it with production"):
        ask(ingested, "swap", name=name, execute=True)
    ask(ingested, "validate", name=name)
    theirs = lake_of(ingested.model_copy(update={"staging": name}))
    rows = theirs.read(TRANSACTIONS, first=DAYS[1], last=DAYS[1])
    theirs.replace(TRANSACTIONS, rows.slice(1), DAYS[1])
    with pytest.raises(GateClosed, match="staging has changed since the validation"):
        ask(ingested, "swap", name=name, execute=True)


def test_production_that_changed_meanwhile_is_never_overwritten(ingested: Settings) -> None:
    name = staged(ingested)
    ask(ingested, "validate", name=name)
    corrected(ingested)
    ingest_day(ingested, DAYS[1])
    after = contents(ingested)
    with pytest.raises(GateClosed, match="production has changed since the validation"):
        ask(ingested, "swap", name=name, execute=True)
    with pytest.raises(SluiceError, match="production has changed since it was staged"):
        ask(ingested, "validate", name=name)
    assert contents(ingested) == after
    assert ask(ingested, "run", name=name, execute=True).facts["executed"] is True
    assert state(ingested, name) == "staged"


def test_a_reversal_refuses_to_lose_what_was_written_after_the_swap(ingested: Settings) -> None:
    corrected(ingested)
    name = swapped(ingested)
    put_transactions(ingested, numbered(DAYS[1], 118), DAYS[1])
    ingest_day(ingested, DAYS[1])
    with pytest.raises(SluiceError, match="written again after the swap"):
        ask(ingested, "swap", name=name, execute=True, reverse=True)
    ask(ingested, "swap", name=name, execute=True, reverse=True, accept_differences="that day too")
    assert lake_of(ingested).read(TRANSACTIONS, first=DAYS[1], last=DAYS[1]).num_rows == 120


def test_a_day_that_fails_its_gate_is_named_and_the_next_run_goes_on_from_it(ingested: Settings) -> None:
    broken = [row.replace("12.50", "") for row in numbered(DAYS[2])]
    put_transactions(ingested, broken, DAYS[2])
    name = planned(ingested)
    with pytest.raises(GateClosed, match=r"1 of 2 days failed and nothing is swapped: 2026-01-07"):
        ask(ingested, "run", name=name, execute=True)
    assert state(ingested, name) == "planned"
    put_transactions(ingested, numbered(DAYS[2]), DAYS[2])
    ask(ingested, "run", name=name, execute=True)
    assert state(ingested, name) == "staged"


@pytest.mark.parametrize("tables_done", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_swap_that_is_cut_off_between_tables_is_finished_or_taken_back(
    ingested: Settings, tables_done: int, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(ingested)
    corrected(ingested)
    name = staged(ingested)
    ask(ingested, "validate", name=name, accept_differences=ACCEPTED)
    real, calls = swap.swap_table, []

    def cut_off(*arguments: object) -> int:
        if len(calls) == tables_done:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(swap, "swap_table", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ask(ingested, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    monkeypatch.undo()
    assert state(ingested, name) == "swapping"
    ask(ingested, "swap", name=name, execute=True, reverse=reverse)
    days = [lake_of(ingested).read(TRANSACTIONS, first=day, last=day).num_rows for day in DAYS]
    assert days == ([120, 120, 120, 120] if reverse else [120, 126, 126, 120])
    assert (contents(ingested) == before) is reverse
    assert state(ingested, name) == ("reversed" if reverse else "swapped")


def test_staging_again_that_fails_half_way_is_neither_done_nor_comparable(ingested: Settings) -> None:
    corrected(ingested)
    name = staged(ingested)
    ingest_day(ingested, DAYS[1])  # production changes: everything is staged again
    put_transactions(ingested, ["1,soon,,,"], DAYS[2])
    with pytest.raises(SluiceError, match=str(DAYS[2])):
        ask(ingested, "run", name=name, execute=True)
    assert state(ingested, name) == "planned"
    with pytest.raises(SluiceError, match="stage it with"):
        ask(ingested, "validate", name=name, accept_differences=ACCEPTED)
    corrected(ingested)
    assert ask(ingested, "run", name=name, execute=True).facts["executed"] is True
    assert state(ingested, name) == "staged"


def test_a_swap_that_can_only_be_taken_back_says_how(
    ingested: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrected(ingested)
    name = staged(ingested)
    ask(ingested, "validate", name=name, accept_differences=ACCEPTED)
    real = swap.pin

    def meanwhile(*arguments: object) -> None:
        put_transactions(ingested, numbered(DAYS[1], 130), DAYS[1])
        ingest_day(ingested, DAYS[1])  # after production was compared
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(swap, "pin", meanwhile)
    with pytest.raises(GateClosed, match="swap --name .* --reverse --execute"):
        ask(ingested, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    assert state(ingested, name) == "swapping"
    ask(ingested, "swap", name=name, execute=True, reverse=True)
    assert len(lake_of(ingested).read(TRANSACTIONS, first=DAYS[1], last=DAYS[1])) == 130


def test_a_swap_into_tables_that_were_not_there_is_taken_back_when_its_log_was_cut(
    ingested: Settings,
) -> None:
    shutil.rmtree(ingested.lake)
    name = staged(ingested)
    ask(ingested, "validate", name=name, accept_differences=ACCEPTED)
    ask(ingested, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    lake = lake_of(ingested)
    for item in RECIPES["fraud_ingest"].tables:
        lake.replace(item.table, item.table.schema.empty_table(), item.partitions(*[DAYS[3]] * 2)[0])
        lake.delta(item.table).create_checkpoint()
        # as vacuum_tables does when they are old: nothing pins a version before the first
        for entry in sorted((Path(lake.path(item.table)) / "_delta_log").glob("*.json"))[:-1]:
            entry.unlink()
    ask(ingested, "swap", name=name, execute=True, reverse=True)
    assert [len(lake.read(item.table)) for item in RECIPES["fraud_ingest"].tables] == [0, 0, 0]


def test_labels_are_rewritten_in_the_same_way(ingested: Settings) -> None:
    before = contents(ingested, "fraud_labels")
    name = staged(ingested, dag="fraud_labels")
    ask(ingested, "validate", name=name)
    ask(ingested, "swap", name=name, execute=True)
    assert contents(ingested, "fraud_labels") == before


def test_ingest_and_labels_share_the_ledger_of_landed_files_and_wait_for_each_other(
    ingested: Settings,
) -> None:
    planned(ingested)
    with pytest.raises(SluiceError, match="rewrites some of the same days"):
        planned(ingested, dag="fraud_labels")


def test_the_versions_that_a_swap_replaced_are_kept_for_the_days_of_the_policy(ingested: Settings) -> None:
    name = staged(ingested)
    ask(ingested, "validate", name=name)
    ask(ingested, "swap", name=name, execute=True)
    later = {"dag": "fraud_ingest", "first": DAYS[0], "last": DAYS[0], "reason": "another"}
    soon = ask(ingested, "plan", **later, at=NOON + timedelta(days=29))
    assert soon.facts["closed"] == []
    ask(ingested, "abort", name=soon.partition, execute=True)
    assert ask(ingested, "plan", **later, at=NOON + timedelta(days=31)).facts["closed"] == [name]
    assert pinned(lake_of(ingested)) == {}
    with pytest.raises(SluiceError, match="no longer kept"):
        ask(ingested, "swap", name=name, execute=True, reverse=True)


def test_the_plan_says_days_rows_and_what_the_last_one_took(ingested: Settings) -> None:
    facts = ask(ingested, "plan", dag="fraud_ingest", first=DAYS[1], last=DAYS[3], reason="x").facts
    assert facts["days"] == 3
    assert (facts["tables"]["landed_files"]["days"], facts["tables"]["transactions"]["rows"]) == (3, 480)
    assert facts["tables"]["transactions"]["bytes"] > 0
    assert facts["expected_seconds"] is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dag": "fraud_train"}, "cannot be backfilled; these can: fraud_ingest"),
        ({"first": DAYS[3]}, "--from 2026-01-08 lies after --to 2026-01-07"),
        ({"first": DAYS[0] - timedelta(days=30)}, "lies before the source's first day 2026-01-01"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_a_sentence(
    ingested: Settings, wrong: dict[str, object], sentence: str
) -> None:
    asked = {"dag": "fraud_ingest", "first": DAYS[1], "last": DAYS[2], "reason": "x", **wrong}
    with pytest.raises(SluiceError, match=sentence):
        ask(ingested, "plan", **asked)
    assert lake_of(ingested).read(BACKFILLS).num_rows == 0


def test_a_name_that_is_no_name_is_refused() -> None:
    with pytest.raises(SluiceError, match="parameter name"):
        run_job("run_backfill", {"name": "../x", "person": "ada", "at": NOON})
    with pytest.raises(SluiceError, match="SLUICE_STAGING"):
        load_settings({"SLUICE_STAGING": "a/../b"})


def test_each_recipe_says_how_its_days_follow_one_another() -> None:
    paces = {dag: [step.pace for step in recipe.steps] for dag, recipe in RECIPES.items()}
    assert paces["fraud_ingest"] == [Pace.AT_ONCE, Pace.IN_ORDER, Pace.IN_ORDER, Pace.IN_ORDER]
    assert paces["fraud_features"] == [Pace.RANGE, Pace.RANGE]


def test_giving_up_a_swap_that_was_cut_off_before_it_began_lets_go_of_its_pins(
    ingested: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = staged(ingested)
    ask(ingested, "validate", name=name)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(ingested, "swap", name=name, execute=True)
    monkeypatch.undo()
    assert pinned(lake_of(ingested)) != {}
    ask(ingested, "abort", name=name, execute=True)
    assert pinned(lake_of(ingested)) == {}
