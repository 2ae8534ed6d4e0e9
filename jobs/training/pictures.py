"""Pictures of an evaluation, as PNG files in a folder.

In: the evidence, and what it does not keep row by row (labels, scores, the whole cost curve, contributions).
Out: a PNG per entry of PICTURES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from jobs.evaluation.metrics import CostCurve
from jobs.files import replacing
from jobs.training.evidence import Contribution, Evidence
from jobs.training.explain import Explained

BINS = 10
MOST_FEATURES = 20  # more names cannot be read
MINOR_UNITS = 100

# file -> what it shows
PICTURES = {
    "pr_curve": "Precision and recall",
    "roc_curve": "Frauds caught against false alarms",
    "cost_curve": "Cost of each threshold",
    "reliability": "Reliability of the calibrated score",
    "score_histogram": "Scores of frauds and good rows",
    "slices": "PR-AUC of each slice, with 95 % intervals",
    "weeks": "PR-AUC of each week, with 95 % intervals",
    "feature_importance": "Feature importance (share of gain)",
    "contributions": "Contributions to the margin (SHAP)",
}


@dataclass
class Drawn:
    """What the pictures show beside the evidence; `models` are scores by name, the challenger first."""

    labels: np.ndarray
    models: Mapping[str, np.ndarray]
    cost: CostCurve | None
    explained: Explained


def draw_pictures(folder: Path, evidence: Evidence, drawn: Drawn) -> list[Path]:
    """Draw them all; gives their paths."""
    figures = {
        "pr_curve": _precision_recall(drawn.models, drawn.labels),
        "roc_curve": _roc(drawn.models, drawn.labels),
        "cost_curve": _cost(drawn.cost, evidence.operating_point),
        "reliability": _reliability(drawn.models, drawn.labels),
        "score_histogram": _histogram(next(iter(drawn.models.values())), drawn.labels),
        "slices": _intervals(
            [(each.name, each.pr_auc, each.pr_auc_low, each.pr_auc_high) for each in evidence.slices],
            PICTURES["slices"],
        ),
        "weeks": _intervals(
            [(str(each.first), each.pr_auc, each.pr_auc_low, each.pr_auc_high) for each in evidence.weeks],
            PICTURES["weeks"],
        ),
        "feature_importance": _importance(evidence.importance),
        "contributions": _contributions(drawn.explained, evidence.contributions),
    }
    paths = []
    for name in PICTURES:
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            figures[name].savefig(temporary, format="png", dpi=90)
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


def _roc(models: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
    figure, axes = _axes("Frauds caught against false alarms", "false positive rate", "frauds caught")
    for name, scores in models.items():
        false_rate, true_rate, _ = roc_curve(labels, scores)
        axes.plot(false_rate, true_rate, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.legend()
    return figure


def _cost(curve: CostCurve | None, point: Mapping[str, float]) -> Figure:
    figure, axes = _axes("Cost of each threshold on the test rows", "threshold", "cost, major units")
    if curve is None:
        return figure
    nothing = point["nothing_stopped_cost_minor"] / MINOR_UNITS
    axes.step(curve.threshold, curve.cost_minor / MINOR_UNITS, where="pre")
    axes.axhline(nothing, color="grey", linestyle=":", label="nothing stopped")
    for name, marker in (("cheapest", "v"), ("chosen", "o")):
        cost = point[f"{name}_cost_minor"] / MINOR_UNITS
        axes.plot([point[f"{name}_threshold"]], [cost], marker=marker, linestyle="", label=name)
    highest = max(nothing, point["chosen_cost_minor"] / MINOR_UNITS)
    axes.set(xlim=(0, 1), ylim=(0, 1.5 * highest or 1.0))  # to stop everything is off the picture
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


def _intervals(parts: Sequence[tuple[str, float | None, float | None, float | None]], title: str) -> Figure:
    """One line per part: the figure and its interval, where there are any."""
    figure, axes = _axes(title, "PR-AUC", "")
    for place, (_, value, low, high) in enumerate(parts):
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color="tab:blue")
        if value is not None:
            axes.plot([value], [place], marker="o", color="tab:blue")
    axes.set_yticks(range(len(parts)), [name for name, *_ in parts])
    axes.set(xlim=(0, 1), ylim=(len(parts) - 0.5, -0.5))
    return figure


def _importance(importance: Mapping[str, float]) -> Figure:
    figure, axes = _axes("Feature importance (share of gain)", "share", "")
    ranked = sorted(importance.items(), key=lambda item: item[1])[-MOST_FEATURES:]
    axes.barh([name for name, _ in ranked], [share for _, share in ranked])
    axes.tick_params(axis="y", labelsize=7)
    return figure


def _contributions(explained: Explained, ranked: Sequence[Contribution]) -> Figure:
    """One dot per row and feature, coloured by the rank of the value; grey where it is missing."""
    figure, axes = _axes(PICTURES["contributions"], "log-odds (low values blue, high values red)", "")
    shown = [each.feature for each in ranked[:MOST_FEATURES]]
    generator = np.random.default_rng(0)
    for place, name in enumerate(shown):
        column = explained.features.index(name)
        values, moved = explained.values[:, column], explained.contributions[:, column]
        height = place + generator.uniform(-0.35, 0.35, len(moved))
        there = ~np.isnan(values)
        ranks = np.searchsorted(np.sort(values[there]), values[there], side="right") / max(there.sum(), 1)
        axes.scatter(moved[~there], height[~there], s=2, color="lightgrey")
        axes.scatter(moved[there], height[there], s=2, c=ranks, cmap="coolwarm", vmin=0, vmax=1)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", labelsize=7)
    return figure
