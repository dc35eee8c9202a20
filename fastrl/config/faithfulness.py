"""Faithfulness and diversity of a model's responses (arXiv 2604.18574, F.1 and F.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config.base import check_at_least, check_positive, refuse
from fastrl.config.groups import WriterConfig


def judge_config() -> WriterConfig:
    """Greedy: it is asked once."""
    return WriterConfig(temperature=0.0, top_p=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulnessConfig:
    """Whether answers follow from what is written before them, and how many ways lead to them."""

    enabled: bool = False
    every: int = 0
    """While training, every so many steps; 0: before and after only."""
    path: str | None = None
    """File of problems, read as the data section says. null: the evaluation's own."""
    num_problems: int = 8
    """The file's first ones."""
    num_samples: int = 16
    """Responses to each."""
    probes: bool = True
    """What the model itself does with its responses: answers forced after a part of them, and answers after a
    step made wrong. No judge is needed."""
    taus: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of a response after which an answer is forced; 1 is all that comes before its answer."""
    forcing_text: str = "\n\nThe final answer is $\\boxed{"
    """What forces the answer. A model that thinks within tags may need their end in front of it."""
    forcing_end: str = "}$"
    """Ends a forced answer; best not a lone "}", which would end \\frac{1}{2} too soon."""
    answer_tokens: int = 32
    """Longest forced answer."""
    corrupt: str | None = None
    """Dotted path of a function that makes a step wrong: (response, random numbers) -> Corruption or None.
    null: a result after "=", or else any whole number, is off by 1 to 9."""
    slack_tokens: int = 256
    """After a step made wrong the model may write what the step leaves of the longest response + this many
    tokens."""
    checker: str | None = None
    """Dotted path of a function that labels exactly: (the problem's row, response) -> 1, 0.5, 0 or None."""
    judge: WriterConfig = field(default_factory=judge_config)
    """With judge.model.path that model labels every response 1, 0.5 or 0."""
    second_judge: WriterConfig = field(default_factory=judge_config)
    """Another one; how far the two agree is measured."""
    diversity: bool = False
    """Clusters of strategies: by the function `strategy`, or else by the judge."""
    strategy: str | None = None
    """Dotted path of a function that names strategies: response -> name, or None to leave it out."""

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
        """Those that are asked for, under the names that metrics carry."""
        both = {"judge": self.judge, "second_judge": self.second_judge}
        return {name: judge for name, judge in both.items() if self.enabled and judge.model.path}
