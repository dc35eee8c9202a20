"""Options of a frozen executor: the model that answers from a trace, its prompts, and the program sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrl.config.base import PromptedConfig, check_at_least, check_positive, refuse, take_prompted
from fastrl.config.engine import ReceiverEngineConfig
from fastrl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramConfig:
    """Limits of the sandbox that runs generated programs."""

    num_workers: int = 2
    """Number of tests that run at once."""
    timeout_s: float = 2.0
    """Wall-clock and CPU seconds per test; then the whole process tree is killed."""
    batch_s: float = 300.0
    """Seconds shared by all tests of a batch that take longer than 0.25 s. Tests that are not done by then
    count as timeouts."""
    memory_mib: int = 1024
    """Memory limit of a program with its child processes, in MiB."""
    max_processes: int = 32
    """Most processes and threads of one program."""
    output_kib: int = 256
    """Limit in KiB of a program's output, and of each file that it writes; raised to four times the test's
    expected output if that is more."""
    max_tests: int = 8
    """Run only the first `max_tests` tests of a problem; the first time-out ends them."""
    float_tolerance: float = 0.0
    """Tolerance, absolute or relative, between numbers of which one is written as a float; 1e-6 is usual. 0:
    outputs must agree word by word, return values exactly."""
    numpy: bool = False
    """Let programs import numpy: its folders become visible in the sandbox."""
    run_unsandboxed_code: bool = False
    """Run programs even if no sandbox works. Generated code then runs with your permissions."""

    def __post_init__(self) -> None:
        check_positive(
            "program", self, "num_workers", "timeout_s", "batch_s", "memory_mib", "max_processes",
            "output_kib", "max_tests",
        )  # fmt: skip
        check_at_least("program", self, 0, "float_tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """A frozen executor: its model, engine, prompts and sampling."""

    model: PromptedConfig = field(default_factory=PromptedConfig)
    """The frozen executor."""
    engine: ReceiverEngineConfig = field(default_factory=ReceiverEngineConfig)
    task: Task = "math"
    """math: the executor's answer is graded. code: it writes a program, which runs against tests."""
    system: str | None = None
    """System prompt; null: the task's default, "": none."""
    prompt: str | None = None
    """Template of the prompt without a trace; has {question}. null: the task's default."""
    prompt_with_trace: str | None = None
    """Template of the prompt with a trace; has {question} and {trace}. null: the task's default."""
    begin: str | None = None
    """Text that the executor's answer is forced to begin with; null: the task's default, "": none."""
    temperature: float = 0.5
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling, in (0, 1]; 1: off."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    stop: tuple[str, ...] = ()
    """Stop strings, in addition to the tokenizer's end token."""
    max_question_chars: int = 2500
    """Longer questions are truncated."""
    max_trace_chars: int = 2000
    """Longer traces are truncated."""
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
