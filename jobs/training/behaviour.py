"""Behavioural tests of a model (Ribeiro et al. 2020): invariance, direction, and checks of the leak checks.

In: test rows and the function that scores a matrix; for the leak checks the training frame.
Out: figures. Absent, they close the gate; what they say is for people and decides nothing: a share of rows
that moves the wrong way is a property of the model that people must see, the mean going the wrong way is a
reason to look at its data.
Invariance: the scores must not follow what a model may not use (identifiers, day, role, label), the order
    of the rows, or how many are scored at once.
Direction: a terminal as risky as the riskiest of the rows, and an amount five times as large (with all that
    is computed from it), must not lower the mean score.
Leak checks: boosters fitted on permuted labels rank by chance; a planted copy of the label is found, also
    where most rows do not have it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from jobs.evaluation import metrics
from jobs.features.declarations import FEATURES
from jobs.features.request import assemble_frame
from jobs.training.boosting import boost, probabilities, training_matrix
from jobs.training.evidence import BehaviourFigures, LeakFigures, known
from jobs.training.explain import even_sample
from jobs.training.frame import (
    TEST,
    TUNING,
    VALIDATION,
    leak_verdict,
    matrix_of,
    role_rows,
    single_feature_auc,
)

Score = Callable[[np.ndarray], np.ndarray]

TOLERANCE = 1e-6  # the engine may add up in another order
SINGLE_ROWS = 200
AMOUNT_FACTOR = 5
PERMUTATIONS = 12
SHUFFLED_ROWS = 10_000
SMALL_BOOSTER = {"max_depth": 3, "eta": 0.3}
SMALL_ROUNDS = 6
GAP_SHARE = 0.8  # of the rows are without the second planted leak
FORBIDDEN = ("transaction_id", "customer_id", "terminal_id", "is_fraud", "training_label", "day", "role")
RISK = tuple(feature.name for feature in FEATURES if feature.measure == "risk")


def behaviour_figures(
    score: Score, rows: pd.DataFrame, features: tuple[str, ...]
) -> tuple[BehaviourFigures, ...]:
    """All behavioural tests on a sample of the rows."""
    sample = even_sample(rows).reset_index(drop=True)
    return (*invariance_figures(score, sample, features), *direction_figures(score, sample, features))


def invariance_figures(
    score: Score, rows: pd.DataFrame, features: tuple[str, ...]
) -> tuple[BehaviourFigures, ...]:
    """Changes that no score may follow."""
    matrix = matrix_of(rows, features)
    base = score(matrix)
    order = np.random.default_rng(0).permutation(len(rows))
    alone = np.concatenate([score(matrix[[place]]) for place in range(min(SINGLE_ROWS, len(rows)))])
    swapped = rows.assign(**{name: rows[name].to_numpy()[order] for name in FORBIDDEN if name in rows})
    return (
        _invariance("identifiers_and_labels_exchanged", base, score(matrix_of(swapped, features))),
        _invariance("row_order", base[order], score(matrix[order])),
        _invariance("one_row_at_a_time", base[: len(alone)], alone),
    )


def _invariance(name: str, before: np.ndarray, after: np.ndarray) -> BehaviourFigures:
    change = np.abs(after - before)
    return BehaviourFigures(
        name=name,
        expected="no score changes",
        rows=len(change),
        change=known(float(change.max())),
        share_wrong=known(float(np.mean(change > TOLERANCE))),
        held=bool(change.max() <= TOLERANCE),
    )


def direction_figures(
    score: Score, rows: pd.DataFrame, features: tuple[str, ...]
) -> tuple[BehaviourFigures, ...]:
    """Changes that must not lower the mean score."""
    riskier = rows.assign(**{name: rows[name].clip(lower=rows[name].max()) for name in RISK if name in rows})
    # both sides are assembled here, so that they differ in the amount alone
    usual, larger = (
        assemble_frame(rows.assign(amount_minor=rows["amount_minor"] * factor))
        for factor in (1, AMOUNT_FACTOR)
    )
    return (
        _direction("riskiest_terminal", score, rows, riskier, features),
        _direction(f"amount_times_{AMOUNT_FACTOR}", score, usual, larger, features),
    )


def _direction(
    name: str, score: Score, before: pd.DataFrame, after: pd.DataFrame, features: tuple[str, ...]
) -> BehaviourFigures:
    base, raised = matrix_of(before, features), matrix_of(after, features)
    changed = ~((base == raised) | (np.isnan(base) & np.isnan(raised))).all(axis=1)
    moved = score(raised[changed]) - score(base[changed])
    mean = float(moved.mean()) if changed.any() else float("nan")
    return BehaviourFigures(
        name=name,
        expected="the mean score does not fall",
        rows=int(changed.sum()),
        change=known(mean),
        share_wrong=known(float(np.mean(moved < -TOLERANCE))) if changed.any() else None,
        held=bool(mean >= -TOLERANCE),
    )


def leak_figures(
    frame: pd.DataFrame, features: tuple[str, ...], areas: dict[str, float], seed: int
) -> tuple[LeakFigures, ...]:
    """Checks of the leak checks; `areas` is what the frame's check found of the real features."""
    return (shuffled_labels(frame, features, seed), *planted_leaks(role_rows(frame, TEST), areas, seed))


def shuffled_labels(frame: pd.DataFrame, features: tuple[str, ...], seed: int) -> LeakFigures:
    """PR-AUC on the validation rows of small boosters fitted on permuted labels of the tuning rows.

    The interval is that of the permutations: it must hold the validation rows' share of frauds.
    """
    generator = np.random.default_rng(seed)
    fit, held = even_sample(role_rows(frame, TUNING), SHUFFLED_ROWS), role_rows(frame, VALIDATION)
    labels, truth = fit["is_fraud"].to_numpy(), held["is_fraud"].to_numpy()
    held_matrix = matrix_of(held, features)
    data = training_matrix(matrix_of(fit, features), labels, threads=1)  # too small to share out
    figures = []
    for turn in range(PERMUTATIONS):
        data.set_label(generator.permutation(labels))
        booster = boost(data, labels, SMALL_BOOSTER, SMALL_ROUNDS, seed=seed + turn, threads=1)
        scores = probabilities(booster, held_matrix)
        figures.append(metrics.Ranking(scores, truth).average_precision())
    low, high = metrics.interval(figures)
    chance = float(truth.mean())
    return LeakFigures(
        name="labels_shuffled",
        expected="PR-AUC is chance: the share of frauds lies in the interval of the permutations",
        value=known(float(np.mean(figures))),
        low=known(low),
        high=known(high),
        chance=known(chance),
        held=bool(low <= chance <= high),
    )


def planted_leaks(rows: pd.DataFrame, areas: dict[str, float], seed: int) -> tuple[LeakFigures, ...]:
    """The single-feature check, given what it found of the real features and planted copies of the label."""
    gaps = np.random.default_rng(seed).random(len(rows)) < GAP_SHARE
    label = rows["is_fraud"].astype(np.float64)
    planted = {"planted": label, "planted_with_gaps": label.mask(gaps)}
    result = []
    for name, values in planted.items():
        found = single_feature_auc(rows.assign(**{name: values}), (name,))
        verdict = leak_verdict(areas | found)
        failed = {check.name for check in verdict.checks if check.outcome != "pass"}
        result.append(
            LeakFigures(
                name=name,
                expected="found, and nothing else is",
                value=found[name],
                chance=0.5,
                held=failed == {f"leak_{name}"},
            )
        )
    return tuple(result)
