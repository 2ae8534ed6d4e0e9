"""Promotion: a version reaches traffic only step by step, and a verdict stands behind each step."""
