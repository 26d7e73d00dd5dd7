"""Registered ensembles: a manifest of member versions, and what it predicts."""
