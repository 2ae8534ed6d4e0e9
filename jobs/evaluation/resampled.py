"""Models on the same resamples of the same rows, so that their differences are paired.

In: scores of models, labels 0/1, rows of slices. Out: for each model its figures of every resample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from jobs.evaluation.metrics import Ranking, resamples

BOOTSTRAP_SEED = 20_260


@dataclass
class Scored:
    """A model's scores of the rows, and how its figures vary over the resamples."""

    name: str
    scores: np.ndarray
    ranking: Ranking
    pr_auc: list[float] = field(default_factory=list)
    roc_auc: list[float] = field(default_factory=list)
    slices: dict[str, list[float]] = field(default_factory=dict)  # PR-AUC of each


def scored_models(
    scores: Mapping[str, np.ndarray], labels: np.ndarray, masks: Mapping[str, np.ndarray], samples: int
) -> dict[str, Scored]:
    """Bootstrap models by name; a slice without a row has no figures.

    Args:
        masks: [rows] of each slice.
    """
    places = {key: np.flatnonzero(mask) for key, mask in masks.items() if mask.any()}
    models = {
        name: Scored(name, each, Ranking(each, labels), slices={key: [] for key in places})
        for name, each in scores.items()
    }
    parts = {
        name: {key: Ranking(each[rows], labels[rows]) for key, rows in places.items()}
        for name, each in scores.items()
    }
    for weights in resamples(len(labels), samples, BOOTSTRAP_SEED):
        drawn = {key: weights[rows] for key, rows in places.items()}
        for name, model in models.items():
            model.pr_auc.append(model.ranking.average_precision(weights))
            model.roc_auc.append(model.ranking.roc_auc(weights))
            for key, part in parts[name].items():
                model.slices[key].append(part.average_precision(drawn[key]))
    return models
