"""Scoring of whole days, without anybody waiting."""
