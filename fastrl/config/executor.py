"""A frozen executor: a model that reads a problem and a trace and answers, and how its answer is checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config.base import PromptedConfig, check_at_least, check_positive, refuse, take_prompted
from fastrl.config.engine import ReceiverEngineConfig
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramConfig:
    """How generated programs run: in a sandbox, within limits."""

    num_workers: int = 2
    """Programs that run at once."""
    timeout_s: float = 2.0
    """Wall-clock and CPU seconds of one test; then the whole process tree is killed."""
    memory_mib: int = 1024
    """Of one program and all that it starts."""
    max_processes: int = 32
    """Processes and threads of one program."""
    output_kib: int = 256
    """What a program may print, and the largest file it may write; four times what its test expects, if that
    is more."""
    max_tests: int = 8
    """Tests of a problem that are run: the first ones. The first time-out ends them."""
    float_tolerance: float = 0.0
    """Numbers, one of them written as a float, are equal up to this, absolute or relative; 1e-6 is usual. 0:
    outputs agree word by word, values of calls exactly."""
    numpy: bool = False
    """Programs may import numpy: its folders become visible in the sandbox."""
    run_unsandboxed_code: bool = False
    """Run programs where no sandbox works: whatever a model writes then has your rights."""

    def __post_init__(self) -> None:
        check_positive(
            "program", self, "num_workers", "timeout_s", "memory_mib", "max_processes", "output_kib",
            "max_tests",
        )  # fmt: skip
        check_at_least("program", self, 0, "float_tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """Who consumes a trace, in which words it is asked, and how its answer is checked."""

    model: PromptedConfig = field(default_factory=PromptedConfig)
    """The frozen executor."""
    engine: ReceiverEngineConfig = field(default_factory=ReceiverEngineConfig)
    task: Task = "math"
    """math: it answers, and the answer is graded. code: it writes a program, which runs against tests."""
    system: str | None = None
    """System prompt; null: the task's own, "": none."""
    prompt: str | None = None
    """How it is asked without a trace, with {question}; null: the task's own."""
    prompt_with_trace: str | None = None
    """How it is asked with a trace, with {question} and {trace}; null: the task's own."""
    begin: str | None = None
    """How its answer begins; null: the task's own, "": as it likes."""
    temperature: float = 0.5
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Strings that end an answer, beside the tokenizer's end token."""
    max_question_chars: int = 2500
    """A longer question is cut."""
    max_trace_chars: int = 2000
    """A longer trace is cut."""
    program: ProgramConfig = field(default_factory=ProgramConfig)

    def __post_init__(self) -> None:
        take_prompted("executor", self, "model")
        check_positive("executor", self, "max_new_tokens", "max_question_chars", "max_trace_chars")
        check_at_least("executor", self, 0, "temperature")
        if not 0 < self.top_p <= 1:
            refuse("executor", "top_p", "a number in (0, 1]", self.top_p)
        for name, needed in (("prompt", ("{question}",)), ("prompt_with_trace", ("{question}", "{trace}"))):
            text = getattr(self, name)
            if text is not None and not all(part in text for part in needed):
                refuse("executor", name, f"text with {' and '.join(needed)}", text)
