"""Pictures of an evaluation: precision-recall curve, reliability, score histogram, feature importance.

In: labels and scores of the test rows. Out: PNG files of 6 x 4 inches in a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from jobs.training.evidence import Evidence
from jobs.training.run_folder import replacing

BINS = 10


def draw_pictures(
    folder: Path,
    evidence: Evidence,
    labels: np.ndarray,
    scores: np.ndarray,
    others: Mapping[str, np.ndarray],
) -> list[Path]:
    """Draw all four; gives their paths."""
    models = {"challenger": scores, **others}
    figures = {
        "pr_curve": _precision_recall(models, labels),
        "reliability": _reliability(models, labels),
        "score_histogram": _histogram(scores, labels),
        "feature_importance": _importance(evidence.importance),
    }
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=90)
        paths.append(path)
    return paths


def _axes(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _precision_recall(models: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    figure, axes = _axes("Precision and recall on the test rows", "recall", "precision")
    for name, scores in models.items():
        precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
        axes.step(recall, precision, where="post", label=name)
    axes.axhline(float(np.mean(labels)), color="grey", linestyle=":", label="share of frauds")
    axes.legend()
    return figure


def _reliability(models: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    figure, axes = _axes("Reliability on the test rows", "mean score", "share of frauds")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, scores in models.items():
        which = np.minimum((scores * BINS).astype(int), BINS - 1)
        rows = np.bincount(which, minlength=BINS)
        used = rows > 0
        mean = np.bincount(which, weights=scores, minlength=BINS)[used] / rows[used]
        share = np.bincount(which, weights=labels, minlength=BINS)[used] / rows[used]
        axes.plot(mean, share, marker="o", label=name)
    axes.legend()
    return figure


def _histogram(scores: np.ndarray, labels: np.ndarray) -> Figure:
    figure, axes = _axes("Scores of the test rows", "calibrated score", "rows")
    edges = np.linspace(0, 1, 41).tolist()
    axes.hist(scores[labels == 0], bins=edges, alpha=0.6, label="good")
    axes.hist(scores[labels == 1], bins=edges, alpha=0.6, label="fraud")
    axes.set_yscale("log")
    axes.legend()
    return figure


def _importance(importance: Mapping[str, float]) -> Figure:
    figure, axes = _axes("Feature importance (share of gain)", "share", "")
    ranked = sorted(importance.items(), key=lambda item: item[1])
    axes.barh([name for name, _ in ranked], [share for _, share in ranked])
    axes.tick_params(axis="y", labelsize=7)
    return figure
