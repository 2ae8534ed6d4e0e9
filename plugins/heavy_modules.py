"""The libraries that are slow to import: a worker has them in memory before its first task.

Only imports happen there: a thread pool that a library starts by computing would hang in a forked process.
"""

HEAVY_MODULES = (
    "great_expectations",
    "mlflow",
    "mlflow.pyfunc",
    "feast",
    "feast.infra.compute_engines.local.job",
    "feast.infra.offline_stores.duckdb",
    "redis",
    "ibis.backends.duckdb",
    "pyspark.sql.connect.session",
    "delta",
    "xgboost",
    "torch",
    "optuna",
    "sklearn.linear_model",
    "sklearn.metrics",
    "evidently",
    "evidently.presets",
    "duckdb",
    "deltalake",
    "onnxruntime",
    "onnx",
    "onnxmltools",
    "matplotlib.pyplot",
    "boto3",
    "httpx",
)
