"""`make bench NAME=…`: runs one benchmark, prints its table, writes `.bench/NAME.json`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.report import machine

ROOT = Path(__file__).parents[2]
console = Console()


@dataclass(frozen=True)
class Case:
    """One figure: ours beside the peer's. `ratio` is ours over peer's, `goal` what it must be at most."""

    case: str
    ours: float
    peer: float | None
    unit: str
    goal: str
    met: bool

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None


def names() -> list[str]:
    """The benchmarks that there are."""
    return sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))


def main(name: str) -> int:
    if name not in names():
        print(f"bench: NAME={name or '?'}: there is no such benchmark; there are: {', '.join(names())}")
        return 1
    found = import_module(f"tests.benchmarks.bench_{name}").run()
    cases: list[Case] = []
    for group in [found] if isinstance(found, list) else found:
        cases += group
        publish(name, cases)  # what is measured is kept where a later group fails
    return 0


def publish(name: str, cases: list[Case]) -> None:
    """Print the table of the cases and write `.bench/NAME.json`."""
    sheet = Table("case", "ours", "peer", "unit", "ratio", "goal", "met", title=f"{name} on {machine()}")
    for case in cases:
        peer = f"{case.peer:.3g}" if case.peer is not None else ""
        ratio = f"{case.ratio:.2f}" if case.ratio is not None else ""
        sheet.add_row(
            case.case, f"{case.ours:.3g}", peer, case.unit, ratio, case.goal, "yes" if case.met else "NO"
        )
    console.print(sheet)
    file = ROOT / ".bench" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    rows = [{**asdict(case), "ratio": case.ratio} for case in cases]
    file.write_text(json.dumps({"name": name, "machine": machine(), "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
