"""Rewriting days safely: stage beside production, validate against it, swap in one step, and back again."""
