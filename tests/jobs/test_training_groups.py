"""Groups of the test rows: which row is in which band, and the rates of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from sklearn.metrics import recall_score

from jobs.conf.contract import FOLDER, Group, load_contract
from jobs.evaluation.groups import bands_of, group_figures
from jobs.features.declarations import MODEL_FEATURES

ROWS = pd.DataFrame(
    {
        "is_fraud": [1, 1, 0, 0, 1, 0, 1, 0],
        "age": [17.0, 18.0, 18.0, 64.9, 65.0, 80.0, np.nan, np.nan],
    }
)
CHALLENGER = np.array([0.9, 0.5, 0.6, 0.1, 0.51, 0.2, 0.9, 0.9])
CHAMPION = np.array([0.1, 0.9, 0.1, 0.1, 0.4, 0.9, 0.1, 0.6])
AGE = {"age": Group(column="age", starts=(18, 65))}


def test_a_band_starts_at_its_own_value_and_rows_without_a_value_are_a_band() -> None:
    found = {name: np.flatnonzero(mask).tolist() for name, mask in bands_of(AGE["age"], ROWS["age"])}
    assert found == {"below_18": [0], "from_18": [1, 2, 3], "from_65": [4, 5], "no_value": [6, 7]}


def test_rates_of_a_band_by_hand() -> None:
    (figures,) = group_figures(AGE, ROWS, CHALLENGER, CHAMPION, threshold=0.5)
    middle = figures.bands[1]
    assert (middle.rows, middle.positives) == (3, 1)
    assert middle.true_positive_rate == 0.0, "0.5 is not above 0.5"
    assert middle.false_positive_rate == 0.5
    assert (middle.champion_true_positive_rate, middle.champion_false_positive_rate) == (1.0, 0.0)
    young = figures.bands[0]
    assert (young.true_positive_rate, young.false_positive_rate) == (1.0, None), "no good row is young"


def test_rates_are_those_of_sklearn() -> None:
    generator = np.random.default_rng(4)
    labels = (generator.random(4_000) < 0.3).astype(int)
    rows = pd.DataFrame({"is_fraud": labels, "age": generator.integers(0, 100, 4_000)})
    scores = np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    (figures,) = group_figures(AGE, rows, scores, None, threshold=0.5)
    assert sum(band.rows for band in figures.bands) == len(rows)
    for band, (name, mask) in zip(figures.bands, bands_of(AGE["age"], rows["age"]), strict=True):
        flagged = (scores[mask] > 0.5).astype(int)
        assert band.name == name
        assert band.true_positive_rate == pytest.approx(recall_score(labels[mask], flagged))
        specificity = recall_score(labels[mask], flagged, pos_label=0)
        assert band.false_positive_rate == pytest.approx(1 - specificity)
        assert band.champion_true_positive_rate is None


def test_a_group_whose_column_the_rows_do_not_have_is_absent() -> None:
    assert group_figures(AGE, ROWS.drop(columns="age"), CHALLENGER, None, threshold=0.5) == ()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_each_contract_names_groups_of_columns_that_the_training_frame_has(name: str) -> None:
    groups = load_contract(name).groups
    assert groups
    assert {group.column for group in groups.values()} <= {*MODEL_FEATURES, "amount_minor"}


@pytest.mark.parametrize("starts", [(), (2, 1), (1, 1)])
def test_the_bands_of_a_group_ascend(starts: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="starts"):
        Group(column="age", starts=starts)
