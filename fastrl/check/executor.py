"""Checks of the executor and the reward model before they are loaded: paths, lengths, sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastrl.check.model import check_fits, load_tokenizer
from fastrl.config import ExecutorConfig, ProgramConfig, RlConfig, refuse
from fastrl.config.engines import engine_table
from fastrl.config.files import data_files
from fastrl.data.problems import Problem, program_columns, reward_row
from fastrl.data.prompts import render_prompt_text
from fastrl.grading.programs.cases import ProgramTests
from fastrl.grading.programs.runner import Outcome, ProgramRunner
from fastrl.grading.programs.sandbox import seen_through
from fastrl.methods.tracelift.executor_prompts import ExecutorPrompts
from fastrl.methods.tracelift.rubric_model import read_rubric


def check_uplift(config: RlConfig, problems: Sequence[Problem]) -> None:
    """Raise ValueError if the rewards uplift or rubric lack a usable executor or reward model."""
    executor, reward_model = config.uplift.executor, config.uplift.reward_model
    if config.uses_uplift:
        if not executor.model.path:
            refuse("uplift", "executor.model.path", "a model folder, since reward.functions has uplift", "")
        entry = engine_table(config)["executor"]
        trace_tokens, room = config.rollout.max_new_tokens, entry.engine.max_batch_tokens
        check_executor(entry.model_section, executor, problems, trace_tokens, room, entry.section)
        if executor.task == "code":
            check_sandbox(executor.program, [str(file.path) for file in data_files(config)])
    if config.uses_rubric:
        if not reward_model:
            needs = f"form {config.uplift.form}" if config.uses_uplift else "reward.functions"
            refuse("uplift", "reward_model", f"the folder of one, since {needs} needs it", "")
        rubric = read_rubric(Path(reward_model))
        if rubric.task != executor.task:
            refuse("uplift", "reward_model", f"one of task {executor.task}", f"{reward_model}: {rubric.task}")


def check_executor(
    section: str,
    config: ExecutorConfig,
    problems: Sequence[Problem],
    trace_tokens: int,
    batch_tokens: int,
    engine: str = "engine",
) -> None:
    """Raise ValueError if the executor is missing, its context is too short, or code problems lack tests.

    The context must hold the longest question, a trace of `trace_tokens` tokens and an answer. A trace is
    assumed to have as many tokens in the executor's vocabulary as in the policy's; a longer one fails in its
    step.
    """
    prompts = ExecutorPrompts(config)
    rows = [reward_row(problem) for problem in problems]
    with_prompts = [
        replace(problem, messages=prompts.messages(row["question"], "-"))
        for problem, row in zip(problems, rows, strict=True)
    ]
    new = min(trace_tokens, config.max_trace_chars) + config.max_new_tokens
    names = "the trace's tokens + executor.max_new_tokens"
    check_fits(section, config.model, with_prompts, new, names, batch_tokens, engine)
    if config.task == "code":
        for problem, row in zip(problems, rows, strict=True):
            try:
                ProgramTests.from_columns(program_columns(row, row["question"]))
            except ValueError as error:
                raise ValueError(f"[{section}] task: row {problem.index + 1}: {error}") from error


def check_sandbox(config: ProgramConfig, data: Sequence[str]) -> None:
    """Run a small program in the sandbox. Raises ValueError if it does not pass or could read the data."""
    for path in data:
        seen = None if config.run_unsandboxed_code else seen_through(path)
        if seen is not None:
            refuse("program", "sandbox", f"data outside {seen}, which programs see", path)
    with ProgramRunner(replace(config, num_workers=1)) as runner:
        (report,) = runner.run([("print(input())", ProgramTests(cases=(("1", "1"),)))])
    if report.outcome is not Outcome.PASSED:
        refuse("program", "sandbox", "one that runs a program", f"{report.outcome.value}: {report.detail}")


def executor_text(config: ExecutorConfig, problem: Problem) -> str:
    """Return the executor's prompt, with a placeholder for the trace, and the beginning of its answer."""
    prompts = ExecutorPrompts(config)
    messages = prompts.messages(reward_row(problem)["question"], "(the trace)")
    tokenizer = load_tokenizer("uplift.executor.model", config.model)
    return render_prompt_text(tokenizer, messages) + prompts.begin
