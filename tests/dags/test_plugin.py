"""What Airflow registers of the plugin, and what the processes that only load it are spared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD = """
import json, sys
from airflow import plugins_manager
found, errors = plugins_manager._get_plugins()
views, apps = plugins_manager._get_ui_plugins()
print(json.dumps({
    "errors": errors, "plugins": [each.name for each in found if each.name == "sluice"],
    "apps": apps, "views": [view["name"] for view in views],
    "mounted": [each["url_prefix"] for each in plugins_manager.get_fastapi_plugins()[0]],
    "heavy": [name for name in HEAVY if name in sys.modules],
}))
"""
HEAVY = ("airflow.api_fastapi.core_api.security", "deltalake", "pandas", "mlflow", "jobs.monitoring")


def test_the_page_is_in_the_menu_and_only_the_server_that_shows_it_pays_for_it(tmp_path: Path) -> None:
    ours = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "SLUICE_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT)}  # fmt: skip
    code = f"HEAVY = {HEAVY!r}\n{LOAD}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ours, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert found["plugins"] == ["sluice"]
    assert found["mounted"] == ["/reports"]
    assert found["apps"] == [
        {"name": "Model", "bundle_url": "reports/model_view.js", "destination": "nav", "nav_top_level": True,
         "url_route": "model"}
    ]  # fmt: skip
    assert found["views"] == ["Data Docs", "Drift reports", "MLflow", "Scoring service"]
    assert found["heavy"] == []
    assert not (tmp_path / "home").exists()
