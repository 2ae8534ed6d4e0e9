"""Alert where alias `champion` points at a version that serving does not accept.

In: the registry, after the alias was moved. Out: an alert, once for each move; a receipt with who serves.
Serving follows the alias only to a version with a completed promotion record, or to the one under `previous`
if it had one once; whatever else the alias says, the last accepted champion goes on.
Errors: SluiceError where the registry does not answer.
"""

from __future__ import annotations

from pydantic import Field

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, Stopwatch
from jobs.promotion.state import read_aliases, read_routing, registry_client

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("alerts",)


class Params(JobParams):
    version: str = Field("", pattern=r"^\d*$", description="version that the alias was moved to")
    run: str = Field(min_length=1, description="names the move: one alert for each")


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    client, name = registry_client(settings), settings.model_name
    previous = read_aliases(client, name).get("previous", "")
    routing = read_routing(client, name)
    known = previous not in ("", params.version)
    back = f"set alias champion back to version {previous}" if known else "set alias champion back"
    alerts = [
        Alert(
            key=f"champion-refused/{name}/{params.version}/{params.run}",
            cause=cause,
            owner=contract_of(settings).owner,
            action=f"{back}; to promote the version, `sluice model offer {params.version}`",
            facts={"version": params.version, "previous": previous},
        )
        for cause in routing.alerts
    ]
    new = raise_alerts(settings, alerts)
    facts = {"champion": routing.champion or "", "refused": list(routing.alerts), "new_alerts": new}
    return Receipt(job="check_champion", table="alerts", rows=new, seconds=watch.seconds, facts=facts)
