"""One intervene stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    CheckpointConfig,
    DataConfig,
    RunConfig,
    check_at_least,
    check_only_asked,
    check_positive,
    refuse,
)
from fastrl.config.engine import EngineConfig
from fastrl.config.hard_set import SamplingConfig

Filter = Literal["none", "success", "gain"]
Leak = Literal["anywhere", "stated"]
Select = Literal["first", "best"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsConfig:
    """How a rollout falls into numbered substeps: at blank lines, else at lines, else at sentences."""

    min_chars: int = 24
    """A shorter piece joins the one before it. 1: none does."""
    min_steps: int = 3
    """Where a separator gives fewer, the next finer one is tried."""
    max_steps: int = 200
    """More are joined, as evenly as they go."""

    def __post_init__(self) -> None:
        check_positive("steps", self, "min_chars", "min_steps", "max_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalConfig:
    """How the model is asked where its attempt goes wrong, and what should stand there."""

    form: Literal["full", "short"] = "full"
    """full: it solves the problem with the reference at hand, then checks the attempt in three parts. short:
    it reads problem, reference and attempt, and answers in JSON alone."""
    num_samples: int = 4
    """Proposals an attempt."""
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    solve_tokens: int = 16384
    """Longest guided solution of the problem (form full)."""
    verify_tokens: int = 8192
    """Longest check of an attempt."""
    max_conversation_tokens: int = 30000
    """What it reads before it checks: a longer conversation loses the end of the guided solution, and an
    attempt that is too long even so is counted and left out."""
    solve_template: str | None = None
    """First turn of form full, with {question} and {reference}; null: the built-in one."""
    verify_template: str | None = None
    """The turn that asks for the check, with {steps}, and in form short {question} and {reference} too; null:
    the form's own."""
    step_template: str = "**Substep {number}:**\n{step}"
    """A substep as it is shown, with {number} and {step}."""
    between_steps: str = "\n\n"

    def __post_init__(self) -> None:
        check_positive(
            "proposal", self, "num_samples", "solve_tokens", "verify_tokens", "max_conversation_tokens"
        )
        check_at_least("proposal", self, 0, "temperature", "top_k")
        if not 0 < self.top_p <= 1:
            refuse("proposal", "top_p", "a number in (0, 1]", self.top_p)
        if self.form == "short" and self.solve_template is not None:
            refuse("proposal", "solve_template", "null, since form short has one turn", self.solve_template)
        about = ("{question}", "{reference}")
        needed = {
            "solve_template": about,
            "verify_template": ("{steps}",) if self.form == "full" else (*about, "{steps}"),
            "step_template": ("{number}", "{step}"),
        }
        for name, parts in needed.items():
            text = getattr(self, name)
            if text is not None and not all(part in text for part in parts):
                refuse("proposal", name, f"text with {' and '.join(parts)}", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterveneConfig:
    """Interventions: one step in the place of the first wrong one of a failed attempt (InT, arXiv
    2601.14209)."""

    stage: Literal["intervene"] = "intervene"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    """The model that made the attempts."""
    data: DataConfig = field(default_factory=DataConfig)
    """data.path: hard.jsonl of a hard_set stage; besides it limit, chat_template and template_kwargs are
    used."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    leak: Leak = "anywhere"
    """A proposal that gives the answer away is dropped. anywhere: it holds the gold answer, as a number or
    word of its own. stated: in a box or after "answer is" alone; for answers that any step may happen to
    hold."""
    filter: Filter = "gain"
    """none: what can be read and does not leak the answer. success: and from which one continuation or more
    is right, as in the paper. gain: and from which more are than from the step it replaces."""
    select: Select = "best"
    """first: the first readable proposal of an attempt stands for it, and it alone is continued, as in the
    paper. best: all are, and the one with the highest gain (filter success: most successes) is taken."""
    num_continuations: int = 32
    """Of each prefix, for each arm of the filter."""
    continuation: SamplingConfig = field(default_factory=SamplingConfig)
    """max_new_tokens shrinks where the model's context ends sooner."""
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 16
    """Problems, with all their attempts, worked on at once; what is done is kept after each chunk."""

    def __post_init__(self) -> None:
        check_only_asked("intervene", "model", self.model)
        check_positive("intervene", self, "num_continuations", "chunk_size")
        if self.filter == "none" and self.select == "best":
            refuse("intervene", "select", "first, since filter none measures nothing", self.select)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
