"""Interventions (InT, arXiv 2601.14209): a model finds the first wrong step of its failed rollout."""
