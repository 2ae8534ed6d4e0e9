"""Monitoring: drift, performance on matured labels, and the reaction to them. Never a promotion."""
