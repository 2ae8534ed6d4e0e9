"""The scorecard: 28 rows, sums that are sums, and every test that it names is there under its link."""

from __future__ import annotations

import re
from pathlib import Path

CARD = Path(__file__).parents[2] / "docs" / "ml-test-score.md"
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (\d) \| .+? \| (\d(?:\.\d)?) \| (.+) \|$", re.MULTILINE)
SUM = re.compile(r"^\| \| \*\*Sum\*\* \| \*\*(\d\.\d)\*\* \| \|$", re.MULTILINE)
NAMED = re.compile(r"\[(test_\w+)\]\(([^)#]+\.py)\)")


def sections(text: str) -> dict[str, tuple[list[float], float]]:
    """Of each section the scores of its rows and the sum that it states."""
    found = {}
    for name, body in SECTION.findall(text):
        rows = ROW.findall(body)
        assert [row[0] for row in rows] == [str(number) for number in range(1, 8)], name
        found[name] = ([float(row[1]) for row in rows], float(SUM.findall(body)[0]))
    return found


def test_each_sum_is_that_of_its_seven_rows_and_the_final_score_is_the_smallest() -> None:
    text = CARD.read_text()
    found = sections(text)
    assert list(found) == ["Features and data", "Model development", "Infrastructure", "Monitoring"]
    for name, (scores, stated) in found.items():
        assert set(scores) <= {0.0, 0.5, 1.0}
        assert sum(scores) == stated, name
        assert f"| {name} | {stated:.1f} |" in text
    final = min(stated for _, stated in found.values())
    assert f"| **Final: the smallest** | **{final:.1f}** |" in text


def test_every_test_that_a_row_names_is_in_the_file_behind_its_link() -> None:
    named = NAMED.findall(CARD.read_text())
    missing = [
        name for name, path in named if f"def {name}(" not in (CARD.parent / path).resolve().read_text()
    ]
    assert missing == []
    assert len(named) > 28


def test_every_row_that_scores_names_something_that_can_be_opened() -> None:
    for number, score, shown in ROW.findall(CARD.read_text()):
        assert float(score) == 0.0 or re.search(r"\]\([^)]+\)", shown), number
