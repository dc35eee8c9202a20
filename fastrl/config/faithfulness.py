"""Options of the faithfulness and diversity evaluation (arXiv 2604.18574, F.1 and F.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config.base import check_at_least, check_positive, refuse
from fastrl.config.groups import WriterConfig


def judge_config() -> WriterConfig:
    """Return a judge that samples greedily, since it is queried once."""
    return WriterConfig(temperature=0.0, top_p=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulnessConfig:
    """Evaluation of faithfulness (answers follow from the reasoning) and diversity (distinct strategies)."""

    enabled: bool = False
    """Measure faithfulness in evaluations."""
    every: int = 0
    """Steps between measurements during training; 0: only before and after."""
    path: str | None = None
    """File of problems, read with the options of the data section. null: eval.path."""
    num_problems: int = 8
    """Use the first `num_problems` problems of the file."""
    num_samples: int = 16
    """Responses per problem."""
    probes: bool = True
    """Probe the model with its own responses: force an answer after a truncated response (early answering),
    and let it continue after a corrupted step. Needs no judge."""
    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Fractions of a response after which an answer is forced; 1: all the reasoning before its answer."""
    forcing_text: str = "\n\nThe final answer is $\\boxed{"
    """Text that forces the answer. A model that reasons inside tags may need the closing tag first."""
    forcing_end: str = "}$"
    """Stop string of a forced answer. A lone "}" would stop inside \\frac{1}{2}."""
    answer_tokens: int = 32
    """Longest forced answer, in tokens."""
    corrupt: str | None = None
    """Dotted path of a function that corrupts a step: (response, random numbers) -> Corruption or None. null:
    change a result after "=", or else any whole number, by 1 to 9."""
    slack_tokens: int = 256
    """A continuation after a corrupted step may have (longest response - prefix) + this many tokens."""
    checker: str | None = None
    """Dotted path of a function that labels a response exactly: (problem row, response) -> 1, 0.5, 0 or
    None."""
    judge: WriterConfig = field(default_factory=judge_config)
    """Judge that labels every response 1, 0.5 or 0; used if judge.model.path is set."""
    second_judge: WriterConfig = field(default_factory=judge_config)
    """Second judge, to measure agreement between judges."""
    diversity: bool = False
    """Cluster responses by strategy, with the function `strategy`, or else with the judge."""
    strategy: str | None = None
    """Dotted path of a function that names a response's strategy: response -> name, or None to skip it."""

    def __post_init__(self) -> None:
        check_positive("faithfulness", self, "num_problems", "num_samples", "answer_tokens")
        check_at_least("faithfulness", self, 0, "every", "slack_tokens")
        rising = list(self.taus) == sorted(set(self.taus))
        if not self.taus or not rising or not 0 <= self.taus[0] <= self.taus[-1] <= 1:
            refuse("faithfulness", "taus", "rising numbers in [0, 1]", self.taus)
        if not self.forcing_end:
            refuse("faithfulness", "forcing_end", "at least one character", self.forcing_end)
        if self.second_judge.model.path and not self.judge.model.path:
            refuse("faithfulness", "judge.model.path", "a model, since second_judge.model.path is set", "")
        if self.diversity and not self.judge.model.path and self.strategy is None:
            refuse("faithfulness", "strategy", "a function, since diversity is true without a judge", None)
        if self.strategy is not None and not self.diversity:
            refuse("faithfulness", "diversity", "true, since strategy is set", self.diversity)
        measures = (self.probes, self.diversity, self.checker is not None, bool(self.judges))
        if self.enabled and not any(measures):
            refuse("faithfulness", "probes", "true, since nothing else is measured", self.probes)

    @property
    def judges(self) -> dict[str, WriterConfig]:
        """The judges in use, by their names in metrics."""
        both = {"judge": self.judge, "second_judge": self.second_judge}
        return {name: judge for name, judge in both.items() if self.enabled and judge.model.path}
