"""fastrl: RL for LLM reasoning, with rewards from a frozen model that consumes the reasoning.

What other projects may import is listed in docs/api.md; everything else may move between releases.
"""

__version__ = "0.1.0"
__all__ = ["__version__", "engine", "integrations", "ops", "rewards"]
