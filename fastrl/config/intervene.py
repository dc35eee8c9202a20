"""Options of the intervene stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    CheckpointConfig,
    DataConfig,
    RunConfig,
    check_at_least,
    check_frozen,
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
    """Segmentation of a rollout into numbered substeps: at blank lines, else at lines, else at sentences. The
    paper's: min_chars 1, min_steps 1, a max_steps beyond any rollout's, and split_formulas."""

    min_chars: int = 24
    """A shorter piece is merged into the one before it. 1: no merging."""
    min_steps: int = 3
    """If a separator gives fewer steps, the next finer separator is used."""
    max_steps: int = 200
    """If there are more steps, neighbours are merged evenly."""
    split_formulas: bool = False
    """Split inside formulas, code blocks and LaTeX environments too."""

    def __post_init__(self) -> None:
        check_positive("steps", self, "min_chars", "min_steps", "max_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalConfig:
    """Prompts and sampling of proposals: the first wrong step of an attempt, and a step to replace it."""

    form: Literal["full", "short"] = "full"
    """full: the model first solves the problem with the reference solution, then verifies the attempt in
    three parts. short: it reads problem, reference and attempt, and replies in JSON only."""
    num_samples: int = 4
    """Proposals per attempt."""
    temperature: float = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: float = 0.8
    """Nucleus sampling, in (0, 1]; 1: off."""
    top_k: int = 20
    """Sample from the k most likely tokens; 0: off."""
    solve_tokens: int = 16384
    """Longest guided solution of the problem, in tokens (form full)."""
    verify_tokens: int = 8192
    """Longest verification of an attempt, in tokens."""
    max_conversation_tokens: int = 30000
    """Longest conversation before the verification. The guided solution is truncated to fit; an attempt that
    still does not fit is counted and skipped."""
    solve_template: str | None = None
    """First turn of form full, with {question} and {reference}; null: the built-in one."""
    verify_template: str | None = None
    """Turn that asks for the verification, with {steps}, and in form short {question} and {reference} too; it
    may have {answer}, the gold answer. null: the form's default."""
    step_template: str = "**Substep {number}:**\n{step}"
    """Format of a substep in the prompt, with {number} and {step}."""
    between_steps: str = "\n\n"
    """Separator between substeps in the prompt."""

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
    """Interventions: a step that replaces the first wrong step of a failed attempt (InT, arXiv
    2601.14209)."""

    stage: Literal["intervene"] = "intervene"
    run: RunConfig = field(default_factory=RunConfig)
    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    """The model that wrote the attempts."""
    data: DataConfig = field(default_factory=DataConfig)
    """data.path: hard.jsonl of a hard_set stage. Of the other options only limit, chat_template and
    chat_template_kwargs are used."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    leak: Leak = "anywhere"
    """Drop proposals that leak the gold answer. anywhere: it appears as a separate number or word. stated:
    only if boxed or after "answer is"; use it for answers that a step may contain by chance."""
    filter: Filter = "gain"
    """Proposals to keep. none: all that parse and do not leak. success: also at least one continuation is
    correct, as in the paper. gain: also more continuations are correct than from the step it replaces."""
    select: Select = "best"
    """first: continue only the first proposal of an attempt that parses, as in the paper. best: continue all,
    and take the one with the highest gain (filter success: most successes)."""
    num_continuations: int = 32
    """Continuations per prefix: of each proposal, and with filter gain of the original step."""
    continuation: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampling of continuations; max_new_tokens is reduced to the model's context length."""
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    chunk_size: int = 16
    """Problems, with all their attempts, processed at once. Results are saved after each chunk."""

    def __post_init__(self) -> None:
        check_frozen("intervene", "model", self.model)
        check_positive("intervene", self, "num_continuations", "chunk_size")
        if self.filter == "none" and self.select == "best":
            refuse("intervene", "select", "first, since filter none measures nothing", self.select)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
