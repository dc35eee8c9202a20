"""fastrl: RL for LLM reasoning, with rewards from a frozen model that consumes the reasoning."""

__version__ = "0.1.0"
