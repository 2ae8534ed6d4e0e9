"""The documentation says what the code says, and none of its links is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from docs.generate import PAGES, surplus
from docs.pages import example_environment
from docs.sources import dag_files, param_arguments, parameters, yaml_leaves
from jobs.conf.contract import Contract
from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings, load_settings
from jobs.registry import JOBS

ROOT = Path(__file__).parents[2]
WRITTEN = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docker").glob("*.md")})
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+\s+(.+?)\s*$", re.MULTILINE)


def anchors(file: Path) -> set[str]:
    """The anchors of a page, as code forges make them of its headings."""
    found = HEADING.findall(re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(file: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for target in LINK.findall(CODE.sub("", file.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    return broken


def generate(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-m", "docs.generate", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_generated_page_is_stale() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_the_pages_depend_on_neither_the_hash_seed_nor_the_settings(tmp_path: Path) -> None:
    done = generate(
        "--check", PYTHONHASHSEED="4", SLUICE_HOME=str(tmp_path), SLUICE_CONTRACT="handbook", LC_ALL="C"
    )
    assert done.returncode == 0, done.stderr


def test_nothing_heavy_is_imported_to_write_them() -> None:
    code = (
        "import sys; from docs.generate import PAGES; [build() for build in PAGES.values()]; "
        "print([name for name in ('airflow', 'pyspark', 'mlflow', 'torch', 'feast', 'pandas') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_holds_nothing_that_is_not_generated() -> None:
    assert surplus() == []


def test_every_dag_and_every_job_has_its_section() -> None:
    dags, jobs = PAGES["docs/reference/dags.md"](), PAGES["docs/reference/jobs.md"]()
    assert {file.dag_id for file in dag_files()} == {file.stem for file in (ROOT / "dags").glob("*.py")}
    assert [file.dag_id for file in dag_files()] == re.findall(r"^## (\w+)$", dags, re.MULTILINE)
    assert list(JOBS) == re.findall(r"^## (\w+)$", jobs, re.MULTILINE)


def test_every_parameter_of_a_dag_has_its_type_and_its_meaning_also_where_a_function_makes_it() -> None:
    for file in dag_files():
        for name, expression in file.params.items():
            given = param_arguments(expression)
            assert given.get("type"), f"{file.dag_id}.{name}"
            assert given.get("description"), f"{file.dag_id}.{name}"
    (version,) = (file.params["version"] for file in dag_files() if file.dag_id == "fraud_score")
    assert param_arguments(version) == {
        "default": None, "type": ["null", "string"], "title": "Version", "pattern": "^[0-9]+$",
        "description": "version of the registered model; empty: the champion",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["simulate_source", "land_transactions", "merge_labels"])
def test_parameters_read_from_the_source_are_those_of_the_model(name: str) -> None:
    from jobs.registry import load_job

    fields = load_job(name).Params.model_fields
    found = {field.name: field for field in parameters(JOBS[name])}
    assert list(found) == list(fields)
    for field, info in fields.items():
        assert (found[field].default == "") == info.is_required()
        assert found[field].description == (info.description or "")


def test_every_value_of_the_policy_is_on_its_page() -> None:
    leaves = yaml_leaves(ROOT / "jobs" / "conf" / "policy.yaml")
    policy = load_policy().model_dump(mode="json")
    for place, (value, _) in leaves.items():
        found = policy
        for part in place.split("."):
            found = found[part]
        assert found == value, place
    assert len(leaves) == values_in(policy)


def values_in(section: Any) -> int:
    return sum(map(values_in, section.values())) if isinstance(section, dict) else 1


def test_a_comment_stays_with_the_value_it_stands_beside() -> None:
    leaves = yaml_leaves(ROOT / "jobs" / "conf" / "policy.yaml")
    assert leaves["gate.automatic_gain"][1] == "relative PR-AUC"
    assert leaves["gate.bootstrap_samples"][1] == ""
    assert leaves["quality.null_share_fail"][1] == "for columns for which the contract names no share"


def test_the_example_environment_changes_nothing_and_its_lines_are_the_defaults() -> None:
    text = example_environment()
    assert all(line == "" or line.startswith("#") for line in text.splitlines())
    given = dict(re.findall(r"^#(SLUICE_\w+)=(.*)$", text, re.MULTILINE))
    assert given.pop("SLUICE_TOKEN") == ""
    given["SLUICE_HOME"] = str(ROOT / given["SLUICE_HOME"])
    assert load_settings(given) == load_settings({})
    assert len(given) == len(Settings.model_fields)


def test_the_example_contract_is_one() -> None:
    text = (ROOT / "docs" / "bring-your-own-data.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example
    assert Contract.model_validate(yaml.safe_load(example[1])).name == "shop"


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(file: Path) -> None:
    assert broken_links(file) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#nowhere) [c](gone.md) [d](page.md) `[e](code.md)`\n")
    assert broken_links(page) == ["#nowhere", "gone.md"]


def test_decisions_are_numbered_once_and_short() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [record.name[:4] for record in records]
    assert len(set(numbers)) == len(numbers)
    for record in records:
        text = record.read_text()
        assert all(part in text for part in ("**Context.**", "**Decision.**", "**Consequences.**")), record
