"""How figures are kept and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks import bench_frame
from tests.benchmarks.features_equal import assert_same_sums


def test_what_was_measured_is_kept_where_a_later_group_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Iterator[list[bench.Case]]:
        yield [bench.Case("the first", 1.0, 2.0, "s", "ratio <= 1", met=True)]
        raise RuntimeError("no memory")

    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench_frame, "run", run)
    with pytest.raises(RuntimeError, match="no memory"):
        bench.main("frame")
    (kept,) = json.loads((tmp_path / ".bench" / "frame.json").read_text())["cases"]
    assert (kept["case"], kept["ratio"]) == ("the first", 0.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([2.0, 1.0, None], None),
        ([1.0, 2.0, None], "weighed sum of figure"),
        ([2.0, None, 1.0], "weighed sum of figure"),
        ([2.0, 1.0, 0.0], "values of figure"),
        ([2.0, 1.1, None], "sum of figure"),
    ],
    ids=["the same in another order", "swapped", "null elsewhere", "zero for null", "another value"],
)
def test_sums_tell_what_differs_in_two_tables(
    tmp_path: Path, values: list[float | None], says: str | None
) -> None:
    for name, keys, figures in (("a", [1, 2, 3], [1.0, 2.0, None]), ("b", [2, 1, 3], values)):
        (tmp_path / name).mkdir()
        rows = pd.DataFrame({"key": keys, "figure": pd.array(figures, dtype="Float64")})
        rows.to_parquet(tmp_path / name / "all.parquet")
    if says is None:
        assert_same_sums(tmp_path / "a", tmp_path / "b", ["key"], ["figure"])
        return
    with pytest.raises(AssertionError, match=f"^{says}"):
        assert_same_sums(tmp_path / "a", tmp_path / "b", ["key"], ["figure"])
