"""The gate's truth table: what is automatic, what a person decides, what is blocked, and by which rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.conf.policy import load_policy
from jobs.training.evidence import (
    BandFigures,
    DecisionFigures,
    Difference,
    Evidence,
    Figures,
    GroupFigures,
    Savings,
    SliceFigures,
)
from jobs.training.gate import judge
from tests.complete_evidence import OTHER_FIGURES, SHOWN

POLICY = load_policy()
AUTOMATIC, PERSON, BLOCKED = "automatic", "person decides", "blocked"
Rates = tuple[float | None, float | None]  # TPR and FPR
SLICE = SliceFigures(
    name="night",
    rows=900,
    positives=60,
    pr_auc=0.5,
    champion_pr_auc=0.5,
    difference=Difference(value=0.0, low=-0.05, high=0.05),
)


def band(name: str, own: Rates = (0.8, 0.01), champion: Rates = (0.8, 0.01), frauds: int = 60) -> BandFigures:
    return BandFigures(
        name=name,
        rows=9_000,
        positives=frauds,
        true_positive_rate=own[0],
        false_positive_rate=own[1],
        champion_true_positive_rate=champion[0],
        champion_false_positive_rate=champion[1],
    )


def groups(*bands: BandFigures) -> tuple[GroupFigures, ...]:
    return (GroupFigures(name="age", bands=bands),)


GOOD = Evidence(
    run="r",
    day=date(2026, 3, 1),
    test_first=date(2026, 1, 30),
    test_last=date(2026, 2, 26),
    rows=70_000,
    positives=700,
    bundle_digest="new",
    challenger=Figures(name="challenger", pr_auc=0.55, ece=0.01, **OTHER_FIGURES),
    champion=Figures(name="champion", pr_auc=0.50, ece=0.01),
    champion_version="3",
    champion_digest="old",
    difference=Difference(value=0.05, low=0.01, high=0.09),
    slices_named=("night",),
    slices=(SLICE,),
    groups_named=("age",),
    groups=groups(band("below_30"), band("from_30", own=(0.75, 0.02))),
    **SHOWN,
)
FIRST = GOOD.model_copy(
    update={
        "champion": None,
        "champion_version": "",
        "champion_digest": "",
        "difference": Difference(),
        "champion_decisions": (),
        "saved": Savings(challenger_minor=900_00.0),
        "baselines": (
            Figures(name="rules", pr_auc=0.02),
            Figures(name="logistic_regression", pr_auc=0.40),
        ),
    }
)


@dataclass(frozen=True)
class Row:
    """What the gate must say of good evidence after a change, and the rule whose check says it."""

    what: str
    verdict: str
    rule: str = "pr_auc_gain"
    change: dict[str, Any] = field(default_factory=dict)
    good: Evidence = GOOD


def gain(challenger: float, low: float) -> dict[str, Any]:
    """Against a champion of 0.5."""
    return {
        "challenger": Figures(name="challenger", pr_auc=challenger, ece=0.01, **OTHER_FIGURES),
        "difference": Difference(value=challenger - 0.5, low=low, high=0.2),
    }


def own(**figures: float | None) -> dict[str, Any]:
    return {"challenger": Figures(name="challenger", **{**OTHER_FIGURES, "pr_auc": 0.55, **figures})}


def old(**figures: float) -> dict[str, Any]:
    return {"champion": Figures(name="champion", **figures)}


def drop(low: float, high: float, frauds: int = 60) -> dict[str, Any]:
    difference = Difference(value=(low + high) / 2, low=low, high=high)
    return {"slices": (SLICE.model_copy(update={"positives": frauds, "difference": difference}),)}


def bands(*given: BandFigures) -> dict[str, Any]:
    return {"groups": groups(*given)}


def tried(part: str, name: str, **change: object) -> dict[str, Any]:
    """One of the tests or checks came to something else."""
    return {part: tuple(each.model_copy(update=change if each.name == name else {}) for each in SHOWN[part])}


def saving(low: float | None, high: float | None, champion: float | None = 900_00.0) -> dict[str, Any]:
    """The interval of what is saved a day more than by the champion."""
    difference = Difference(value=0.0, low=low, high=high)
    return {"saved": Savings(challenger_minor=900_00.0, champion_minor=champion, difference=difference)}


def decided(part: str, review: int, block: int, frauds: int = 0) -> dict[str, Any]:
    """So many good rows in these bands, and so many frauds in each."""
    counts = {"approve": 1_000, "review": review, "challenge": 0, "block": block}
    return {
        part: tuple(
            DecisionFigures(
                decision=name, frauds=frauds, good=good, fraud_amount_minor=0, good_amount_minor=good * 5_00
            )
            for name, good in counts.items()
        )
    }


def beside(own: tuple[int, int], champion: tuple[int, int]) -> dict[str, Any]:
    """Reviewed and blocked by the challenger, and by the champion."""
    return decided("decisions", *own) | decided("champion_decisions", *champion)


def baselines(rules: float | None, regression: float | None) -> dict[str, Any]:
    return {
        "baselines": (
            Figures(name="rules", pr_auc=rules),
            Figures(name="logistic_regression", pr_auc=regression),
        )
    }


SHOWN_LISTS = ("operating_point", "cost_curve", "decisions", "weeks", "importance", "contributions", "cases")
NOT_A_NUMBER = Figures.model_construct(name="broken", pr_auc=float("nan"), ece=float("nan"))
TABLE = (
    # the primary figure
    Row("10 % better, bound above 0", AUTOMATIC, change=gain(0.55, 0.01)),
    Row("a little more than 2 % better, bound above 0", AUTOMATIC, change=gain(0.510001, 0.001)),
    Row("10 % better, bound exactly 0", PERSON, change=gain(0.55, 0.0)),
    Row("10 % better, bound below 0", PERSON, change=gain(0.55, -0.01)),
    Row("exactly 2 % better", PERSON, change=gain(0.51, 0.005)),
    Row("1 % better", PERSON, change=gain(0.505, 0.001)),
    Row("exactly as good", PERSON, change=gain(0.5, -0.01)),
    Row("a little worse", BLOCKED, change=gain(0.499999, -0.02)),
    Row("20 % worse", BLOCKED, change=gain(0.4, -0.2)),
    Row("no PR-AUC", BLOCKED, change={"challenger": Figures(name="challenger", ece=0.01)}),
    Row("PR-AUC that is not a number", BLOCKED, change={"challenger": NOT_A_NUMBER}),
    Row("no PR-AUC of the champion", BLOCKED, change=old(ece=0.01)),
    Row("champion's PR-AUC not a number", BLOCKED, change={"champion": NOT_A_NUMBER}),
    Row("champion with PR-AUC 0", BLOCKED, change=old(pr_auc=0.0, ece=0.01)),
    Row("no interval of the difference", BLOCKED, change={"difference": Difference(value=0.05)}),
    Row("compared with itself", BLOCKED, change={"champion_digest": "new"}),
    Row("an unknown champion", BLOCKED, change={"champion_digest": ""}),
    Row("champion not scored", BLOCKED, change={"champion": None, "champion_problem": "no bundle"}),
    # the sample
    Row("30 frauds", AUTOMATIC, "sample", {"positives": 30}),
    Row("29 frauds", BLOCKED, "sample", {"positives": 29}),
    Row("nothing but frauds", BLOCKED, "sample", {"rows": 700}),
    # money at the decision bands
    Row("clearly less saved than by the champion", BLOCKED, "saved_against_champion", saving(-90_00.0, -1.0)),
    Row("less saved, which may be chance", AUTOMATIC, "saved_against_champion", saving(-90_00.0, 0.0)),
    Row("no figure of what is saved", BLOCKED, "saved_against_champion", {"saved": None}),
    Row("no interval of what is saved", BLOCKED, "saved_against_champion", saving(None, None)),
    Row("no figure of what the champion saves", BLOCKED, "saved_against_champion",
        saving(-1.0, 1.0, champion=None)),
    # decisions that a canary would take back
    Row("nobody is blocked, by the champion 19", PERSON, "blocked_ratio", beside((30, 0), (30, 19))),
    Row("nobody is blocked, by the champion five", AUTOMATIC, "blocked_ratio", beside((30, 0), (30, 5))),
    Row("nobody is blocked, by the champion six", PERSON, "blocked_ratio", beside((30, 0), (30, 6))),
    Row("three times as many are stopped", AUTOMATIC, "stopped_ratio", beside((91, 0), (30, 0))),
    Row("more than that", PERSON, "stopped_ratio", beside((92, 0), (30, 0))),
    Row("many more frauds are stopped and blocked", AUTOMATIC, "blocked_ratio",
        decided("decisions", 30, 9, frauds=400) | decided("champion_decisions", 30, 9, frauds=20)),
    Row("a third is stopped", AUTOMATIC, "stopped_ratio", beside((30, 0), (91, 0))),
    Row("less than that", PERSON, "stopped_ratio", beside((30, 0), (92, 0))),
    Row("no decisions of the champion", BLOCKED, "stopped_ratio", {"champion_decisions": ()}),
    Row("no band of blocks", BLOCKED, "blocked_ratio", {"decisions": GOOD.decisions[:-1]}),
    # calibration
    Row("calibration at the limit", AUTOMATIC, "ece", own(ece=0.05) | old(pr_auc=0.5, ece=0.045)),
    Row("calibration above the limit", BLOCKED, "ece", own(ece=0.0501) | old(pr_auc=0.5, ece=0.045)),
    Row("no calibration figure", BLOCKED, "ece", own()),
    Row("calibration 0.01 worse than the champion's", AUTOMATIC, "ece_increase", own(ece=0.02)),
    Row("calibration worse than that", BLOCKED, "ece_increase", own(ece=0.0201)),
    Row("no calibration figure of the champion", BLOCKED, "ece_increase", old(pr_auc=0.5)),
    # slices
    Row("interval of a slice ends at -0.02", AUTOMATIC, "slice_night", drop(-0.08, -0.02)),
    Row("interval of a slice lies below that", BLOCKED, "slice_night", drop(-0.08, -0.0201)),
    Row("the same with 50 frauds", BLOCKED, "slice_night", drop(-0.08, -0.0201, frauds=50)),
    Row("the same with 49 frauds", AUTOMATIC, "slice_night", drop(-0.08, -0.0201, frauds=49)),
    Row("an absent slice", BLOCKED, "slice_night", {"slices": ()}),
    Row(
        "a slice without a figure",
        BLOCKED,
        "slice_night",
        {"slices": (SLICE.model_copy(update={"difference": Difference()}),)},
    ),
    # groups
    Row("TPR gap 0.1 wider", AUTOMATIC, "group_age_tpr_gap", bands(band("a"), band("b", own=(0.7, 0.01)))),
    Row("TPR gap wider than that", BLOCKED, "group_age_tpr_gap", bands(band("a"), band("b", (0.699, 0.01)))),
    Row("FPR gap 0.1 wider", AUTOMATIC, "group_age_fpr_gap", bands(band("a"), band("b", (0.8, 0.11)))),
    Row("FPR gap wider than that", BLOCKED, "group_age_fpr_gap", bands(band("a"), band("b", (0.8, 0.111)))),
    Row(
        "a wider TPR gap that makes no band worse",
        PERSON,
        "group_age_tpr_gap",
        bands(band("a", own=(0.95, 0.01)), band("b", own=(0.8, 0.01))),
    ),
    Row(
        "a wider FPR gap that makes no band worse",
        PERSON,
        "group_age_fpr_gap",
        bands(band("a", (0.8, 0.2), champion=(0.8, 0.2)), band("b", (0.8, 0.05), champion=(0.8, 0.2))),
    ),
    Row(
        "a wider TPR gap that makes a band a little worse",
        BLOCKED,
        "group_age_tpr_gap",
        bands(band("a", own=(0.95, 0.01)), band("b", own=(0.799, 0.01))),
    ),
    Row(
        "a wide TPR gap that the champion has as well",
        AUTOMATIC,
        "group_age_tpr_gap",
        bands(band("a"), band("b", own=(0.3, 0.01), champion=(0.3, 0.01))),
    ),
    Row(
        "the gap between the two bands that are furthest apart",
        BLOCKED,
        "group_age_tpr_gap",
        bands(band("a", own=(0.86, 0.01)), band("b"), band("c", own=(0.75, 0.01))),
    ),
    Row(
        "a wide gap to a band of 49 frauds",
        AUTOMATIC,
        "group_age_tpr_gap",
        bands(band("a"), band("b"), band("c", own=(0.1, 0.01), frauds=49)),
    ),
    Row(
        "only one band of 50 frauds",
        AUTOMATIC,
        "group_age_tpr_gap",
        bands(band("a"), band("b", own=(0.1, 0.01), frauds=49)),
    ),
    Row(
        "false alarms in a band of few frauds and many good rows",
        BLOCKED,
        "group_age_fpr_gap",
        bands(band("a"), band("b", own=(0.8, 0.6), frauds=49)),
    ),
    Row("a band without a TPR", BLOCKED, "group_age_tpr_gap", bands(band("a"), band("b", (None, 0.01)))),
    Row(
        "a band without the champion's FPR",
        BLOCKED,
        "group_age_fpr_gap",
        bands(band("a"), band("b", champion=(0.8, None))),
    ),
    Row("an absent group", BLOCKED, "group_age_tpr_gap", {"groups": ()}),
    # latency
    Row("p99 of 50 ms", AUTOMATIC, "latency_p99_ms", {"latency_p99_ms": 50.0}),
    Row("p99 above 50 ms", BLOCKED, "latency_p99_ms", {"latency_p99_ms": 50.1}),
    Row("no latency", BLOCKED, "latency_p99_ms", {"latency_p99_ms": None}),
    # what must have been tried out
    Row("a direction that is wrong is for people to read", AUTOMATIC, "behaviour",
        tried("behaviour", "riskiest_terminal", held=False)),
    Row("no behavioural tests", BLOCKED, "behaviour", {"behaviour": ()}),
    Row("one behavioural test is missing", BLOCKED, "behaviour", {"behaviour": SHOWN["behaviour"][1:]}),
    Row("a direction that no row could show", BLOCKED, "behaviour",
        tried("behaviour", "riskiest_terminal", rows=0, change=None)),
    Row("shuffled labels that miss chance are for people to read", AUTOMATIC, "leak_checks",
        tried("leak_checks", "labels_shuffled", held=False)),
    Row("a planted leak that was not found", PERSON, "leak_checks",
        tried("leak_checks", "planted_with_gaps", held=False)),
    Row("a leak check without a figure", BLOCKED, "leak_checks", tried("leak_checks", "planted", value=None)),
    Row("no checks of the leak checks", BLOCKED, "leak_checks", {"leak_checks": ()}),
    # what people decide by
    *(Row(f"no {name}", BLOCKED, "evidence", {name: type(SHOWN[name])()}) for name in SHOWN_LISTS),
    *(Row(f"no {name}", BLOCKED, "evidence", own(ece=0.01, **{name: None})) for name in OTHER_FIGURES),
    Row("first, nothing known of what is saved", BLOCKED, "evidence", {"saved": None}, FIRST),
    Row("no median latency", BLOCKED, "evidence", {"latency_p50_ms": None}),
    Row("an operating point that is not a number", BLOCKED, "evidence",
        {"operating_point": {"chosen_threshold": float("nan")}}),
    Row("an importance that is not a number", BLOCKED, "evidence", {"importance": {"amount": float("inf")}}),
    # the first version
    Row("a first version that beats both baselines", PERSON, "first_version", good=FIRST),
    Row("as good as the rules", BLOCKED, "beats_rules", baselines(0.55, 0.4), FIRST),
    Row("no figure of the rules", BLOCKED, "beats_rules", baselines(None, 0.4), FIRST),
    Row("no baselines", BLOCKED, "beats_rules", {"baselines": ()}, FIRST),
    Row(
        "as good as the regression", BLOCKED, "beats_logistic_regression", baselines(0.02, 0.55), FIRST
    ),
    Row("no regression", BLOCKED, "beats_logistic_regression", baselines(0.02, None), FIRST),
    Row("first, not a number", BLOCKED, "beats_rules", {"challenger": NOT_A_NUMBER}, FIRST),
    Row("first, an absent slice", BLOCKED, "slice_night", {"slices": ()}, FIRST),
    Row("first, an absent group", BLOCKED, "group_age_tpr_gap", {"groups": ()}, FIRST),
    Row("first, badly calibrated", BLOCKED, "ece", own(ece=0.06), FIRST),
)  # fmt: skip
SAYS = {AUTOMATIC: "pass", PERSON: "inconclusive", BLOCKED: "fail"}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_the_truth_table(row: Row) -> None:
    result = judge(row.good.model_copy(update=row.change), POLICY)
    assert result.classification == row.verdict
    check = next(check for check in result.checks if check.name == row.rule)
    assert check.outcome == SAYS[row.verdict]
    assert row.verdict == AUTOMATIC or check.detail in result.reasons


def test_every_rule_has_an_example_that_it_blocks() -> None:
    rules = {check.name for evidence in (GOOD, FIRST) for check in judge(evidence, POLICY).checks}
    blocking = {row.rule for row in TABLE if row.verdict == BLOCKED}
    assert rules - blocking == {"first_version"}, "by policy this rule asks a person and never blocks"
    assert blocking <= rules


@given(champion=st.integers(1, 10_000), challenger=st.integers(0, 10_000), low=st.integers(-3, 3))
def test_the_boundaries_0_and_2_percent_are_exact(champion: int, challenger: int, low: int) -> None:
    figures = {
        **old(pr_auc=champion / 10_000, ece=0.01),
        **own(pr_auc=challenger / 10_000, ece=0.01),
        "difference": Difference(value=0.0, low=low / 100, high=0.5),
    }
    if challenger < champion:
        expected = BLOCKED
    else:
        expected = AUTOMATIC if 100 * challenger > 102 * champion and low > 0 else PERSON
    assert judge(GOOD.model_copy(update=figures), POLICY).classification == expected


def test_every_verdict_names_its_reasons_and_all_its_checks() -> None:
    result = judge(GOOD, POLICY)
    assert {check.name for check in result.checks} == {
        "sample",
        "pr_auc_gain",
        "saved_against_champion",
        "stopped_ratio",
        "blocked_ratio",
        "ece",
        "ece_increase",
        "slice_night",
        "group_age_tpr_gap",
        "group_age_fpr_gap",
        "latency_p99_ms",
        "behaviour",
        "leak_checks",
        "evidence",
    }
    assert "+10.00%" in result.reasons[0]


def test_bands_with_few_frauds_are_named() -> None:
    evidence = GOOD.model_copy(update=bands(band("a"), band("b"), band("c", frauds=7)))
    details = {check.name: check.detail for check in judge(evidence, POLICY).checks}
    assert "too few frauds to decide: c 7" in details["group_age_tpr_gap"]
    assert "too few" not in details["group_age_fpr_gap"], "its good rows are many"
