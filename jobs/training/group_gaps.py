"""The gate's checks of groups: may a gap between the bands of a group grow?

In: the evidence's shares of frauds and of good rows above the review threshold, by band. Out: two checks for
each group, of caught frauds (TPR) and of false alarms (FPR).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.conf.policy import Gate
from jobs.core import Check, Outcome
from jobs.training.evidence import DIGITS, Evidence, GroupFigures, known


def group_checks(evidence: Evidence, gate: Gate) -> list[Check]:
    """The checks of every group of the contract."""
    found = {figures.name: figures for figures in evidence.groups}
    return [
        check for name in evidence.groups_named for check in _group(name, found.get(name), evidence, gate)
    ]


def _group(name: str, figures: GroupFigures | None, evidence: Evidence, gate: Gate) -> list[Check]:
    """Block where a gap between the bands grows too much; bands too small for a rate only report it.

    Where it grows because some bands fare better and none worse, a person decides.
    Caught frauds are measured on frauds, false alarms on good rows: a band with few frauds counts for these.
    """
    bands = figures.bands if figures else ()
    sizes = {"tpr": [band.positives for band in bands], "fpr": [band.rows - band.positives for band in bands]}
    rates = {
        "tpr": [(band.true_positive_rate, band.champion_true_positive_rate) for band in bands],
        "fpr": [(band.false_positive_rate, band.champion_false_positive_rate) for band in bands],
    }
    checks = []
    for rate, rows in (("tpr", "frauds"), ("fpr", "good rows")):
        large = [size >= gate.slice_positives_min for size in sizes[rate]]
        few = [f"{band.name} {size}" for band, size in zip(bands, sizes[rate], strict=True)
               if size < gate.slice_positives_min]  # fmt: skip
        left_out = f" (too few {rows} to decide: {', '.join(few)})" if few else ""
        label, what = f"group_{name}_{rate}_gap", f"group {name}, {rate.upper()} gap{left_out}"
        pairs = [pair for pair, enough in zip(rates[rate], large, strict=True) if enough]
        if not bands:
            checks.append(Check(name=label, outcome=Outcome.FAIL, detail=f"{what}: absent from the evidence"))
        elif len(pairs) < 2:
            checks.append(Check(name=label, outcome=Outcome.PASS, detail=f"{what}: no two bands to compare"))
        else:
            checks.append(_group_gap(label, rate, pairs, what, evidence, gate))
    return checks


def _group_gap(
    name: str,
    rate: str,
    pairs: list[tuple[float | None, float | None]],
    what: str,
    evidence: Evidence,
    gate: Gate,
) -> Check:
    """One rate of the bands, as (challenger, champion)."""
    own, old = (_gap(values) for values in zip(*pairs, strict=True))
    if own is None or (old is None and evidence.has_champion):
        return Check(name=name, outcome=Outcome.FAIL, detail=f"{what}: no figure")
    if old is None:
        detail = f"{what}: {own:.4f}, no champion to compare with"
        return Check(name=name, outcome=Outcome.PASS, value=own, detail=detail)
    growth, limit = round(own - old, DIGITS), gate.group_gap_increase_max
    outcome, detail = Outcome.PASS, f"{what}: {own:.4f} against the champion's {old:.4f}"
    if growth > limit:
        outcome = Outcome.FAIL
        if not any(_worse(rate, *pair) for pair in pairs):
            outcome, detail = Outcome.INCONCLUSIVE, f"{detail}, and no band fares worse: a person decides"
    return Check(name=name, outcome=outcome, value=growth, threshold=limit, detail=detail)


def _worse(rate: str, own: float | None, old: float | None) -> bool:
    """Whether a band fares worse than under the champion: fewer frauds caught, or more false alarms."""
    if own is None or old is None:
        return True
    return round(own - old, DIGITS) < 0 if rate == "tpr" else round(own - old, DIGITS) > 0


def _gap(values: Sequence[float | None]) -> float | None:
    """The largest difference between two of the values; None where one is no figure."""
    figures = [figure for figure in map(known, values) if figure is not None]
    return max(figures) - min(figures) if len(figures) == len(values) else None
