"""Controlled experiments between two versions: planning them and reading them out."""
