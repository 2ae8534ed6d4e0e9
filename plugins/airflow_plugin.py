"""Registers with Airflow: the page of the model, the reports, links in the navigation, and the task links."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from jobs.conf.settings import settings
from plugins.links import REPORTS, VIEW, ReportLink


async def _pages(scope: Any, receive: Any, send: Any) -> None:
    """The pages under /reports; every process of Airflow loads the plugins, and only one shows pages."""
    from plugins.pages import application

    await application()(scope, receive, send)


def _view(name: str, address: str) -> dict[str, Any]:
    return {
        "name": name,
        "href": address,
        "destination": "nav",
        "category": "browse",
        "url_route": name.lower().replace(" ", "-"),
    }


class SluicePlugin(AirflowPlugin):
    """Everything that Sluice adds to Airflow's own pages."""

    name = "sluice"
    fastapi_apps = [{"app": _pages, "url_prefix": REPORTS, "name": "Sluice"}]
    operator_extra_links = [ReportLink()]
    # a part of the UI and no frame of it: a page in a frame cannot lead to another page of Airflow
    react_apps = [
        {
            "name": "Model",
            "bundle_url": f"{REPORTS.lstrip('/')}/{VIEW}",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "model",
        }
    ]
    external_views = [
        _view("Data Docs", f"{REPORTS}/data_docs/index.html"),
        _view("Drift reports", f"{REPORTS}/drift/index.html"),
        _view("MLflow", settings().mlflow_public_uri or settings().mlflow_uri),
        _view("Scoring service", f"{settings().scoring_public_uri or settings().scoring_uri}/docs"),
    ]
