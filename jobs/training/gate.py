"""Job gate_model: whether a challenger may be offered, by the policy alone.

In: evaluation.json. Out: gate.json (classification, reasons, one check per rule).
Classification: "automatic", "person decides" or "blocked". The job does not fail for "blocked": the version
    is registered with its verdict, so that people see why, and the promotion refuses it.
Rules: jobs/conf/policy.yaml, section gate, and decision_ratio_max of canary. A figure that is absent, not a
    number or from too few frauds closes the gate, also one that no rule compares: people decide by them.
    Against a champion the primary figure is PR-AUC on the same rows, relative: above +2 % with the paired
    interval's lower bound above 0 is automatic; above +2 % otherwise, and 0 to +2 % with both ends, is a
    person's decision; below 0 is blocked. What ranks better may decide worse: a challenger whose decisions
    save clearly less than the champion's is blocked, and one that stops or blocks so few payments, or so many
    honest ones, that a canary may take it back is a person's decision. Without a champion the challenger must
    beat the rules and a logistic regression, and a person decides. The gap in TPR and FPR between the
    contract's groups may not grow beyond the limit, unless no group fares worse, which a person decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Literal

from scipy import stats

from jobs.conf.policy import Gate, Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, Outcome, Receipt, Stopwatch, StrictModel
from jobs.promotion.state import GATE_AUTOMATIC, GATE_BLOCKED, GATE_PERSON
from jobs.serving.bundle import file_digest
from jobs.training.evidence import (
    BEHAVIOURS,
    DIGITS,
    LEAK_CHECKS,
    PLANTED,
    DecisionFigures,
    Evidence,
    SliceFigures,
    known,
)
from jobs.training.group_gaps import group_checks
from jobs.training.run_folder import RunFolder, TrainingParams

READS = ("evaluation",)
WRITES = ("gate",)

BASELINES = ("rules", "logistic_regression")
# what people decide by
SHOWN = ("operating_point", "importance", "cost_curve", "decisions", "weeks", "contributions", "cases")
STOPPED, BLOCKED = ("review", "challenge", "block"), ("block",)
CHANCE = 0.05  # two-sided: that as many would be stopped by both
LATENCY = "p99 of one score, ms of a processor"


class Params(TrainingParams):
    """Which run."""


class GateResult(StrictModel):
    """The verdict: FAIL checks block, INCONCLUSIVE ones ask a person."""

    classification: Literal["automatic", "person decides", "blocked"]
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    evidence_digest: str = ""  # of the evaluation.json that was judged


def judge(evidence: Evidence, policy: Policy) -> GateResult:
    """The gate's verdict on the evidence, by nothing but the policy."""
    gate = policy.gate
    checks = [
        _sample(evidence, gate),
        *(_against_champion(evidence, policy) if evidence.has_champion else _first_version(evidence)),
        *_calibration(evidence, gate),
        *_slices(evidence, gate),
        *group_checks(evidence, gate),
        _limit("latency_p99_ms", evidence.latency_p99_ms, gate.latency_p99_ms, LATENCY),
        _behaviour(evidence),
        _leak_checks(evidence),
        _complete(evidence),
    ]
    failed = [check.detail for check in checks if check.outcome is Outcome.FAIL]
    open_checks = [check.detail for check in checks if check.outcome is Outcome.INCONCLUSIVE]
    if failed:
        return GateResult(classification=GATE_BLOCKED, reasons=tuple(failed), checks=tuple(checks))
    if open_checks:
        return GateResult(classification=GATE_PERSON, reasons=tuple(open_checks), checks=tuple(checks))
    gain = next(check.detail for check in checks if check.name == "pr_auc_gain")
    return GateResult(classification=GATE_AUTOMATIC, reasons=(gain,), checks=tuple(checks))


def _limit(name: str, value: float | None, limit: float, what: str) -> Check:
    """A figure that must be there and at most `limit`."""
    figure = known(value)
    if figure is None:
        return Check(name=name, outcome=Outcome.FAIL, threshold=limit, detail=f"{what}: no figure")
    over = round(figure, DIGITS) > round(limit, DIGITS)
    outcome = Outcome.FAIL if over else Outcome.PASS
    detail = f"{what}: {figure:.4g}, allowed up to {limit:.4g}"
    return Check(name=name, outcome=outcome, value=figure, threshold=limit, detail=detail)


def _behaviour(evidence: Evidence) -> Check:
    """What they found is for people to read."""
    figures = {each.name: each.change for each in evidence.behaviour}
    held = {each.name for each in evidence.behaviour if each.held}
    return _tried("behaviour", "behavioural tests", BEHAVIOURS, figures, held)


def _leak_checks(evidence: Evidence) -> Check:
    """A planted leak that was not found says nothing of the leaks that nobody planted: a person decides.

    The interval of twelve permutations misses chance now and then, so that one is for people to read.
    """
    figures = {each.name: each.value for each in evidence.leak_checks}
    held = {each.name for each in evidence.leak_checks if each.held}
    check = _tried("leak_checks", "checks of the leak checks", LEAK_CHECKS, figures, held)
    if check.outcome is Outcome.PASS and not held.issuperset(PLANTED):
        return check.model_copy(update={"outcome": Outcome.INCONCLUSIVE})
    return check


def _tried(
    name: str, what: str, expected: Sequence[str], figures: Mapping[str, float | None], held: Set[str]
) -> Check:
    """All of them must have been made, each with a figure."""
    absent = [each for each in expected if known(figures.get(each)) is None]
    if absent:
        return Check(name=name, outcome=Outcome.FAIL, detail=f"{what}: no figure of {', '.join(absent)}")
    broken = [each for each in expected if each not in held]
    detail = f"{len(expected) - len(broken)} of {len(expected)} {what} held"
    return Check(
        name=name,
        outcome=Outcome.PASS,
        value=float(len(expected) - len(broken)),
        detail=f"{detail}, not {', '.join(broken)}" if broken else detail,
    )


def _complete(evidence: Evidence) -> Check:
    """Everything else that is shown of a version is there, and every figure of it is a number."""
    figures = {
        **{key: value for key, value in evidence.challenger.model_dump().items() if key != "name"},
        "saved_a_day_minor": evidence.saved.challenger_minor if evidence.saved else None,
        "latency_p50_ms": evidence.latency_p50_ms,
        **{f"operating_point {key}": value for key, value in evidence.operating_point.items()},
        **{f"importance {key}": value for key, value in evidence.importance.items()},
    }
    absent = [name for name, value in figures.items() if known(value) is None]
    absent += [name for name in SHOWN if not getattr(evidence, name)]
    return Check(
        name="evidence",
        outcome=Outcome.FAIL if absent else Outcome.PASS,
        detail=f"evidence: no {', '.join(absent)}" if absent else "evidence: every part is there",
    )


def _sample(evidence: Evidence, gate: Gate) -> Check:
    enough = evidence.positives >= gate.minimum_positives and evidence.rows > evidence.positives
    return Check(
        name="sample",
        outcome=Outcome.PASS if enough else Outcome.FAIL,
        value=float(evidence.positives),
        threshold=float(gate.minimum_positives),
        detail=f"{evidence.positives} frauds among {evidence.rows} test rows, "
        f"needed {gate.minimum_positives}",
    )


def _against_champion(evidence: Evidence, policy: Policy) -> list[Check]:
    return [
        _gain(evidence, policy.gate),
        _saved(evidence),
        *_decision_ratios(evidence, policy.canary.decision_ratio_max),
    ]


def _gain(evidence: Evidence, gate: Gate) -> Check:
    name = "pr_auc_gain"
    champion = known(evidence.champion.pr_auc) if evidence.champion else None
    challenger = known(evidence.challenger.pr_auc)
    low = known(evidence.difference.low)
    against = f"PR-AUC against champion {evidence.champion_version}"
    problem = ""
    if evidence.champion_problem:
        problem = evidence.champion_problem
    elif champion is None or challenger is None or low is None or champion <= 0:
        problem = "no figure"
    elif not evidence.champion_digest or evidence.champion_digest == evidence.bundle_digest:
        problem = "the champion is the same model, or it is not known which it is"
    if problem or champion is None or challenger is None or low is None:
        return Check(name=name, outcome=Outcome.FAIL, detail=f"{against}: {problem}")
    gain = round((challenger - champion) / champion, DIGITS)
    text = f"{against}: {challenger:.4f} against {champion:.4f}, {gain:+.2%}, lower bound {low:+.4f}"
    if gain < 0:
        outcome, detail = Outcome.FAIL, f"{text}: worse"
    elif gain > gate.automatic_gain and low > 0:
        outcome, detail = Outcome.PASS, text
    else:
        outcome, detail = Outcome.INCONCLUSIVE, f"{text}: not clearly better, a person decides"
    return Check(name=name, outcome=outcome, value=gain, threshold=gate.automatic_gain, detail=detail)


def _saved(evidence: Evidence) -> Check:
    """Block where the whole interval over days says that the decisions save less than the champion's."""
    name, what = "saved_against_champion", f"money saved a day against champion {evidence.champion_version}"
    found = evidence.saved
    own, old = (known(found.challenger_minor), known(found.champion_minor)) if found else (None, None)
    low, high = (known(found.difference.low), known(found.difference.high)) if found else (None, None)
    if own is None or old is None or low is None or high is None:
        return Check(name=name, outcome=Outcome.FAIL, detail=f"{what}: no figure")
    detail = (
        f"{what}: {own / 100:,.2f} against {old / 100:,.2f}, "
        f"difference {(own - old) / 100:+,.2f} [{low / 100:+,.2f}, {high / 100:+,.2f}]"
    )
    outcome = Outcome.FAIL if high < 0 else Outcome.PASS
    return Check(name=name, outcome=outcome, value=round((own - old) / 100, 2), threshold=0.0, detail=detail)


def _decision_ratios(evidence: Evidence, limit: float) -> list[Check]:
    """A person decides where so few payments are stopped, or so many honest ones, that a canary may object.

    More frauds among them are no harm: after a drift they are what the version is for. Payments are counted,
    where a canary counts customers, and beyond chance: that both stop as many.
    """
    checks = []
    for name, bands in (("stopped", STOPPED), ("blocked", BLOCKED)):
        own, old = (_rows_in(bands, found) for found in (evidence.decisions, evidence.champion_decisions))
        label, what = f"{name}_ratio", f"payments {name} against champion {evidence.champion_version}"
        if own is None or old is None:
            checks.append(Check(name=label, outcome=Outcome.FAIL, detail=f"{what}: no figure"))
            continue
        (mine, mine_good), (others, others_good) = own, old
        fewer = _beyond(others, mine, limit)
        beyond = fewer or _beyond(mine_good, others_good, limit)
        detail = f"{what}: {mine} of {evidence.rows} test rows against {others}"
        detail += f", honest ones {mine_good} against {others_good}"
        if beyond:
            said = "less than the inverse of" if fewer else "more than"
            detail += f": {said} {limit:g} times, where a canary may take it back; a person decides"
        outcome = Outcome.INCONCLUSIVE if beyond else Outcome.PASS
        ratio = round((mine + 0.5) / (others + 0.5), DIGITS)
        checks.append(Check(name=label, outcome=outcome, value=ratio, threshold=limit, detail=detail))
    return checks


def _beyond(more: int, less: int, limit: float) -> bool:
    """Whether one count is more than `limit` times the other, and chance alone would not make it."""
    ratio = round((more + 0.5) / (less + 0.5), DIGITS)  # some against none is no infinity
    return ratio > limit and float(stats.binomtest(more, more + less).pvalue) < CHANCE


def _rows_in(bands: Sequence[str], found: Sequence[DecisionFigures]) -> tuple[int, int] | None:
    """Rows in these decision bands, and the good ones among them; None where the evidence lacks a band."""
    by_name = {each.decision: each for each in found}
    if not by_name.keys() >= set(bands):
        return None
    chosen = [by_name[name] for name in bands]
    return sum(each.frauds + each.good for each in chosen), sum(each.good for each in chosen)


def _first_version(evidence: Evidence) -> list[Check]:
    """No champion: the baselines must be beaten, and a person approves."""
    challenger = known(evidence.challenger.pr_auc)
    figures = {baseline.name: known(baseline.pr_auc) for baseline in evidence.baselines}
    checks = []
    for name in BASELINES:
        baseline = figures.get(name)
        if challenger is None or baseline is None:
            checks.append(
                Check(name=f"beats_{name}", outcome=Outcome.FAIL, detail=f"PR-AUC against {name}: no figure")
            )
            continue
        checks.append(
            Check(
                name=f"beats_{name}",
                outcome=Outcome.PASS if challenger > baseline else Outcome.FAIL,
                value=challenger,
                threshold=baseline,
                detail=f"PR-AUC {challenger:.4f} against {baseline:.4f} of {name}",
            )
        )
    detail = "first version: there is no champion to compare with, a person decides"
    checks.append(Check(name="first_version", outcome=Outcome.INCONCLUSIVE, detail=detail))
    return checks


def _calibration(evidence: Evidence, gate: Gate) -> list[Check]:
    checks = [_limit("ece", evidence.challenger.ece, gate.ece_max, "calibration error")]
    if not evidence.has_champion:
        return checks
    champion = known(evidence.champion.ece) if evidence.champion else None
    name, what = "ece_increase", "calibration error against the champion's"
    if champion is None:
        return [*checks, Check(name=name, outcome=Outcome.FAIL, detail=f"{what}: no figure")]
    limit = round(champion + gate.ece_increase_max, DIGITS)
    return [*checks, _limit(name, evidence.challenger.ece, limit, what)]


def _slices(evidence: Evidence, gate: Gate) -> list[Check]:
    found = {figures.name: figures for figures in evidence.slices}
    return [_slice(name, found.get(name), evidence, gate) for name in evidence.slices_named]


def _slice(name: str, figures: SliceFigures | None, evidence: Evidence, gate: Gate) -> Check:
    """Block where the paired interval lies wholly below the allowed drop; small slices only report."""
    label = f"slice_{name}"
    if figures is None:
        return Check(name=label, outcome=Outcome.FAIL, detail=f"slice {name}: absent from the evidence")
    positives = f"slice {name}: {figures.positives} frauds"
    if figures.positives < gate.slice_positives_min:
        detail = f"{positives}, too few to decide (from {gate.slice_positives_min})"
        return Check(name=label, outcome=Outcome.PASS, detail=detail)
    if not evidence.has_champion:
        absent = known(figures.pr_auc) is None
        outcome = Outcome.FAIL if absent else Outcome.PASS
        detail = f"{positives}, no figure" if absent else f"{positives}, no champion to compare with"
        return Check(name=label, outcome=outcome, value=figures.pr_auc, detail=detail)
    high = known(figures.difference.high)
    if high is None or known(figures.difference.low) is None:
        return Check(name=label, outcome=Outcome.FAIL, detail=f"{positives}, no figure against the champion")
    worse = round(high, DIGITS) < -gate.slice_drop_max
    return Check(
        name=label,
        outcome=Outcome.FAIL if worse else Outcome.PASS,
        value=high,
        threshold=-gate.slice_drop_max,
        detail=f"{positives}, the interval of the difference ends at {high:+.4f}",
    )


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    evidence = folder.read_model("evaluation.json", Evidence)
    digest = file_digest(folder.existing("evaluation.json"))
    result = judge(evidence, policy_of(settings)).model_copy(update={"evidence_digest": digest})
    folder.write_facts("gate.json", result)
    return Receipt(
        job="gate_model",
        table="gate",
        partition=params.run,
        rows=len(result.checks),
        seconds=watch.seconds,
        facts={"gate": result.classification, "reasons": list(result.reasons)[:4]},
    )
