"""Interventions (InT, arXiv 2601.14209): a model checks its failed rollout, replaces the first wrong step."""
