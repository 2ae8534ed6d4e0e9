"""The published protocol: which rows a model is trained on, which it is judged on, and by what figures.

In: transactions with CUSTOMER_ID, TX_FRAUD and `day` (midnight, datetime64). Out: masks of rows, and figures.
A fold is named by the first day of its training: a week of training, a week in which labels become known, a
week of test. On test day d the cards with a fraud between the start of training and d - 8 are left out, since
they are known by then.
Source: Le Borgne, Siblini, Lebichot, Bontempi, Reproducible Machine Learning for Credit Card Fraud Detection,
2022, chapters 3 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from jobs.evaluation.metrics import Ranking, card_precision, interval, resamples

WEEK = timedelta(days=7)
DELAY_DAYS = 7
COMPROMISED_DAYS = 28  # of a terminal
OBVIOUS_AMOUNT = 220.0  # above it a transaction is a fraud whatever its terminal
CARDS = 100
SINGLE = date(2018, 7, 25)
TEST_FOLDS = (date(2018, 7, 25), date(2018, 8, 1), date(2018, 8, 8), date(2018, 8, 15))
VALIDATION_FOLDS = (date(2018, 6, 20), date(2018, 6, 27), date(2018, 7, 4), date(2018, 7, 11))


@dataclass(frozen=True)
class Figures:
    """What the book judges a model by."""

    auc: float
    average_precision: float
    card_precision: float

    @property
    def together(self) -> float:
        """One number to choose by."""
        return self.auc + self.average_precision + self.card_precision


def training_rows(rows: pd.DataFrame, fold: date, first: date | None = None) -> np.ndarray:
    """Mask of the fold's training week; from `first` on, where a longer history is to be trained on."""
    day = rows["day"]
    return np.asarray((day >= pd.Timestamp(first or fold)) & (day < pd.Timestamp(fold + WEEK)))


def judged_rows(rows: pd.DataFrame, fold: date) -> np.ndarray:
    """Mask of the fold's test week, without the cards that are known to be compromised."""
    day = rows["day"]
    begin = pd.Timestamp(fold + 2 * WEEK)
    since = rows[(rows["TX_FRAUD"] == 1) & (day >= pd.Timestamp(fold))]
    first_fraud = rows["CUSTOMER_ID"].map(since.groupby("CUSTOMER_ID")["day"].min())
    known = first_fraud <= day - timedelta(days=DELAY_DAYS + 1)
    return np.asarray((day >= begin) & (day < begin + WEEK) & ~known)


def figures(rows: pd.DataFrame, scores: np.ndarray) -> Figures:
    """The figures of the scores of test rows."""
    labels = rows["TX_FRAUD"].to_numpy()
    return Figures(
        float(roc_auc_score(labels, scores)),
        float(average_precision_score(labels, scores)),
        card_precision(scores, labels, rows["CUSTOMER_ID"].to_numpy(), rows["day"].to_numpy(), CARDS),
    )


def unknowable(rows: pd.DataFrame, known_after: int = DELAY_DAYS) -> np.ndarray:
    """Mask of frauds that nothing can tell before their label: the first ones of a compromised terminal.

    They look like any other transaction, and no fraud of the terminal is known by then: one becomes known
    `known_after` days later. Takes all transactions, with what no model may see (TX_FRAUD_SCENARIO).
    """
    compromised = (rows["TX_FRAUD_SCENARIO"] == 2).to_numpy()
    frauds = rows.loc[compromised, ["TERMINAL_ID", "day"]].drop_duplicates()
    known = {
        (terminal, day + timedelta(days=age))
        for terminal, day in zip(frauds["TERMINAL_ID"], frauds["day"], strict=True)
        for age in range(known_after, COMPROMISED_DAYS)
    }
    asked = zip(rows["TERMINAL_ID"], rows["day"], strict=True)
    told = np.fromiter((pair in known for pair in asked), bool, len(rows))
    return np.asarray(compromised & ~told & (rows["TX_AMOUNT"] <= OBVIOUS_AMOUNT))


def intervals(folds: Sequence[tuple[pd.DataFrame, np.ndarray]], samples: int, seed: int) -> list[Figures]:
    """Lower and upper end of 95 % of each figure's mean over folds, by resampling customers.

    A customer is drawn with all its transactions, in all folds at once.
    """
    customers = np.unique(np.concatenate([rows["CUSTOMER_ID"].to_numpy() for rows, _ in folds]))
    judged = [Resampled(rows, scores, customers) for rows, scores in folds]
    found = [
        mean([each.figures(drawn) for each in judged]) for drawn in resamples(len(customers), samples, seed)
    ]
    ends = zip(
        interval([each.auc for each in found]),
        interval([each.average_precision for each in found]),
        interval([each.card_precision for each in found]),
        strict=True,
    )
    return [Figures(*end) for end in ends]


class Resampled:
    """A fold's test rows, ready to be judged again and again."""

    def __init__(self, rows: pd.DataFrame, scores: np.ndarray, customers: np.ndarray) -> None:
        self.ranking = Ranking(scores, rows["TX_FRAUD"].to_numpy())
        self.customer = np.searchsorted(customers, rows["CUSTOMER_ID"].to_numpy())
        cards = pd.DataFrame({"card": self.customer, "day": rows["day"].to_numpy(), "score": scores,
                              "label": rows["TX_FRAUD"].to_numpy()})  # fmt: skip
        best = cards.groupby(["day", "card"], as_index=False).max().sort_values("score", ascending=False)
        self.days = [(day["card"].to_numpy(), day["label"].to_numpy()) for _, day in best.groupby("day")]

    def figures(self, drawn: np.ndarray) -> Figures:
        """`drawn`: how often each customer is."""
        weights = drawn[self.customer]
        return Figures(
            self.ranking.roc_auc(weights),
            self.ranking.average_precision(weights),
            self._card_precision(drawn),
        )

    def _card_precision(self, drawn: np.ndarray) -> float:
        left, shares = drawn.copy(), []
        for cards, labels in self.days:
            before = np.cumsum(left[cards]) - left[cards]
            looked_at = np.clip(CARDS - before, 0, left[cards])
            shares.append(float(looked_at @ labels) / CARDS)
            left[cards[(looked_at > 0) & (labels == 1)]] = 0
        return float(np.mean(shares))


def mean(found: Sequence[Figures]) -> Figures:
    """Mean of each figure over folds."""
    return Figures(
        float(np.mean([each.auc for each in found])),
        float(np.mean([each.average_precision for each in found])),
        float(np.mean([each.card_precision for each in found])),
    )
