"""Features: one declaration, used by Spark, by Feast and by the scoring service."""
