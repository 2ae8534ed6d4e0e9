"""Job evaluate_model: the evidence about a challenger, on test rows that nothing else has seen.

In: frame (its test rows), bundle, booster (for explanations); the champion's bundle from the registry where
    there is one, otherwise the rules alone and a logistic regression (median fill, scaled, balanced, of the
    fit rows).
Out: evaluation.json (jobs.training.evidence.Evidence), pictures/*.png, reference.parquet (at most
    REFERENCE_ROWS test rows with features, score, is_fraud, amount_minor, event_time).
Both models are scored on the same rows; differences come from a paired bootstrap (the same resamples), and
    of what the decisions save from paired days.
Latency is that of one score through the bundle, as serving calls it.
Errors: SluiceError where MLflow does not answer. A champion that cannot be rescored is no error here: the
    evidence says so and the gate closes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, days_between
from jobs.evaluation import metrics
from jobs.evaluation.decision_bands import decision_figures, savings
from jobs.evaluation.groups import group_figures
from jobs.evaluation.resampled import Scored, scored_models
from jobs.evaluation.slices import SLICES
from jobs.evaluation.stability import week_figures, week_masks
from jobs.promotion.state import registry_client, settled_champion
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import fetch_bundle
from jobs.serving.rules import RULE_FEATURES, RulesLayer
from jobs.training.behaviour import behaviour_figures, leak_figures
from jobs.training.boosting import BOOSTER_FILE, load_booster
from jobs.training.bundle_writer import bundle_digest
from jobs.training.evidence import (
    CostPoint,
    DecisionFigures,
    Difference,
    Evidence,
    Figures,
    SliceFigures,
    known,
)
from jobs.training.explain import Explained, explain_rows, highest_cases, summary
from jobs.training.frame import TEST, FrameFacts, fit_rows, matrix_of, role_rows
from jobs.training.pictures import Drawn, draw_pictures
from jobs.training.run_folder import RunFolder, TrainingParams

READS = ("training_frame", "bundle", "xgboost_model")
WRITES = ("evaluation",)

REFERENCE_ROWS = 20_000
LATENCY_CALLS = 1_000
BASELINE_SAMPLES = 100
CARD_BUDGET = 100  # cards that can be looked at in a day
COST_POINTS = 40  # of the cost curve that the evidence keeps; the picture has all


class Params(TrainingParams):
    """Which run."""


@dataclass
class Champion:
    """The champion's scores of the same rows, or why there are none."""

    version: str = ""
    digest: str = ""
    scores: np.ndarray | None = None
    problem: str = ""


def rescore_champion(settings: Settings, rows: pd.DataFrame) -> Champion:
    """The champion that serving accepts on these rows; an empty version where there has never been one.

    Raises:
        SluiceError: it cannot be told, because somebody moved the alias by hand.
    """
    version, unclear = settled_champion(registry_client(settings), settings.model_name)
    if unclear:
        raise SluiceError(f"evaluate_model: {unclear}")
    if not version:
        return Champion()
    try:
        folder = fetch_bundle(settings, version)
        bundle = ModelBundle.load(folder, policy_of(settings).decisions)
        absent = [name for name in bundle.features if name not in rows.columns]
        if absent:
            return Champion(version, problem=f"its feature {absent[0]} is not built any more")
        scores = bundle.score(matrix_of(rows, bundle.features))
        return Champion(version, bundle_digest(folder), scores)
    except SluiceError as error:
        return Champion(version, problem=str(error))


def rules_scores(rows: pd.DataFrame, policy: Policy) -> np.ndarray:
    """1 where a rule fires, else 0."""
    rules = RulesLayer(policy.rules, RULE_FEATURES)
    keys = zip(rows["customer_id"], rows["terminal_id"], rows["amount_minor"], strict=True)
    known = rows.reindex(columns=list(RULE_FEATURES)).to_numpy(dtype=float).tolist()
    return np.array(
        [
            rules.apply(int(c), int(t), int(a), values) is not None
            for (c, t, a), values in zip(keys, known, strict=True)
        ],
        dtype=float,
    )


def logistic_scores(fit: pd.DataFrame, rows: pd.DataFrame, features: tuple[str, ...]) -> np.ndarray:
    """A logistic regression fitted on true labels: a drill spoils the challenger, never its yardstick."""
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=200),
    )
    weights = fit["weight"].to_numpy()
    model.fit(matrix_of(fit, features), fit["is_fraud"].to_numpy(), logisticregression__sample_weight=weights)
    return np.asarray(model.predict_proba(matrix_of(rows, features))[:, 1])


def slice_masks(rows: pd.DataFrame, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Rows of each slice that the contract names.

    A name without a definition gets no entry: it is absent from the evidence, and the gate closes.
    """
    return {name: SLICES[name](rows).to_numpy(dtype=bool) for name in names if name in SLICES}


def figures_of(model: Scored, rows: pd.DataFrame, policy: Policy) -> Figures:
    """All figures of one model."""
    labels, scores = rows["is_fraud"].to_numpy(), model.scores
    pr_low, pr_high = metrics.interval(model.pr_auc)
    roc_low, roc_high = metrics.interval(model.roc_auc)
    rate = policy.performance.false_positive_rate
    cards = metrics.card_precision(
        scores, labels, rows["customer_id"].to_numpy(), rows["day"].to_numpy(), CARD_BUDGET
    )
    return Figures(
        name=model.name,
        pr_auc=known(model.ranking.average_precision()),
        pr_auc_low=known(pr_low),
        pr_auc_high=known(pr_high),
        roc_auc=known(model.ranking.roc_auc()),
        roc_auc_low=known(roc_low),
        roc_auc_high=known(roc_high),
        ece=known(metrics.expected_calibration_error(scores, labels)),
        brier=known(metrics.brier(scores, labels)),
        recall_at_fpr=known(metrics.recall_at_fpr(scores, labels, rate)),
        card_precision=known(cards),
    )


def paired(challenger: list[float], champion: list[float], value: float) -> Difference:
    """Difference with the interval of its resamples."""
    low, high = metrics.interval(np.asarray(challenger) - np.asarray(champion))
    return Difference(value=known(value), low=known(low), high=known(high))


def slice_figures(
    name: str, mask: np.ndarray, labels: np.ndarray, challenger: Scored, champion: Scored | None
) -> SliceFigures:
    """One slice of the challenger, beside the champion's where there is one."""

    def area(model: Scored) -> float:
        if not mask.any():
            return float("nan")
        return metrics.Ranking(model.scores[mask], labels[mask]).average_precision()

    own = area(challenger)
    low, high = metrics.interval(challenger.slices.get(name, []))
    difference, other = Difference(), None
    if champion is not None and name in challenger.slices:
        other = area(champion)
        difference = paired(challenger.slices[name], champion.slices[name], own - other)
    return SliceFigures(
        name=name,
        rows=int(mask.sum()),
        positives=int(labels[mask].sum()),
        pr_auc=known(own),
        pr_auc_low=known(low),
        pr_auc_high=known(high),
        champion_pr_auc=None if other is None else known(other),
        difference=difference,
    )


def latency_ms(bundle: ModelBundle, matrix: np.ndarray, calls: int = LATENCY_CALLS) -> tuple[float, float]:
    """p50 and p99 of the processor time of one score: it has one thread, and waits for nothing.

    What else runs on the machine that trains must not decide whether a version may serve.
    """
    single = matrix[:calls].tolist()
    for row in single[:50]:
        bundle.score_one(row)
    times = []
    for row in single:
        start = time.thread_time()
        bundle.score_one(row)
        times.append(time.thread_time() - start)
    p50, p99 = np.quantile(np.asarray(times) * 1000, [0.5, 0.99])
    return float(p50), float(p99)


def reference_rows(rows: pd.DataFrame, scores: np.ndarray, features: tuple[str, ...]) -> pd.DataFrame:
    """An even sample of the test rows, kept with the version for monitoring and the promotion's check."""
    columns = [*features, "score", "is_fraud", "amount_minor", "event_time"]
    reference = rows.assign(score=scores)[columns]
    if len(reference) <= REFERENCE_ROWS:
        return reference
    chosen = np.linspace(0, len(reference) - 1, REFERENCE_ROWS).astype(int)
    return reference.iloc[chosen]


def baseline_figures(
    frame: pd.DataFrame, rows: pd.DataFrame, features: tuple[str, ...], policy: Policy
) -> tuple[Figures, ...]:
    """What a first version has to beat."""
    labels = rows["is_fraud"].to_numpy()
    scores = {
        "rules": rules_scores(rows, policy),
        "logistic_regression": logistic_scores(fit_rows(frame), rows, features),
    }
    found = scored_models(scores, labels, {}, BASELINE_SAMPLES)
    return tuple(figures_of(model, rows, policy) for model in found.values())


def cost_of(scores: np.ndarray, rows: pd.DataFrame, settings: Settings) -> metrics.CostCurve | None:
    """What each threshold costs on these rows."""
    amounts = rows["amount_minor"].to_numpy(dtype=np.float64)
    return metrics.cost_curve(scores, rows["is_fraud"].to_numpy(), amounts, contract_of(settings).costs)


def cost_points(curve: metrics.CostCurve | None) -> tuple[CostPoint, ...]:
    """Some points of the curve, closer together where few rows are stopped."""
    if curve is None:
        return ()
    places = np.unique(np.geomspace(1, len(curve.threshold), COST_POINTS).astype(int)) - 1
    return tuple(CostPoint(**curve.point(int(place))) for place in places)


def money(curve: metrics.CostCurve | None, rows: pd.DataFrame, settings: Settings) -> dict[str, float]:
    """The operating point, beside what it costs to stop nothing."""
    frauds = rows.loc[rows["is_fraud"] == 1, "amount_minor"].sum()
    nothing = {"nothing_stopped_cost_minor": float(contract_of(settings).costs.missed_fraud_share * frauds)}
    return metrics.operating_points(curve, policy_of(settings).operating_point) | nothing


def gather(
    facts: FrameFacts, frame: pd.DataFrame, bundle: ModelBundle, found: Champion, settings: Settings
) -> tuple[Evidence, np.ndarray]:
    """All evidence from scores alone, and the challenger's scores of the test rows."""
    policy, contract = policy_of(settings), contract_of(settings)
    rows = role_rows(frame, TEST).reset_index(drop=True)
    labels = rows["is_fraud"].to_numpy()
    matrix = matrix_of(rows, bundle.features)
    amounts = rows["amount_minor"].to_numpy()
    slices = slice_masks(rows, contract.slices)
    weeks = week_masks(rows["day"], facts.split.test_first, facts.split.test_last)
    masks = slices | weeks
    scores = {"challenger": bundle.score(matrix)}
    if found.scores is not None:
        scores["champion"] = found.scores
    models = scored_models(scores, labels, masks, policy.gate.bootstrap_samples)
    challenger, champion = models["challenger"], models.get("champion")
    curve = cost_of(challenger.scores, rows, settings)
    difference = Difference()
    champion_decisions: tuple[DecisionFigures, ...] = ()
    if champion is not None:
        champion_decisions = decision_figures(champion.scores, labels, amounts, policy.decisions)
        value = challenger.ranking.average_precision() - champion.ranking.average_precision()
        difference = paired(challenger.pr_auc, champion.pr_auc, value)
    p50, p99 = latency_ms(bundle, matrix)
    evidence = Evidence(
        run=facts.run,
        day=facts.day,
        test_first=facts.split.test_first,
        test_last=facts.split.test_last,
        rows=len(rows),
        positives=int(labels.sum()),
        bundle_digest=bundle_digest(bundle.folder),
        challenger=figures_of(challenger, rows, policy),
        champion=figures_of(champion, rows, policy) if champion else None,
        champion_version=found.version,
        champion_digest=found.digest,
        champion_problem=found.problem,
        difference=difference,
        baselines=() if found.version else baseline_figures(frame, rows, facts.features, policy),
        groups_named=tuple(contract.groups),
        groups=group_figures(
            contract.groups, rows, challenger.scores, found.scores, policy.decisions.review_above
        ),
        slices_named=contract.slices,
        slices=tuple(
            slice_figures(name, mask, labels, challenger, champion) for name, mask in slices.items()
        ),
        latency_p50_ms=p50,
        latency_p99_ms=p99,
        operating_point=money(curve, rows, settings),
        cost_curve=cost_points(curve),
        decisions=decision_figures(challenger.scores, labels, amounts, policy.decisions),
        champion_decisions=champion_decisions,
        saved=savings(
            challenger.scores,
            found.scores,
            rows,
            days_between(facts.split.test_first, facts.split.test_last),
            policy.decisions,
            contract.costs,
        ),
        weeks=week_figures(weeks, challenger.scores, labels, challenger.slices, facts.split.test_last),
    )
    return evidence, challenger.scores


def with_reasons(
    evidence: Evidence,
    facts: FrameFacts,
    frame: pd.DataFrame,
    rows: pd.DataFrame,
    bundle: ModelBundle,
    scores: np.ndarray,
    folder: RunFolder,
) -> tuple[Evidence, Explained]:
    """The evidence with what the model looks at and how it behaves."""
    booster = load_booster(folder.existing(BOOSTER_FILE))
    explained = explain_rows(booster, rows, facts.features)
    more = {
        "importance": folder.read_facts("xgboost/facts.json")["importance"],
        "contributions": summary(explained),
        "cases": highest_cases(booster, rows, scores, facts.features),
        "behaviour": behaviour_figures(bundle.score, rows, bundle.features),
        "leak_checks": leak_figures(frame, facts.features, facts.leaks, facts.seed),
    }
    return evidence.model_copy(update=more), explained


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    frame = folder.read_frame("frame.parquet")
    bundle = ModelBundle.load(folder.existing("bundle"), policy_of(settings).decisions)
    rows = role_rows(frame, TEST).reset_index(drop=True)
    found = rescore_champion(settings, rows)
    evidence, scores = gather(facts, frame, bundle, found, settings)
    evidence, explained = with_reasons(evidence, facts, frame, rows, bundle, scores, folder)
    folder.write_facts("evaluation.json", evidence)
    folder.write_frame("reference.parquet", reference_rows(rows, scores, facts.features))
    models = {"challenger": scores} | ({} if found.scores is None else {"champion": found.scores})
    drawn = Drawn(rows["is_fraud"].to_numpy(), models, cost_of(scores, rows, settings), explained)
    draw_pictures(folder.path / "pictures", evidence, drawn)
    champion = evidence.champion
    return Receipt(
        job="evaluate_model",
        table="evaluation",
        partition=params.run,
        rows=len(rows),
        seconds=watch.seconds,
        facts={
            "pr_auc": evidence.challenger.pr_auc,
            "ece": evidence.challenger.ece,
            "champion_version": found.version,
            "champion_pr_auc": champion.pr_auc if champion else None,
            "latency_p99_ms": evidence.latency_p99_ms,
        },
    )
