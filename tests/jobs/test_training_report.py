"""The report and the model card: what they show, that they are whole, and that they escape."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs.conf.contract import contract_of
from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.training.evidence import Difference, Evidence, Savings
from jobs.training.frame import FrameFacts
from jobs.training.gate import GateResult
from jobs.training.model_card import DESCRIPTION_LENGTH, description_of, model_card
from jobs.training.pictures import PICTURES
from jobs.training.register import detail_metrics_of, metrics_of
from jobs.training.report import report_page
from jobs.training.run_folder import RunFolder
from tests.judged_run import judged
from tests.training_support import DAY, sqlite_settings

pytest_plugins = ("tests.judged_run",)
POLICY = load_policy("demo")


@pytest.fixture(scope="module")
def evidence(folder: RunFolder, settings: Settings) -> Evidence:
    return judged(folder, settings)


@pytest.fixture(scope="module")
def page(evidence: Evidence, folder: RunFolder) -> str:
    verdict = folder.read_model("gate.json", GateResult)
    return report_page(evidence, verdict, folder, model="fraud", drill="none", currency="EUR")


def card_of(
    evidence: Evidence, folder: RunFolder, settings: Settings, *, drill: str = "none", **change: str
) -> str:
    verdict = folder.read_model("gate.json", GateResult).model_copy(update=change)
    facts = folder.read_model("frame.json", FrameFacts)
    contract = contract_of(settings)
    return model_card(
        evidence, verdict, facts, contract, POLICY, model="fraud", drill=drill, author="ann", commit="c0ffee"
    )


class Reader(HTMLParser):
    """Which elements a page has, what they point at, and whether they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_that_needs_nothing_from_anywhere(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert not reader.tags & {"script", "link", "iframe", "a"}
    assert len(reader.addresses) == len(PICTURES)
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "default-src &#x27;none&#x27;" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_report_shows_every_part_of_the_evidence(page: str, evidence: Evidence) -> None:
    shown = [
        *(each.name for each in evidence.slices),
        *(each.name for each in evidence.baselines),
        *(each.name for each in evidence.behaviour),
        *(each.name for each in evidence.leak_checks),
        *(each.name for each in evidence.groups),
        *(str(each.first) for each in evidence.weeks),
        *(str(each.transaction_id) for each in evidence.cases),
        *(each.decision for each in evidence.decisions),
        evidence.contributions[0].feature,
        f"{evidence.challenger.pr_auc:.4f} [{evidence.challenger.pr_auc_low:.4f}, ",
        f"{evidence.operating_point['chosen_cost_minor'] / 100:,.2f} EUR",
        f"These decisions save {evidence.saved.challenger_minor / 100:,.2f} EUR a day.",
        "person decides",
        "share of known fraud at the terminal",
    ]
    assert [text for text in shown if f"{text}" not in page] == []


def test_report_and_metrics_hold_what_both_models_save_or_why_there_is_no_champion_to_compare(
    evidence: Evidence, folder: RunFolder
) -> None:
    verdict = GateResult(classification="blocked", reasons=(), checks=())
    saved = Savings(
        challenger_minor=950_00.0,
        champion_minor=900_00.0,
        difference=Difference(value=50_00.0, low=-10_00.0, high=110_00.0),
    )
    beside = {"champion_version": "3", "saved": saved, "champion_decisions": evidence.decisions}
    found = evidence.model_copy(update=beside)
    page = report_page(found, verdict, folder, model="fraud", drill="none", currency="EUR")
    assert (
        "These decisions save 950.00 EUR a day, those of champion 3 900.00 EUR on the same rows: "
        "difference 50.00 EUR [-10.00 EUR, 110.00 EUR]."
    ) in page
    assert "champion: frauds" in page
    assert metrics_of(found)["saved_a_day_difference_minor_low"] == -10_00.0
    blocked = f"{evidence.decisions[-1].decision}_frauds"
    assert detail_metrics_of(found)[f"champion_decision_{blocked}"] == evidence.decisions[-1].frauds
    absent = found.model_copy(
        update={"champion_problem": "its bundle is gone", "saved": Savings(challenger_minor=950_00.0)}
    )
    page = report_page(absent, verdict, folder, model="fraud", drill="none", currency="EUR")
    assert "These decisions save 950.00 EUR a day; champion 3: its bundle is gone." in page


def test_the_report_escapes_what_others_wrote(evidence: Evidence, folder: RunFolder) -> None:
    nasty = "<script>alert('x')</script>"
    bad = evidence.model_copy(update={"champion_version": "3", "champion_problem": nasty, "run": nasty})
    verdict = GateResult(classification="blocked", reasons=(nasty,), checks=())
    page = report_page(bad, verdict, folder, model=nasty, drill=nasty, currency=nasty)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    reader = Reader()
    reader.feed(page)
    assert reader.open == []


def test_a_report_without_pictures_names_the_job_that_draws_them(evidence: Evidence, tmp_path: Path) -> None:
    other = RunFolder(sqlite_settings(tmp_path), "r")
    verdict = GateResult(classification="blocked", reasons=(), checks=())
    with pytest.raises(SluiceError, match="run evaluate_model first"):
        report_page(evidence, verdict, other, model="fraud", drill="none", currency="EUR")


def test_the_card_says_what_it_is_for_what_it_can_do_and_who_must_approve(
    evidence: Evidence, folder: RunFolder, settings: Settings
) -> None:
    card = card_of(evidence, folder, settings)
    titles = re.findall(r"^## (.*)$", card, flags=re.MULTILINE)
    assert titles == [
        "Purpose", "Figures on the test rows", "Data and split", "Limits", "Slices", "Behaviour",
        "What it looks at", "How to reproduce",
    ]  # fmt: skip
    assert "**Gate: person decides.**" in card
    assert "one person other than ann" in card
    assert f"{evidence.challenger.pr_auc:.4f}" in card
    assert f"sluice rebuild_frame --day {DAY} --run r" in card
    assert "c0ffee" in card
    assert "Fire drill" not in card
    assert "Fire drill: slow" in card_of(evidence, folder, settings, drill="slow")
    assert "cannot be promoted" in card_of(evidence, folder, settings, classification="blocked")


def test_every_table_of_the_card_has_as_many_cells_in_each_row(
    evidence: Evidence, folder: RunFolder, settings: Settings
) -> None:
    bad = evidence.model_copy(update={"champion_problem": "a | b\n## c <img>"})
    card = card_of(bad, folder, settings)
    assert "a \\| b ## c &lt;img>" in card
    for block in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1


def test_a_description_fits_the_registry_and_ends_with_a_whole_section(
    evidence: Evidence, folder: RunFolder, settings: Settings
) -> None:
    card = card_of(evidence, folder, settings)
    whole = description_of(card)
    assert len(whole) <= DESCRIPTION_LENGTH
    for length in (400, 1_500, 3_000):
        short = description_of(card, length)
        assert len(short) <= length
        assert short.endswith("among the artifacts of the run.\n")
    kept = description_of(card, 3_000).rsplit("\nThe whole card", maxsplit=1)[0]
    assert card.startswith(kept)
    assert card[len(kept) :].startswith("\n## ")
