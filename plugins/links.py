"""Links of a task to what it made: Data Docs, drift reports, MLflow runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

REPORTS = "/reports"
VIEW = "model_view.js"  # shows the page of the model inside Airflow's UI


def link_of(receipt: dict[str, Any] | None) -> str:
    """Address of the report that a receipt names: absolute, or below the api-server's /reports."""
    report = str((receipt or {}).get("facts", {}).get("report", ""))
    return report if not report or "://" in report else f"{REPORTS}/{report}"


class ReportLink(BaseOperatorLink):
    """The button `Report` of a task."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        # Airflow asks at the end of the task, in its own process; a closed gate leaves no receipt
        failed: dict[str, Any] = {"facts": {"report": getattr(operator, "report", "")}}
        return link_of(XCom.get_value(ti_key=ti_key, key="return_value") or failed)
