"""Feast repository: what `feast apply` finds here is what the jobs apply themselves."""
