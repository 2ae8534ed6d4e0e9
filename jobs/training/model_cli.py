"""`sluice model list | show | compare | lineage | reproduce | offer`: registered versions of the model.

In: the registry in MLflow. Out: aligned text; `lineage --json` for machines. Nothing is changed,
but by `offer`: it gives a version the alias `challenger`, which starts fraud_promote.
`reproduce` builds a version again from its lineage and compares the scores: exit code 0 where they agree,
1 where they do not.
Errors: SluiceError where MLflow does not answer, there is no such version, its lineage is missing, or the
version may not be offered.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.conf.settings import Settings, settings
from jobs.promotion import state as registry
from jobs.promotion.offer import offer
from jobs.promotion.state import VersionState
from jobs.training.lineage import Lineage, changes, read_lineage, required_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from jobs.training.reproduce import Reproduction

Rows = Iterable[Sequence[str]]
LISTED = ("version", "aliases", "gate", "promotion", "day", "pr_auc", "registered")
console = Console(highlight=False, markup=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; gives the exit code.

    Raises:
        SluiceError: see this module's docstring.
    """
    options = _parser().parse_args(list(arguments))
    ours = settings()
    client = registry.registry_client(ours)
    if options.command == "list":
        return _list(client, ours)
    if options.command == "compare":
        return _compare(client, ours, options.version, options.other)
    if options.command == "lineage":
        return _lineage(client, ours, options.version, as_json=options.json)
    if options.command == "reproduce":
        return _reproduce(client, ours, options.version)
    if options.command == "offer":
        console.print(offer(client, ours, options.version))
        return 0
    return _show(client, ours, options.version)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sluice model", description="registered versions of the model")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "list": "all versions, the latest first",
        "show": "what the gate, people and the promotion said about a version, and its figures",
        "compare": "two versions side by side",
        "lineage": "everything that made a version",
        "reproduce": "build a version again from its lineage and compare the scores",
        "offer": "make a version the challenger: fraud_promote checks it and gives it traffic step by step",
    }
    for command, text in texts.items():
        added = commands.add_parser(command, help=text, description=text)
        if command != "list":
            added.add_argument("version", type=_number, metavar="VERSION")
        if command == "compare":
            added.add_argument("other", type=_number, metavar="OTHER")
        if command == "lineage":
            added.add_argument("--json", action="store_true", help="for machines")
    return parser


def _number(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a version")
    return text


def aligned(rows: Rows) -> str:
    """Rows as text whose columns stand below each other."""
    cells = [[*row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def figure(value: float | None) -> str:
    """A figure for people, "-" where there is none."""
    return "-" if value is None else f"{value:,.6g}"


def _list(client: MlflowClient, ours: Settings) -> int:
    versions = registry.read_versions(client, ours.model_name)
    aliases = _aliases(client, ours)
    rows = [
        (
            state.version,
            aliases.get(state.version, "-"),
            state.tag(registry.TAG_GATE) or "-",
            _promotion(state),
            state.tag(registry.TAG_DAY) or "-",
            figure(state.evidence(registry.TAG_METRICS).get("pr_auc")),
            f"{state.registered_at:%Y-%m-%d %H:%M}",
        )
        for state in versions
    ]
    console.print(aligned([LISTED, *rows]) if rows else f"{ours.model_name} has no version yet")
    return 0


def _aliases(client: MlflowClient, ours: Settings) -> dict[str, str]:
    """Version -> its aliases."""
    found: dict[str, list[str]] = {}
    for alias, version in sorted(registry.read_aliases(client, ours.model_name).items()):
        found.setdefault(version, []).append(alias)
    return {version: ", ".join(names) for version, names in found.items()}


def _promotion(state: VersionState) -> str:
    if state.tag(registry.TAG_ARCHIVED):
        return "archived"
    return state.tag(registry.TAG_PROMOTION) or "-"


def _show(client: MlflowClient, ours: Settings, version: str) -> int:
    state = required_version(client, ours, version)
    archived = state.tag(registry.TAG_ARCHIVED)
    said = {
        "version": f"{state.version} of {ours.model_name}",
        "aliases": _aliases(client, ours).get(state.version, ""),
        "archived": registry.archived_text(archived) if archived else "",
        "registered": f"{state.registered_at:%Y-%m-%d %H:%M} UTC",
        "day": state.tag(registry.TAG_DAY),
        "run": state.tag(registry.TAG_RUN),
        "reason": state.tag(registry.TAG_REASON),
        "author": state.tag(registry.TAG_AUTHOR),
        "drill": state.tag(registry.TAG_DRILL),
        "gate": _with_reason(state, registry.TAG_GATE, registry.TAG_GATE_REASON),
        "judged against": state.tag(registry.TAG_JUDGED_AGAINST) or "baselines",
        "approved by": _with_reason(state, registry.TAG_APPROVED_BY, registry.TAG_APPROVED_AT),
        "promotion": _with_reason(state, registry.TAG_PROMOTION, registry.TAG_PROMOTION_REASON),
        "promotion id": state.tag(registry.TAG_PROMOTION_ID),
        "step": state.tag(registry.TAG_STEP),
        "replaced": state.tag(registry.TAG_PREVIOUS),
        "MLflow run": state.run_id,
    }
    console.print(aligned((name, text or "-") for name, text in said.items()))
    checks = state.evidence(registry.TAG_GATE_EVIDENCE).get("checks", [])
    if checks:
        table = [
            (each["name"], each["outcome"], figure(each.get("value")), figure(each.get("threshold")))
            for each in checks
        ]
        console.print("\n" + aligned([("check", "outcome", "value", "threshold"), *table]))
    figures = state.evidence(registry.TAG_METRICS) or _figures(client, state)
    if figures:
        console.print("\n" + aligned((name, figure(value)) for name, value in figures.items()))
    return 0


def _with_reason(state: VersionState, tag: str, reason: str) -> str:
    return ": ".join(text for text in (state.tag(tag), state.tag(reason)) if text)


def _figures(client: MlflowClient, state: VersionState) -> dict[str, float]:
    """All figures of the version's run."""
    return dict(sorted(_run_data(client, state, "metrics").items()))


def _run_data(client: MlflowClient, state: VersionState, part: str) -> dict[str, Any]:
    if not state.run_id:
        return {}
    with registry.registry_errors():
        return dict(getattr(client.get_run(state.run_id).data, part))


def _compare(client: MlflowClient, ours: Settings, first: str, second: str) -> int:
    states = [required_version(client, ours, version) for version in (first, second)]
    lineages = [read_lineage(client, state) for state in states]
    head = (f"version {first}", f"version {second}")
    one, two = (_figures(client, state) for state in states)
    rows = [
        (name, figure(one.get(name)), figure(two.get(name)), _difference(one.get(name), two.get(name)))
        for name in dict.fromkeys([*one, *two])
    ]
    console.print(aligned([("figure", *head, "difference"), *rows]))
    params = [_run_data(client, state, "params") for state in states]
    _side_by_side("parameter", head, params[0], params[1])
    _side_by_side("table version", head, lineages[0].table_versions, lineages[1].table_versions)
    features = changes("features", lineages[0].features, lineages[1].features)
    console.print(f"\n{features[0] if features else 'features: the same'}")
    return 0


def _difference(first: float | None, second: float | None) -> str:
    return "-" if first is None or second is None else f"{second - first:+,.6g}"


def _side_by_side(
    title: str, head: tuple[str, str], one: Mapping[str, object], two: Mapping[str, object]
) -> None:
    rows = [
        (
            name,
            str(one.get(name, "-")),
            str(two.get(name, "-")),
            "" if one.get(name) == two.get(name) else "*",
        )
        for name in sorted({*one, *two})
    ]
    console.print("\n" + aligned([(title, *head, ""), *rows]))


def _lineage(client: MlflowClient, ours: Settings, version: str, *, as_json: bool) -> int:
    found = read_lineage(client, required_version(client, ours, version))
    document = found.model_dump(mode="json")
    if as_json:
        console.print(json.dumps(document, indent=1))
        return 0
    console.print(aligned(_leaves(document, found)))
    return 0


def _leaves(document: Mapping[str, Any], found: Lineage) -> list[tuple[str, str]]:
    """Each value by its place; features one below the other."""
    rows: list[tuple[str, str]] = []

    def walk(place: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{place} {key}".strip(), inner)
        elif place == "features":
            rows.extend((place if not index else "", name) for index, name in enumerate(found.features))
        else:
            rows.append((place, str(value)))

    walk("", document)
    return rows


def _reproduce(client: MlflowClient, ours: Settings, version: str) -> int:
    from jobs.training import reproduce as building  # torch, XGBoost, Spark

    found = building.read_recorded(client, ours, version)
    told = building.conditions(found.lineage, ours)
    for text in told:
        console.print(f"otherwise today: {text}")
    if not told:
        console.print("code, environment, contract and policy are those it was trained with")
    result = building.reproduce(ours, found)
    _say_result(result)
    return 0 if result.reproduced else 1


def _say_result(result: Reproduction) -> None:
    files = "the same to the byte" if result.same_files else "not the same to the byte"
    rows = [(name, f"{apart:.3g}") for name, apart in result.apart.items()]
    console.print("\n" + aligned([(f"{result.rows} test rows", "largest difference"), *rows]))
    console.print(f"\ngraphs and calibration are {files}")
    for text in result.otherwise:
        console.print(f"came out otherwise: {text}")
    console.print(f"version {result.version} was {'' if result.reproduced else 'NOT '}reproduced")
