"""Pools: how many tasks of a kind run at once on one installation."""

SPARK_POOL = "spark"
TRAINING_POOL = "training"
POOLS = {
    SPARK_POOL: {"slots": 2, "description": "Spark jobs at once", "include_deferred": False},
    TRAINING_POOL: {"slots": 2, "description": "training tasks at once", "include_deferred": False},
}
