"""The gate's truth table: what is automatic, what a person decides, what is blocked."""

from __future__ import annotations

from datetime import date

import pytest

from jobs.conf.policy import load_policy
from jobs.training.evidence import Difference, Evidence, Figures, SliceFigures
from jobs.training.gate import judge

POLICY = load_policy()
SLICE = SliceFigures(
    name="night",
    rows=900,
    positives=60,
    pr_auc=0.5,
    champion_pr_auc=0.5,
    difference=Difference(value=0.0, low=-0.05, high=0.05),
)
GOOD = Evidence(
    run="r",
    day=date(2026, 3, 1),
    test_first=date(2026, 1, 30),
    test_last=date(2026, 2, 26),
    rows=70_000,
    positives=700,
    bundle_digest="new",
    challenger=Figures(name="challenger", pr_auc=0.55, ece=0.01),
    champion=Figures(name="champion", pr_auc=0.50, ece=0.01),
    champion_version="3",
    champion_digest="old",
    difference=Difference(value=0.05, low=0.01, high=0.09),
    slices_named=("night",),
    slices=(SLICE,),
    latency_p50_ms=1.0,
    latency_p99_ms=2.0,
)
FIRST = GOOD.model_copy(
    update={
        "champion": None,
        "champion_version": "",
        "champion_digest": "",
        "difference": Difference(),
        "baselines": (
            Figures(name="rules", pr_auc=0.02),
            Figures(name="logistic_regression", pr_auc=0.40),
        ),
    }
)


def with_figures(challenger: float | None, champion: float | None, low: float | None) -> Evidence:
    return GOOD.model_copy(
        update={
            "challenger": Figures(name="challenger", pr_auc=challenger, ece=0.01),
            "champion": Figures(name="champion", pr_auc=champion, ece=0.01),
            "difference": Difference(value=0.0, low=low, high=0.2),
        }
    )


@pytest.mark.parametrize(
    ("challenger", "low", "expected"),
    [
        (0.5500, 0.010, "automatic"),  # clearly better
        (0.5101, 0.001, "automatic"),  # a little more than 2 %
        (0.5500, 0.000, "person decides"),  # more than 2 %, but the bound is not above 0
        (0.5500, -0.01, "person decides"),
        (0.5100, 0.005, "person decides"),  # exactly 2 %
        (0.5050, 0.001, "person decides"),
        (0.5000, -0.01, "person decides"),  # exactly 0
        (0.4999, -0.02, "blocked"),  # worse
        (0.4000, -0.20, "blocked"),
    ],
)
def test_primary_figure_against_the_champion(challenger: float, low: float, expected: str) -> None:
    assert judge(with_figures(challenger, 0.5, low), POLICY).classification == expected


@pytest.mark.parametrize(
    ("challenger", "champion", "low"),
    [(None, 0.5, 0.01), (0.55, None, 0.01), (0.55, 0.5, None), (0.55, 0.0, 0.01)],
)
def test_a_missing_primary_figure_closes_the_gate(
    challenger: float | None, champion: float | None, low: float | None
) -> None:
    assert judge(with_figures(challenger, champion, low), POLICY).classification == "blocked"


def test_a_figure_that_is_not_a_number_closes_the_gate() -> None:
    broken = Figures.model_construct(name="challenger", pr_auc=float("nan"), ece=0.01)
    assert judge(GOOD.model_copy(update={"challenger": broken}), POLICY).classification == "blocked"
    assert judge(FIRST.model_copy(update={"challenger": broken}), POLICY).classification == "blocked"


def drop(low: float, high: float, positives: int = 60) -> tuple[SliceFigures, ...]:
    difference = Difference(value=(low + high) / 2, low=low, high=high)
    return (SLICE.model_copy(update={"positives": positives, "difference": difference}),)


# what is wrong -> the rule that closes the gate, and the change to otherwise good evidence
BLOCKED_THOUGH_BETTER: dict[str, tuple[str, dict[str, object]]] = {
    "calibration error above the limit": ("ece", {"challenger": Figures(name="c", pr_auc=0.6, ece=0.051)}),
    "calibration worse than the champion's": (
        "ece_increase",
        {"challenger": Figures(name="c", pr_auc=0.6, ece=0.0201)},
    ),
    "no calibration figure": ("ece", {"challenger": Figures(name="c", pr_auc=0.6)}),
    "no calibration figure of the champion": (
        "ece_increase",
        {"champion": Figures(name="champion", pr_auc=0.5)},
    ),
    "latency": ("latency_p99_ms", {"latency_p99_ms": 50.1}),
    "no latency": ("latency_p99_ms", {"latency_p99_ms": None}),
    "an absent slice": ("slice_night", {"slices": ()}),
    "a worse slice": ("slice_night", {"slices": drop(-0.08, -0.021)}),
    "a slice without a figure": (
        "slice_night",
        {"slices": (SLICE.model_copy(update={"difference": Difference()}),)},
    ),
    "too few frauds": ("sample", {"positives": 29}),
    "nothing but frauds": ("sample", {"rows": 700}),
    "compared with itself": ("pr_auc_gain", {"champion_digest": "new"}),
    "an unknown champion": ("pr_auc_gain", {"champion_digest": ""}),
    "a champion that cannot be scored": (
        "pr_auc_gain",
        {"champion": None, "champion_problem": "no bundle"},
    ),
}


@pytest.mark.parametrize("what", BLOCKED_THOUGH_BETTER)
def test_a_better_pr_auc_does_not_open_the_gate_with(what: str) -> None:
    rule, change = BLOCKED_THOUGH_BETTER[what]
    result = judge(GOOD.model_copy(update=change), POLICY)
    assert result.classification == "blocked"
    failed = {check.name: check.detail for check in result.checks if check.outcome == "fail"}
    assert failed[rule] in result.reasons


ALLOWED: dict[str, dict[str, object]] = {
    "calibration at the limit against the champion": {"challenger": Figures(name="c", pr_auc=0.6, ece=0.02)},
    "latency at the limit": {"latency_p99_ms": 50.0},
    "a slice whose interval ends at the allowed drop": {"slices": drop(-0.08, -0.02)},
    "a small slice that is worse": {"slices": drop(-0.4, -0.2, positives=49)},
    "just enough frauds": {"positives": 30},
}


@pytest.mark.parametrize("what", ALLOWED)
def test_the_gate_stays_open_with(what: str) -> None:
    assert judge(GOOD.model_copy(update=ALLOWED[what]), POLICY).classification == "automatic"


def test_a_first_version_that_beats_the_baselines_needs_a_person() -> None:
    result = judge(FIRST, POLICY)
    assert result.classification == "person decides"
    assert "first version" in result.reasons[0]


@pytest.mark.parametrize(
    "baselines",
    [
        (Figures(name="rules", pr_auc=0.02), Figures(name="logistic_regression", pr_auc=0.55)),
        (Figures(name="rules", pr_auc=0.60), Figures(name="logistic_regression", pr_auc=0.4)),
        (Figures(name="rules", pr_auc=0.02),),
        (Figures(name="rules"), Figures(name="logistic_regression", pr_auc=0.4)),
        (),
    ],
)
def test_a_first_version_is_blocked_without_beating_both_baselines(baselines: tuple[Figures, ...]) -> None:
    result = judge(FIRST.model_copy(update={"baselines": baselines}), POLICY)
    assert result.classification == "blocked"


def test_every_verdict_names_its_reasons_and_all_its_checks() -> None:
    result = judge(GOOD, POLICY)
    assert {check.name for check in result.checks} == {
        "sample",
        "pr_auc_gain",
        "ece",
        "ece_increase",
        "slice_night",
        "latency_p99_ms",
    }
    assert "+10.00%" in result.reasons[0]
