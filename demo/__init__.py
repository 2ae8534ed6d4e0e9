"""The chain on show: drives Airflow, MLflow and the scoring service by their public APIs, as people would."""
