"""From matured labels to a registered version: frame, tuning, models, evidence, gate, registry."""
