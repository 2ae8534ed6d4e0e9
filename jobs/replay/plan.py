"""What is replayed: the days, the policies, and what is known or done on purpose along the way.

In: the command line and a scenario's YAML file. Out: a `Plan`, and the folders of one replay:
    HOME/data-KEY/          tables and features, shared by the policies that take in data alike
    HOME/policies/NAME/     the installation of one policy: its registry, log, decisions
Errors: SluiceError for a period that ends before it begins, a policy named twice, a wrong key.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field, ValidationError

from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel, days_between
from jobs.features.declarations import FEATURE_VERSION
from jobs.training.run_folder import Drill

SHIPPED = "shipped"  # what the policy is called that is laid over nothing
# sections of the policy that decide what the tables hold, and so which policies can share them
DATA_SECTIONS = ("quality", "features", "drift")
# tables in the replay's own folders, nobody is told of an alert, and no page is drawn of each day
QUIET: dict[str, Any] = {
    "lake_uri": "",
    "alert_webhook": "",
    "alert_mail_to": "",
    "drift_report": False,
}
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$")


class Scenario(StrictModel):
    """What the world or a colleague does, and what is known about it."""

    drift_days: tuple[date, ...] = Field(
        (), description="first days of known changes, to time their detection"
    )
    drills: dict[date, Drill] = Field(
        {}, description="day -> how the training that somebody starts after that day is broken"
    )


class PolicyUnderTest(NamedTuple):
    """One policy: its name, and the overlay that makes it."""

    name: str
    overlay: str

    @property
    def policy(self) -> Policy:
        return load_policy(self.overlay)


class Plan(NamedTuple):
    """A replay."""

    first: date  # the first day with traffic; days before it are history to train on
    last: date
    policies: tuple[PolicyUnderTest, ...]
    scenario: Scenario
    home: Path

    @property
    def days(self) -> list[date]:
        return days_between(self.first, self.last)


def named_policies(overlays: list[str]) -> tuple[PolicyUnderTest, ...]:
    """Policies by the names of their files; the shipped one where none is given.

    Raises:
        SluiceError: two have one name, a name cannot be a folder's, or a file is no overlay.
    """
    found = tuple(
        PolicyUnderTest(Path(overlay).stem if overlay else SHIPPED, _absolute(overlay))
        for overlay in overlays or [""]
    )
    names = [each.name for each in found]
    for name in names:
        if not NAME.match(name):
            raise SluiceError(f"replay: policy file {name!r}: give it a name of letters, digits, - and _")
        if names.count(name) > 1:
            raise SluiceError(f"replay: two policies are called {name}: rename one of the files")
    for each in found:
        each.policy  # noqa: B018 - refused here and not after the first day
    return found


def _absolute(overlay: str) -> str:
    return str(Path(overlay).resolve()) if overlay.endswith(".yaml") else overlay


def read_scenario(path: str) -> Scenario:
    """A scenario from its file; an empty one without.

    Raises:
        SluiceError: no such file, no YAML, or a key or value that does not belong.
    """
    if not path:
        return Scenario(drift_days=(), drills={})
    try:
        return Scenario.model_validate(yaml.safe_load(Path(path).read_text()) or {})
    except OSError as error:
        raise SluiceError(f"scenario {path}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise SluiceError(f"scenario {path}: not a YAML file: {str(error).partition(chr(10))[0]}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(f"scenario {path}: {place}: {problem['msg']}") from None


def make_plan(
    settings: Settings, first: date, last: date, overlays: list[str], scenario: str, home: str
) -> Plan:
    """The plan of a command line.

    Raises:
        SluiceError: the days are no period, or lie outside the source.
    """
    if last < first:
        raise SluiceError(f"replay: --to {last} lies before --from {first}")
    if first <= settings.first_day:
        raise SluiceError(
            f"replay: the source begins on {settings.first_day} (SLUICE_FIRST_DAY), and a model needs days "
            f"to learn from: start later than {first}"
        )
    maturity = contract_of(settings).labels.maturity_days
    if matured_last(last, maturity) < first:
        raise SluiceError(f"replay: labels mature in {maturity} days: --to must lie later than {last}")
    if settings.last_day is not None and last > settings.last_day:
        raise SluiceError(f"replay: the source ends on {settings.last_day} (SLUICE_LAST_DAY)")
    if not settings.source_uri:
        raise SluiceError("replay: set SLUICE_SOURCE_URI to the transactions that are to be replayed")
    place = Path(home).resolve() if home else settings.home / "replay"
    return Plan(first, last, named_policies(overlays), read_scenario(scenario), place)


def data_sources(settings: Settings) -> dict[str, Any]:
    """What the data of a replay are besides what its policies make of them."""
    return {
        "transactions": settings.source_uri,
        "labels": settings.labels_uri,
        "contract": contract_of(settings).model_dump(mode="json"),
        "first_day": str(settings.first_day),
        "feature_version": FEATURE_VERSION,
    }


def data_key(settings: Settings, policy: Policy) -> str:
    """Short digest of all that the tables of transactions, labels and features depend on."""
    said = {
        "source": data_sources(settings),
        "policy": {name: getattr(policy, name).model_dump(mode="json") for name in DATA_SECTIONS},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def data_settings(settings: Settings, plan: Plan, under_test: PolicyUnderTest) -> Settings:
    """The installation that takes in the data."""
    home = plan.home / f"data-{data_key(settings, under_test.policy)}"
    return settings.model_copy(update=QUIET | {"home": home, "policy_overlay": under_test.overlay})


def policy_settings(settings: Settings, plan: Plan, under_test: PolicyUnderTest) -> Settings:
    """The installation of one policy: its registry is a file of its own."""
    home = plan.home / "policies" / under_test.name
    return settings.model_copy(
        update=QUIET
        | {
            "home": home,
            "policy_overlay": under_test.overlay,
            "mlflow_uri": f"sqlite:///{home / 'mlflow.db'}",
        }
    )


def matured_last(last: date, maturity_days: int) -> date:
    """The last replayed day whose labels are all there at the end: later ones score nobody."""
    return last - timedelta(days=maturity_days)
