"""fastrl eval: evaluate a checkpoint's accuracy, faithfulness, diversity and transferability."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fastrl.check import check_fits
from fastrl.check.executor import check_executor, check_sandbox
from fastrl.check.faithfulness import check_faithfulness
from fastrl.cli.arguments import asks_help, take_positional
from fastrl.cli.eval_tables import results, show_faithfulness, show_metrics, show_transfer
from fastrl.config import (
    AnswerConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    ExecutorConfig,
    FaithfulnessConfig,
    RunConfig,
    check_at_least,
    check_positive,
    refuse,
)
from fastrl.config.flags import parse_flags
from fastrl.data import Problem, load_problems
from fastrl.engine.build import build_engine, choose_device
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import EvalResult, evaluate
from fastrl.grading import AnswerGrader
from fastrl.methods.rltr.transferability import TAUS, TransferResult, transferability
from fastrl.methods.tracelift.build import build_executor
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.methods.weak.build import build_judges, build_probes
from fastrl.methods.weak.labelled import Measured, measure
from fastrl.methods.weak.probes import probe
from fastrl.policy.checkpoint import latest_checkpoint
from fastrl.report.completion_progress import CompletionProgress, shown_completions
from fastrl.runtime.seeding import seed_of
from fastrl.training.sample import awake
from fastrl.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """Evaluate a checkpoint's accuracy and transferability to receivers, or a planner with an executor."""

    data: DataConfig = field(default_factory=DataConfig)
    num_samples: int = 16
    """Completions per problem."""
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Sample from the k most likely tokens; 0: off."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, in addition to the tokenizer's end token."""
    receiver: tuple[str, ...] = ()
    """Models that continue the cut completions, preferably ones that the policy was not trained with."""
    taus: tuple[float, ...] = TAUS
    """Positions of the cuts, as fractions of a completion's length."""
    num_cut: int = 4
    """Completions per problem that are cut."""
    num_continuations: int = 4
    """Continuations per cut."""
    slack_tokens: int = 256
    """A continuation gets the tokens that the cut leaves of max_new_tokens, plus this many."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Set executor.model.path to evaluate a planner: this model answers with its traces and without them."""
    trace_tag: str = "reasoning"
    """The trace is the text between <tag> and </tag>; without the tag, the whole completion."""
    out: str | None = None
    """Folder for results.json, completions.jsonl and faithfulness.jsonl. null: write no files."""
    faithfulness: FaithfulnessConfig = field(default_factory=FaithfulnessConfig)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)

    def __post_init__(self) -> None:
        check_positive("eval", self, "num_samples", "num_cut", "num_continuations", "max_new_tokens")
        check_at_least("eval", self, 0, "top_k")
        if not self.data.path:
            refuse("data", "path", "a file of problems", self.data.path)
        if self.executor.model.path and self.receiver:
            refuse("eval", "receiver", "none, since executor.model.path is set", self.receiver)
        if self.executor.model.path and self.faithfulness.enabled:
            refuse("faithfulness", "enabled", "false, since executor.model.path is set", True)
        if not self.faithfulness.enabled and self.faithfulness != FaithfulnessConfig():
            refuse("faithfulness", "enabled", "true, since other options of the section are set", False)

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
        )


def main(arguments: list[str]) -> int:
    """Parse the flags and evaluate the checkpoint."""
    checkpoint = "CHECKPOINT" if asks_help(arguments) else take_positional(arguments, "eval", "CHECKPOINT")
    run_eval(checkpoint, parse_flags(EvalOptions, None, arguments, prog="fastrl eval CHECKPOINT"))
    return 0


def run_eval(checkpoint: str, options: EvalOptions) -> dict[str, Any]:
    """Evaluate, print tables, write the results if options.out is set; return the content of results.json.

    Args:
        checkpoint: model folder, hub name, or run folder (its last checkpoint).
    """
    policy = model_config(resolve_checkpoint(checkpoint), options)
    if options.executor.model.path:
        return run_two_stage(policy, options)
    receivers = [model_config(path, options) for path in options.receiver]
    problems = load_problems(options.data)
    check_lengths(policy, receivers, problems, options)
    check_faithfulness(
        options.faithfulness, options.data, options.data.path, "eval.checkpoint", policy, options.engine,
        options.max_new_tokens,
    )  # fmt: skip
    device = choose_device(RunConfig(device=options.device))
    out = None if options.out is None else Path(options.out)
    grading = AnswerGrader.of(options.answer)
    with shown_completions() as progress, grading as grader:
        engine = progress.watch(build_engine(policy, options.engine, device, options.data))
        progress.doing = policy.path
        result = evaluate(
            engine,
            problems,
            grader,
            num_samples=options.num_samples,
            sampling=options.sampling,
            seed=options.seed,
            path=out and out / "completions.jsonl",
        )
        show_metrics(f"{policy.path} on {options.data.path}", result.metrics)
        measured = measure_faithfulness(engine, grader, options, device, policy.path, progress)
        transfers = {}
        for model in receivers:
            receiver = progress.watch(build_engine(model, options.engine, device))
            progress.doing = f"receiver {model.path}"
            transfers[model.path] = measure_transfer(receiver, engine, problems, result, grader, options)
            show_transfer(model.path, transfers[model.path])
    found = {
        "metrics": result.metrics | (measured.metrics if measured else {}),
        "num_correct": [problem.num_correct for problem in result.problems],
        "agreement": {pair: asdict(agreement) for pair, agreement in measured.agreements.items()}
        if measured
        else {},
        "transfer": {
            path: {name: asdict(own) for name, own in by_name.items()} for path, by_name in transfers.items()
        },
    }
    return results(policy.path, options, found, out)


def run_two_stage(planner: CheckpointConfig, options: EvalOptions) -> dict[str, Any]:
    """Evaluate a planner: sample its traces, then let the executor answer with and without them."""
    problems, tokens = load_problems(options.data), options.engine.max_batch_tokens
    check_fits(
        "eval.checkpoint", planner, problems, options.max_new_tokens, "max_new_tokens", tokens,
        data=options.data,
    )  # fmt: skip
    own = options.executor.engine
    room, where = (tokens, "engine") if own.kind == "same" else (own.max_batch_tokens, "executor.engine")
    check_executor("executor.model", options.executor, problems, options.max_new_tokens, room, where)
    if options.executor.task == "code":
        check_sandbox(options.executor.program, [options.data.path])
    device = choose_device(RunConfig(device=options.device))
    out = None if options.out is None else Path(options.out)
    with shown_completions() as progress:
        engine = progress.watch(build_engine(planner, options.engine, device, options.data))
        progress.doing = f"planner {planner.path}"
        completions = sample_traces(
            engine, problems, num_samples=options.num_samples, sampling=options.sampling, seed=options.seed
        )
        engine.sleep()  # its memory goes to the executor
        executor = build_executor(options.executor, options.engine, device, options.answer)
        progress.watch(executor.engine)
        progress.doing = f"executor {options.executor.model.path}"
        with closing(executor.verifier):
            result = two_stage(
                executor, problems, completions, trace_tag=options.trace_tag, seed=options.seed,
                path=out and out / "completions.jsonl",
            )  # fmt: skip
    title = f"{planner.path} with {options.executor.model.path} on {options.data.path}"
    show_metrics(title, result.metrics)
    found = {
        "metrics": result.metrics,
        "num_correct": [sum(a.checked.success for a in problem.answers) for problem in result.problems],
        "num_correct_alone": [
            sum(a.checked.success for a in problem.baseline) for problem in result.problems
        ],
    }
    return results(planner.path, options, found, out)


def resolve_checkpoint(checkpoint: str) -> str:
    """Return the path of a model; for a run folder, its last checkpoint."""
    folder = Path(checkpoint)
    if (folder / "metrics.jsonl").is_file() and not (folder / "config.json").is_file():
        latest = latest_checkpoint(folder / "checkpoints")
        if latest is None:
            refuse("eval", "CHECKPOINT", "a run folder with a checkpoint", checkpoint)
        return str(latest)
    return checkpoint


def model_config(path: str, options: EvalOptions) -> CheckpointConfig:
    return CheckpointConfig(path=path, dtype=options.dtype, trust_remote_code=options.trust_remote_code)


def check_lengths(
    policy: CheckpointConfig, receivers: list[CheckpointConfig], problems: list[Problem], options: EvalOptions
) -> None:
    """Check, before loading any model, that all exist and can hold prompts and completions."""
    tokens = options.engine.max_batch_tokens
    check_fits(
        "eval.checkpoint", policy, problems, options.max_new_tokens, "max_new_tokens", tokens,
        data=options.data,
    )  # fmt: skip
    for model in receivers:
        longest = options.max_new_tokens + options.slack_tokens
        check_fits("eval.receiver", model, problems, longest, "max_new_tokens + slack_tokens", tokens)


def measure_transfer(
    receiver: Engine,
    policy: Engine,
    problems: list[Problem],
    result: EvalResult,
    grader: AnswerGrader,
    options: EvalOptions,
) -> dict[str, TransferResult]:
    """Measure transferability with prefixes as cut, and with prefixes that end before the answer."""
    return {
        name: transferability(
            receiver,
            policy.tokenizer,
            problems,
            [samples[: options.num_cut] for samples in result.completions],
            grader,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            taus=options.taus,
            num_continuations=options.num_continuations,
            strip_answer=strip_answer,
            slack_tokens=options.slack_tokens,
        )
        for name, strip_answer in (("as_cut", False), ("answer_stripped", True))
    }


def measure_faithfulness(
    engine: Engine,
    grader: AnswerGrader,
    options: EvalOptions,
    device: torch.device,
    title: str,
    progress: CompletionProgress,
) -> Measured | None:
    """Measure faithfulness and diversity; None if disabled.

    The engine sleeps afterwards, so that judges and then receivers can use its memory.
    """
    own, seed = options.faithfulness, seed_of(options.seed, "faithfulness")
    probes = build_probes(own, options.data, options.data.path)
    if probes is None:
        engine.sleep()
        return None
    progress.doing = "faithfulness"
    probed = probe(engine, probes, grader, sampling=options.sampling, seed=seed)
    engine.sleep()
    judges = build_judges(own, device, seed)
    progress.doing = "judges of faithfulness"
    progress.watch_all(judge.engine for judge in judges.values())
    with awake([judge.engine for judge in judges.values()]):
        measured = measure(probed, probes, judges)
    show_faithfulness(f"{title} on {own.path or options.data.path}", measured.metrics)
    if options.out is not None:
        measured.write(Path(options.out) / "faithfulness.jsonl")
    return measured
