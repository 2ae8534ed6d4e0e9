"""The models of the handbook's benchmark: the book's, as the book made them, and our own choices.

In: matrices of features and labels 0/1. Out: the scores of the rows that are held out.
The book's XGBoost was of version 1.5: `base_score` and `tree_method` are pinned to its defaults, the others
have not changed (100 trees of depth 6, learning rate 0.3). All models of the book scale by the training rows.
Ours are several boosters, each on all frauds and on its own sample of the good rows, whose probabilities are
averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from jobs.training.boosting import BINS, FIXED, probabilities

LOGISTIC, STUMP, TREE = "logistic regression", "decision tree, depth 2", "decision tree, unlimited"
FOREST, XGBOOST = "random forest", "XGBoost"
XGBOOST_TUNED, DEEP_FOREST = "XGBoost tuned", "random forest, depth 20"


@dataclass(frozen=True, eq=False)
class Choice:
    """A way to fit our own model."""

    name: str
    whole_history: bool = True  # all days with full windows; else the protocol's seven
    kept: float = 0.3  # share of the good rows that a booster sees
    seeds: tuple[int, ...] = (0, 1)
    rounds: int = 100
    bins: int = BINS
    parameters: dict[str, float] = field(
        default_factory=lambda: {
            "max_depth": 5, "eta": 0.1, "min_child_weight": 10.0, "subsample": 0.8, "colsample_bytree": 0.7,
        }
    )  # fmt: skip


def published_model(name: str) -> Pipeline:
    """A model of the book.

    XGBOOST_TUNED is the best of the book's grid on the validation folds (docs/handbook.md).
    """
    booster = {"random_state": 0, "n_jobs": 2, "base_score": 0.5, "tree_method": "exact"}
    model = {
        LOGISTIC: LogisticRegression(random_state=0),
        STUMP: DecisionTreeClassifier(max_depth=2, random_state=0),
        TREE: DecisionTreeClassifier(random_state=0),
        FOREST: RandomForestClassifier(random_state=0, n_jobs=2),
        XGBOOST: XGBClassifier(**booster),
        XGBOOST_TUNED: XGBClassifier(n_estimators=50, max_depth=3, learning_rate=0.3, **booster),
        DEEP_FOREST: RandomForestClassifier(n_estimators=100, max_depth=20, random_state=0, n_jobs=2),
    }[name]
    return make_pipeline(StandardScaler(), model)


def published_scores(name: str, matrix: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Probabilities of the held-out rows by a model of the book."""
    found: np.ndarray = published_model(name).fit(matrix, labels).predict_proba(held)[:, 1]
    return found


def own_scores(choice: Choice, matrix: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Mean probability of the held-out rows by our own boosters."""
    total = np.zeros(len(held))
    for seed in choice.seeds:
        used = (labels == 1) | (np.random.default_rng(seed).random(len(labels)) < choice.kept)
        data = xgboost.QuantileDMatrix(matrix[used], labels[used], nthread=1, max_bin=choice.bins)
        parameters = FIXED | choice.parameters | {"max_bin": choice.bins, "seed": seed, "nthread": 1}
        total += probabilities(xgboost.train(parameters, data, choice.rounds), held)
    return total / len(choice.seeds)
