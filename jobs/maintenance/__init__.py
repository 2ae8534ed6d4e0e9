"""Keeping house: compaction, vacuum and retention, never below what pinned versions need."""
