"""Reads the project's own files for the generated pages, as text: nothing heavy is ever imported."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


@cache
def module(name: str) -> ast.Module:
    """The syntax tree of a module of the project, by its dotted name."""
    specification = find_spec(name)
    if specification is None or specification.origin is None:
        raise LookupError(f"no module {name}")
    return ast.parse(Path(specification.origin).read_text())


def assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """What the names at the top of a module are set to."""
    found: dict[str, ast.expr] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement.value
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value
        ):
            found[statement.target.id] = statement.value
    return found


def imported(tree: ast.Module) -> dict[str, str]:
    """Names that a module imports from others of the project, with where they come from."""
    return {
        alias.name: statement.module
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


def constant(name: str, expression: ast.expr) -> Any:
    """The value of a literal, or of a name that is a literal at the top of its own or an imported module."""
    if isinstance(expression, ast.Name):
        tree = module(name)
        if expression.id in assigned(tree):
            return constant(name, assigned(tree)[expression.id])
        return constant(imported(tree)[expression.id], expression)
    return ast.literal_eval(expression)


def constant_tuple(name: str, variable: str) -> tuple[str, ...]:
    """A tuple of strings at the top of a module."""
    return tuple(constant(name, assigned(module(name))[variable]))


@dataclass(frozen=True)
class Parameter:
    """One field of a model."""

    name: str
    type: str
    default: str  # empty: it must be given
    description: str
    bounds: tuple[str, ...] = ()


def class_of(name: str, model: str) -> tuple[str, ast.ClassDef]:
    """A class and the module that defines it, followed through imports."""
    tree = module(name)
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == model:
            return name, statement
    return class_of(imported(tree)[model], model)


def parameters(name: str, model: str = "Params") -> list[Parameter]:
    """The fields of a pydantic model, those of its bases first."""
    home, found = class_of(name, model)
    fields: list[Parameter] = []
    for base in found.bases:
        if isinstance(base, ast.Name) and base.id not in {"StrictModel", "BaseModel"}:
            fields += parameters(home, base.id)
    for statement in found.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            fields.append(_parameter(home, statement.target.id, statement))
    return fields


def _parameter(home: str, name: str, statement: ast.AnnAssign) -> Parameter:
    kind, value = _type(home, statement.annotation), statement.value
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "Field"):
        return Parameter(name, kind, shown(home, value) if value is not None else "", "")
    given = {keyword.arg: keyword.value for keyword in value.keywords if keyword.arg}
    description = str(constant(home, given.pop("description"))) if "description" in given else ""
    default = given.pop("default", value.args[0] if value.args else None)
    bounds = tuple(f"{key} {constant(home, bound)!s}" for key, bound in given.items())
    return Parameter(name, kind, shown(home, default) if default is not None else "", description, bounds)


def _type(home: str, annotation: ast.expr) -> str:
    """A type as it is written, or what an alias of the project stands for."""
    if isinstance(annotation, ast.Name):
        tree = module(home)
        if annotation.id in assigned(tree):
            return ast.unparse(assigned(tree)[annotation.id])
        origin = imported(tree).get(annotation.id, "")
        if origin.startswith("jobs."):
            return _type(origin, annotation)
    return ast.unparse(annotation)


def shown(home: str, expression: ast.expr) -> str:
    """A default as a reader wants to see it."""
    try:
        value = constant(home, expression)
    except (ValueError, LookupError):
        return ast.unparse(expression)
    return "empty" if value in ("", None, ()) else str(value)


@dataclass
class DagFile:
    """What a DAG file says, read without running it."""

    dag_id: str
    docstring: str
    schedule: ast.expr
    params: dict[str, ast.expr]
    publishes: list[str] = field(default_factory=list)  # names in plugins/assets.py
    listens: list[str] = field(default_factory=list)
    other_tasks: dict[str, str] = field(default_factory=dict)  # task that is no job -> its operator
    mapped: dict[str, str] = field(default_factory=dict)  # mapped task -> over what
    pools: dict[str, str] = field(default_factory=dict)  # task -> name in plugins/pools.py


def dag_files() -> list[DagFile]:
    """All DAG files, by name."""
    return [dag_file(file) for file in sorted((ROOT / "dags").glob("fraud_*.py"))]


def dag_file(file: Path) -> DagFile:
    """One DAG file."""
    tree = ast.parse(file.read_text())
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == file.stem
    )
    decorator = function.decorator_list[0]
    assert isinstance(decorator, ast.Call)  # noqa: S101 - every DAG is made by @dag(…)
    given = {keyword.arg: keyword.value for keyword in decorator.keywords}
    params = given["params"]
    assert isinstance(params, ast.Dict)  # noqa: S101
    named = {
        str(ast.literal_eval(key)): value
        for key, value in zip(params.keys, params.values, strict=True)
        if key is not None
    }
    found = DagFile(file.stem, ast.get_docstring(tree) or "", given["schedule"], named)
    found.listens = [
        node.id for node in ast.walk(found.schedule) if isinstance(node, ast.Name) and node.id.isupper()
    ]
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        _read_call(found, call)
    return found


def _read_call(found: DagFile, call: ast.Call) -> None:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    task = given.get("task_id") or (call.args[0] if call.args else None)
    name = task.value if isinstance(task, ast.Constant) else ""
    for keyword in ("publishes", "requests"):
        if keyword in given:
            found.publishes.append(ast.unparse(given[keyword]))
    if "pool" in given:
        found.pools[str(name)] = ast.unparse(given["pool"])
    operator = ast.unparse(call.func)
    if operator == "mapped_job":
        found.mapped[str(name)] = f" once for each of `{ast.unparse(given['over'])}`"
    if operator.endswith("Operator") and name and "job" not in given:
        found.other_tasks[str(name)] = operator


def call_arguments(expression: ast.expr) -> dict[str, Any]:
    """Literal arguments of a call; the first one without a name is called `default`."""
    if not isinstance(expression, ast.Call):
        return {}
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in expression.keywords if keyword.arg}
    if expression.args:
        found["default"] = ast.literal_eval(expression.args[0])
    return found


def param_arguments(expression: ast.expr) -> dict[str, Any]:
    """Literal arguments of a DAG's Param, also where plugins.defaults names it or has a function for it."""
    defaults = module("plugins.defaults")
    functions = {each.name: each for each in defaults.body if isinstance(each, ast.FunctionDef)}
    while True:
        if isinstance(expression, ast.Name):
            expression = assigned(defaults)[expression.id]
        elif isinstance(expression, ast.Call) and ast.unparse(expression.func) in functions:
            expression = _inlined(functions[ast.unparse(expression.func)], expression)
        else:
            return call_arguments(expression)


def _inlined(function: ast.FunctionDef, call: ast.Call) -> ast.Call:
    """The call that a function of one returned call comes to, with the arguments that it is given."""
    names = [each.arg for each in function.args.args]
    bound = dict(zip(names, call.args, strict=False))
    bound |= {each.arg: each.value for each in call.keywords if each.arg in names}
    returned = next(each.value for each in function.body if isinstance(each, ast.Return))
    assert isinstance(returned, ast.Call)  # noqa: S101

    def given(value: ast.expr) -> ast.expr:
        return bound.get(value.id, value) if isinstance(value, ast.Name) else value

    own = [ast.keyword(each.arg, given(each.value)) for each in returned.keywords if each.arg]
    passed_on = [each for each in call.keywords if each.arg not in names]
    return ast.Call(returned.func, [given(each) for each in returned.args], own + passed_on)


def yaml_comments(file: Path) -> dict[int, str]:
    """Comment of each line of a YAML file, by line number from 0."""
    found = {}
    for number, line in enumerate(file.read_text().splitlines()):
        match = re.search(r"(?:^|\s)#\s?(.*)$", line)
        if match:
            found[number] = match[1].strip()
    return found


def yaml_leaves(file: Path) -> dict[str, tuple[Any, str]]:
    """Every value of a YAML file by its dotted place, with the comment beside or above it."""
    comments = yaml_comments(file)
    lines = file.read_text().splitlines()
    found: dict[str, tuple[Any, str]] = {}

    def walk(node: yaml.Node, place: str, line: int) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                walk(value, f"{place}.{key.value}" if place else key.value, key.start_mark.line)
            return
        above = line - 1 if line and lines[line - 1].lstrip().startswith("#") and "." in place else -1
        comment = comments.get(line) or comments.get(above, "")
        found[place] = (yaml.safe_load(yaml.serialize(node)), comment)

    root = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    assert root is not None, file  # noqa: S101 - no file of ours is empty
    walk(root, "", 0)
    return found
