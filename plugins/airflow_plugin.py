"""Registers with Airflow: the reports under /reports, links in the navigation, and the task links."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from jobs.conf.settings import settings
from plugins.links import REPORTS, ReportLink


def _reports_app() -> FastAPI:
    """Serves Data Docs, drift reports and the pages of promotions, which are files."""
    folder = settings().reports
    folder.mkdir(parents=True, exist_ok=True)
    app = FastAPI(title="Sluice reports", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/", StaticFiles(directory=folder, html=True))
    return app


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
    fastapi_apps = [{"app": _reports_app(), "url_prefix": REPORTS, "name": "Sluice reports"}]
    operator_extra_links = [ReportLink()]
    external_views = [
        _view("Data Docs", f"{REPORTS}/data_docs/index.html"),
        _view("Drift reports", f"{REPORTS}/drift/index.html"),
        _view("MLflow", settings().mlflow_public_uri or settings().mlflow_uri),
        _view("Scoring service", f"{settings().scoring_public_uri or settings().scoring_uri}/docs"),
    ]
