"""What Airflow's api-server shows of Sluice under /reports, to those who are signed in to Airflow.

The files of the reports folder, and the page of the model. Only the api-server imports this, with the first
request (.airflowignore keeps it from every other process): it needs the server's own login.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_view
from airflow.models.dagrun import DagRun
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from jobs.conf.settings import settings
from jobs.monitoring.model_page import DagRuns, Run, render
from jobs.monitoring.model_state import gather
from plugins.links import REPORTS, VIEW

NEWEST_RUNS = 10  # of each DAG
PREFIX = "fraud_"


@cache
def application() -> FastAPI:
    """The application that is mounted at /reports."""
    signed_in = Depends(requires_access_view(AccessView.WEBSITE))
    app = FastAPI(title="Sluice", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[signed_in])
    app.add_api_route("/model", model, methods=["GET"], response_model=None)
    app.add_api_route(f"/{VIEW}", view, methods=["GET"], response_model=None)
    app.add_api_route("/{path:path}", report, methods=["GET", "HEAD"], response_model=None)
    app.add_exception_handler(HTTPException, sign_in_first)
    return app


def model(user: GetUserDep, session: SessionDep) -> Response:
    """The page of the model, with the runs that this user may see."""
    ours = settings()
    page = render(gather(ours), newest_runs(user, session), ours.mlflow_public_uri or ours.mlflow_uri)
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


def view() -> Response:
    """What shows that page inside Airflow's UI."""
    return FileResponse(Path(__file__).with_name(VIEW), media_type="text/javascript")


async def report(request: Request) -> Response:
    """A file: Data Docs, drift reports, the pages of promotions and backfills."""
    files = _files()
    return await files.get_response(files.get_path(request.scope), request.scope)


@cache
def _files() -> StaticFiles:
    folder = settings().reports
    folder.mkdir(parents=True, exist_ok=True)
    return StaticFiles(directory=folder, html=True)


async def sign_in_first(request: Request, error: Exception) -> Response:
    """A browser that nobody is signed in with is sent to Airflow's login, and from there to the page."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 401 and "text/html" in request.headers.get("accept", ""):
        airflow = str(request.scope.get("root_path", "")).removesuffix(REPORTS)
        return RedirectResponse(f"{airflow}/api/v2/auth/login?{urlencode({'next': str(request.url)})}")
    return await http_exception_handler(request, error)


def newest_runs(user: Any, session: Session) -> list[DagRuns]:
    """The newest runs of each of our DAGs that the user may see, by name."""
    visible = get_auth_manager().get_authorized_dag_ids(user=user, session=session)
    ours = sorted(dag_id for dag_id in visible if dag_id.startswith(PREFIX))
    return [DagRuns(dag_id=dag_id, runs=_runs_of(dag_id, session)) for dag_id in ours]


def _runs_of(dag_id: str, session: Session) -> tuple[Run, ...]:
    newest = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).limit(NEWEST_RUNS)
    return tuple(map(_run, session.scalars(newest)))


def _run(found: Any) -> Run:
    ended = found.start_date and found.end_date
    return Run(
        run_id=found.run_id,
        state=str(found.state),
        started_at=found.start_date,
        seconds=(found.end_date - found.start_date).total_seconds() if ended else None,
        of=found.partition_key or "",
    )
