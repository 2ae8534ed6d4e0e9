"""A champion's monitored days as curves in MLflow, where people look at its run.

In: the champion, the figures of a day and what was decided. Out: metrics `monitoring/...` of the champion's
run, a point for each day, and the tag `sluice.monitored` of the version: the last day, its decision and
where its report is. A day that is measured again has a second point at the same step.
Errors: SluiceError where MLflow does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from jobs.conf.settings import Settings
from jobs.core import midnight
from jobs.monitoring.comparison import SCORE
from jobs.monitoring.figures import Figure
from jobs.promotion import state as registry

PREFIX = "monitoring/"
LARGEST = "largest_psi"  # of any feature
WHOLE = ("all", SCORE)  # subjects that speak of the day as a whole
EPOCH = date(1970, 1, 1)


def points_of(figures: Iterable[Figure]) -> dict[str, float]:
    """The day's figures that make a curve: of the whole day, and the feature that moved most."""
    measured = [(each, each.value) for each in figures if each.value is not None]
    points = {PREFIX + each.metric: value for each, value in measured if each.subject in WHOLE}
    psi = [value for each, value in measured if each.metric == "psi"]
    return points | ({PREFIX + LARGEST: max(psi)} if psi else {})


def draw(
    settings: Settings, champion: registry.VersionState, day: date, figures: list[Figure], decision: str
) -> None:
    """Add the day to the champion's run and version."""
    from mlflow.entities import Metric

    moment, step = int(midnight(day).timestamp() * 1000), (day - EPOCH).days
    points = [Metric(name, value, moment, step) for name, value in points_of(figures).items()]
    client = registry.registry_client(settings)
    with registry.registry_errors():
        client.log_batch(champion.run_id, metrics=points)
    there = (settings.reports / "drift" / f"{day}.html").exists()
    report = f"; {settings.airflow_uri}/reports/drift/{day}.html" if there else ""
    said = {registry.TAG_MONITORED: f"{day}: {decision}{report}"}
    registry.write_tags(client, settings.model_name, champion.version, said)
