"""The scoring service: loads neither Spark nor the training code."""
