"""The sequence model: its attention, its padding, its graph, and a fit that is interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional

from jobs.core import SluiceError
from jobs.features.declarations import MODEL_FEATURES, SEQUENCE_AMOUNTS, SEQUENCE_LENGTH, SEQUENCE_SECONDS
from jobs.training import network_fit, onnx_files
from jobs.training.network_fit import fit_network
from jobs.training.sequence_network import (
    HEADS,
    WIDTH,
    Inputs,
    SequenceNetwork,
    prepared_scores,
    raw_scores,
    to_onnx,
)

SMALL = ("amount", "hour", *SEQUENCE_AMOUNTS, *SEQUENCE_SECONDS)
NAN = float("nan")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def row(amount: float, *before: tuple[float, float], hour: float = 12.0) -> list[float]:
    """A row of SMALL: the event, then (amount, seconds) of the transactions before it, the newest first."""
    padding = [(NAN, NAN)] * (SEQUENCE_LENGTH - len(before))
    amounts, seconds = zip(*before, *padding, strict=True)
    return [amount, hour, *amounts, *seconds]


def matrix(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def histories(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frauds are told by the sequence alone: the two transactions before were small and within a minute."""
    generator = np.random.default_rng(seed)
    found = []
    labels = np.zeros(rows, dtype=np.int8)
    for index in range(rows):
        length = int(generator.integers(0, SEQUENCE_LENGTH + 1))
        amounts, seconds = generator.gamma(2, 20, length), np.sort(generator.gamma(2, 20_000, length))
        if length >= 2 and generator.random() < 0.15:
            amounts[:2], seconds[:2] = generator.uniform(0, 2, 2), np.sort(generator.uniform(1, 60, 2))
            labels[index] = 1
        found.append(row(generator.gamma(2, 20), *zip(amounts, seconds, strict=True)))
    return matrix(*found), labels


def scores_of(network: SequenceNetwork, *rows: list[float]) -> np.ndarray:
    return raw_scores(network, matrix(*rows))


def test_the_attention_is_that_of_the_reference_function() -> None:
    torch.manual_seed(1)
    network = SequenceNetwork(SMALL)
    steps = torch.randn(5, 1 + SEQUENCE_LENGTH, 3)
    there = torch.rand(5, 1 + SEQUENCE_LENGTH) < 0.5
    there[:, 0] = True
    plain = torch.randn(5, 4)
    tokens = network.embed(steps) + network.places
    shape = (5, -1, HEADS, WIDTH // HEADS)
    query, key, value = (
        layer(part).reshape(shape).transpose(1, 2)
        for layer, part in (
            (network.query, tokens[:, :1]), (network.key, tokens), (network.value, tokens),
        )
    )  # fmt: skip
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
    context = context.transpose(1, 2).reshape(5, WIDTH)
    expected = network.head(torch.cat([plain, tokens[:, 0], context], dim=1)).squeeze(1)
    assert torch.allclose(network.logits(Inputs(plain, steps, there)), expected, atol=1e-6)


def test_a_row_s_score_does_not_depend_on_the_rows_beside_it_nor_on_their_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels = histories(400, seed=2)
    network = fit_network(rows, labels, SMALL, seed=7, epochs=1).network
    whole = raw_scores(network, rows)
    alone = np.concatenate([raw_scores(network, rows[place : place + 1]) for place in range(50)])
    assert np.allclose(whole[:50], alone, atol=1e-6)
    monkeypatch.setattr("jobs.training.sequence_network.SCORED_AT_ONCE", 7)
    assert np.allclose(whole, raw_scores(network, rows), atol=1e-6)
    assert np.array_equal(
        raw_scores(network, rows), prepared_scores(network, network.prepared(torch.from_numpy(rows)))
    )


def test_gaps_get_a_score_and_what_is_half_there_counts_as_not_there() -> None:
    rows, labels = histories(400, seed=2)
    network = fit_network(rows, labels, SMALL, seed=7, epochs=1).network
    none, half = scores_of(network, row(5.0), row(5.0, (NAN, 30.0)))
    assert none == half
    assert np.isfinite(scores_of(network, [NAN] * len(SMALL))).all()


def test_the_network_takes_its_constants_from_training_rows_and_survives_odd_columns() -> None:
    network = SequenceNetwork(SMALL)
    network.fit_inputs(torch.from_numpy(matrix(
        row(1.0, hour=NAN), row(3.0, hour=NAN), row(NAN, hour=NAN),
    )))  # fmt: skip
    assert network.fill.tolist() == [1.0, 0.0]  # torch's median is the lower of two
    assert torch.isfinite(network(torch.full((2, len(SMALL)), NAN))).all()


def test_the_network_learns_what_only_the_sequence_tells() -> None:
    rows, labels = histories(4000, seed=3)
    unseen, truth = histories(2000, seed=4)
    network = fit_network(rows, labels, SMALL, seed=7, epochs=12).network
    assert average_precision_score(truth, raw_scores(network, unseen)) > 0.9
    blind = unseen.copy()
    blind[:, 2:] = NAN
    assert average_precision_score(truth, raw_scores(network, blind)) < 0.3


@pytest.mark.parametrize(("weight", "promised"), [(1.0, 1 / 2), (4.0, 2 / (2 + 4))])
def test_the_weight_of_good_rows_moves_what_is_promised(weight: float, promised: float) -> None:
    """Half are frauds and nothing tells which; a fraud weighs the root of good to fraud."""
    rows = np.repeat(matrix(row(5.0)), 2000, axis=0)
    labels = np.tile([0, 1], 1000)
    weights = np.where(labels == 1, 1.0, weight).astype(np.float32)
    network = fit_network(rows, labels, SMALL, seed=7, epochs=20, weights=weights).network
    assert raw_scores(network, rows[:1])[0] == pytest.approx(promised, abs=0.03)


def test_the_graph_answers_as_the_network_and_the_seed_fixes_it() -> None:
    rows, labels = histories(1500, seed=5)
    held = histories(800, seed=6)
    first, again = (fit_network(rows, labels, SMALL, seed=7, epochs=5, held=held) for _ in range(2))
    assert first.curve == again.curve
    scores = raw_scores(first.network, held[0])
    assert np.array_equal(scores, raw_scores(again.network, held[0]))
    assert average_precision_score(held[1], scores) == pytest.approx(max(first.curve))
    assert first.curve != fit_network(rows, labels, SMALL, seed=8, epochs=5, held=held).curve
    content = to_onnx(first.network, len(SMALL)).SerializeToString()
    probe = onnx_files.probe_rows(rows)
    found = onnx_files.answers(content, probe)
    assert np.isfinite(found).all()
    assert np.abs(found - raw_scores(first.network, probe)).max() <= 1e-5
    assert len(onnx_files.answers(content, probe[:1])) == 1


class Killed(Exception):
    """What ends a fit in these tests."""


def interrupted_fit(monkeypatch: pytest.MonkeyPatch, epochs_done: int, **arguments: object) -> None:
    """Begin a fit and end it in the epoch after `epochs_done`."""
    real = network_fit.run_epoch
    done = 0

    def epoch(*inputs: object) -> float:
        nonlocal done
        if done == epochs_done:
            raise Killed
        done += 1
        return real(*inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(network_fit, "run_epoch", epoch)
    with pytest.raises(Killed):
        fit_network(**arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(network_fit, "run_epoch", real)


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_fit_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_done: int
) -> None:
    rows, labels = histories(1500, seed=5)
    arguments = {
        "matrix": rows, "labels": labels, "features": SMALL, "seed": 7, "epochs": 6,
        "held": histories(800, seed=6),
    }  # fmt: skip
    unbroken = fit_network(**arguments)  # type: ignore[arg-type]
    arguments |= {"checkpoint": tmp_path / "fit.npz", "key": {"frame": "abc"}}
    interrupted_fit(monkeypatch, epochs_done, **arguments)
    epochs = 0

    def counted(*inputs: object) -> float:
        nonlocal epochs
        epochs += 1
        return network_fit_epoch(*inputs)  # type: ignore[arg-type]

    network_fit_epoch = network_fit.run_epoch
    monkeypatch.setattr(network_fit, "run_epoch", counted)
    resumed = fit_network(**arguments)  # type: ignore[arg-type]
    assert epochs == len(unbroken.losses) - epochs_done
    assert (resumed.curve, resumed.losses) == (unbroken.curve, unbroken.losses)
    assert np.array_equal(raw_scores(resumed.network, rows), raw_scores(unbroken.network, rows))


@pytest.mark.parametrize("damage", ["another frame", "another network", "cut off", "empty"])
def test_a_checkpoint_of_something_else_or_a_damaged_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(network_fit, "_code", lambda: "the same")
    rows, labels = histories(600, seed=5)
    path = tmp_path / "fit.npz"
    fit_network(rows, labels, SMALL, seed=7, epochs=2, checkpoint=path, key={"frame": "abc"})
    if damage in ("cut off", "empty"):
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut off" else 0])
    if damage == "another network":
        monkeypatch.setattr("jobs.training.sequence_network.HIDDEN", (32, 16))
    key = {"frame": "other" if damage == "another frame" else "abc"}
    fresh = fit_network(rows, labels, SMALL, seed=7, epochs=3)
    found = fit_network(rows, labels, SMALL, seed=7, epochs=3, checkpoint=path, key=key)
    assert found.losses == fresh.losses
    assert np.array_equal(raw_scores(found.network, rows), raw_scores(fresh.network, rows))


def test_a_checkpoint_has_no_pickle_in_it(tmp_path: Path) -> None:
    rows, labels = histories(300, seed=5)
    path = tmp_path / "fit.npz"
    fit_network(rows, labels, SMALL, seed=7, epochs=1, checkpoint=path)
    with np.load(path, allow_pickle=False) as content:
        assert all(content[name].dtype.kind in "fiub" for name in content.files)


def test_a_frame_without_the_sequence_is_said() -> None:
    features = tuple(name for name in MODEL_FEATURES if name != SEQUENCE_AMOUNTS[2])
    with pytest.raises(SluiceError, match=f"its feature {SEQUENCE_AMOUNTS[2]} is not among"):
        SequenceNetwork(features)
