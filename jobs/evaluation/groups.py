"""Groups of the labelled rows that a model must treat alike, by the bands that a contract names.

In: test rows, 0/1 labels, scores of challenger and champion, the contract's groups. Out: the share of frauds
and of good rows above the threshold in each band (jobs.training.evidence.GroupFigures), None where a band
has no such row. Rows without a value are a band of their own. A group whose column the rows do not have is
left out, which closes the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from jobs.conf.contract import Group
from jobs.training.evidence import BandFigures, GroupFigures, known


def plain_number(value: float) -> str:
    """A number as a name may hold it: without an exponent, and another for each value."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def bands_of(group: Group, values: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Each band of the group that has rows, and which rows these are."""
    given = values.to_numpy(dtype=np.float64)
    which = np.searchsorted(np.asarray(group.starts), given, side="right")
    first, *rest = map(plain_number, group.starts)
    names = [f"below_{first}", *(f"from_{start}" for start in (first, *rest))]
    for index, name in enumerate(names):
        mask = (which == index) & ~np.isnan(given)
        if mask.any():
            yield name, mask
    if np.isnan(given).any():
        yield "no_value", np.isnan(given)


def rates(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float | None, float | None]:
    """Share of the frauds and share of the good rows above the threshold."""
    flagged = scores > threshold

    def share(chosen: np.ndarray) -> float | None:
        return known(float(flagged[chosen].mean())) if chosen.any() else None

    return share(labels == 1), share(labels == 0)


def band_figures(
    name: str, labels: np.ndarray, scores: np.ndarray, champion: np.ndarray | None, threshold: float
) -> BandFigures:
    """One band: the challenger's rates, beside the champion's where there is one."""
    caught, stopped = rates(scores, labels, threshold)
    old = (None, None) if champion is None else rates(champion, labels, threshold)
    return BandFigures(
        name=name,
        rows=len(labels),
        positives=int(labels.sum()),
        true_positive_rate=caught,
        false_positive_rate=stopped,
        champion_true_positive_rate=old[0],
        champion_false_positive_rate=old[1],
    )


def group_figures(
    groups: Mapping[str, Group],
    rows: pd.DataFrame,
    scores: np.ndarray,
    champion: np.ndarray | None,
    threshold: float,
) -> tuple[GroupFigures, ...]:
    """All groups of the contract whose column the rows have."""
    labels = rows["is_fraud"].to_numpy()
    return tuple(
        GroupFigures(
            name=name,
            bands=tuple(
                band_figures(
                    band, labels[mask], scores[mask], None if champion is None else champion[mask], threshold
                )
                for band, mask in bands_of(group, rows[group.column])
            ),
        )
        for name, group in groups.items()
        if group.column in rows.columns
    )
