"""What Airflow itself lacks: the task wrapper, assets, the MLflow alias trigger, callbacks, UI views."""
