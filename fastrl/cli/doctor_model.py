"""fastrl doctor MODEL: sample from a model with an engine and compare log-probs with the trainer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from transformers.utils.logging import disable_progress_bar

from fastrl.check import check_fits
from fastrl.check.rl import check_engine
from fastrl.cli.arguments import asks_help, take_positional
from fastrl.config import DataConfig, EngineConfig, ModelConfig, RunConfig, check_positive, refuse
from fastrl.config.flags import parse_flags
from fastrl.data import Problem, load_problems, render_prompt
from fastrl.data.templates import use_template
from fastrl.engine.build import build_engine, choose_device
from fastrl.policy.model import Policy, compute_dtype
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.seeding import seed_of
from fastrl.tools.doctor.machine import Line, Status, machine_report, section
from fastrl.training.drift import Drift
from fastrl.types import SamplingParams, TrainSequence

QUESTIONS = (
    "What is 17 + 25? Think in small steps.",
    "A train covers 120 km in an hour and a half. How fast is it?",
    "Name a prime number between 90 and 100.",
    "Seven friends share 42 apples evenly. How many does each one get?",
    "Which is larger, 3/7 or 4/9? Say why.",
    "How many edges has a cube?",
    "Write 2024 as a product of primes.",
    "A coin is thrown three times. How likely are exactly two heads?",
)
NORMAL = {torch.float32: (1e-4, 1e-2), torch.bfloat16: (5e-2, 2.0)}
"""Largest normal mean and maximum of |log p_trainer - log p_engine|, in nats, by dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """Sample from the model with an engine, score the samples with the trainer and compare the log-probs."""

    data: DataConfig = field(default_factory=DataConfig)
    """Without data.path, built-in questions are used."""
    num_prompts: int = 8
    num_samples: int = 2
    """Completions per prompt."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    tokens_per_microbatch: int = 4096
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        check_positive(
            "doctor", self, "num_prompts", "num_samples", "max_new_tokens", "temperature",
            "tokens_per_microbatch",
        )  # fmt: skip
        if not self.data.path and self.num_prompts > len(QUESTIONS):
            refuse("doctor", "num_prompts", f"<= {len(QUESTIONS)}, or data.path", self.num_prompts)


def examine(arguments: list[str]) -> int:
    """Print the checks of the machine and of the model; return 0 if all pass, else 1."""
    model = "MODEL" if asks_help(arguments) else take_positional(arguments, "doctor", "MODEL")
    options = parse_flags(DoctorOptions, None, arguments, prog="fastrl doctor MODEL")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    healthy, text = machine_report()
    print(text)
    lines = list(drift_lines(model, options))
    print("\n".join(section("drift", lines)))
    return 0 if healthy and not any(line.status == "fail" for line in lines) else 1


def drift_lines(path: str, options: DoctorOptions) -> list[Line]:
    """Check the model, measure the drift, and return the findings.

    Raises: ValueError, FileNotFoundError: the model, the engine or the file is invalid.
    """
    model = ModelConfig(path=path, dtype=options.dtype, trust_remote_code=options.trust_remote_code)
    problems = read_problems(options)
    check_engine("engine", options.engine)
    room = options.engine.max_batch_tokens
    check_fits(
        "doctor.MODEL", model, problems, options.max_new_tokens, "max_new_tokens", room, data=options.data
    )
    device = choose_device(RunConfig(device=options.device))
    metrics = measure_drift(model, problems, options, device)
    return drift_findings(metrics, compute_dtype(model, device), options.engine.kind)


def read_problems(options: DoctorOptions) -> list[Problem]:
    if options.data.path:
        return load_problems(replace(options.data, limit=options.data.limit or options.num_prompts))
    return [
        Problem(index=i, messages=[{"role": "user", "content": question}], solution="")
        for i, question in enumerate(QUESTIONS[: options.num_prompts])
    ]


def measure_drift(
    model: ModelConfig, problems: Sequence[Problem], options: DoctorOptions, device: torch.device
) -> dict[str, float]:
    """Sync the trainer's weights to the engine, sample, and return the drift/... metrics of the samples."""
    policy = Policy.load(model, device)
    use_template(policy.tokenizer, options.data)
    engine = build_engine(model, options.engine, device, options.data)
    engine.load_weights(policy.named_weights(), 0)
    prompts = [render_prompt(policy.tokenizer, problem.messages) for problem in problems]
    sampling = SamplingParams(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    seeds = [seed_of(options.seed, "doctor", i) for i in range(len(prompts))]
    sampled = engine.generate(prompts, sampling, seeds=seeds, n=options.num_samples)
    found = [(prompt, completion) for prompt, of in zip(prompts, sampled, strict=True) for completion in of]
    sequences = [
        TrainSequence(
            [*prompt, *completion.token_ids], [False] * len(prompt) + [True] * len(completion.token_ids)
        )
        for prompt, completion in found
    ]
    drift = Drift()
    for places in policy.microbatches(sequences, options.tokens_per_microbatch):
        packed = policy.pack([sequences[place] for place in places])
        trainer = policy.logprobs(packed, options.temperature)
        reported = [logprob for place in places for logprob in found[place][1].logprobs]
        engine_logprobs = torch.tensor(reported, device=policy.device)
        counted = torch.ones_like(trainer, dtype=torch.bool)
        drift.add(trainer, engine_logprobs, counted, packed.row_cu_seqlens)
    return drift.metrics(Ranks()) | {
        "num_tokens": float(sum(len(completion.token_ids) for _, completion in found))
    }


def drift_findings(metrics: dict[str, float], dtype: torch.dtype, kind: str) -> list[Line]:
    """Rate the drift: ok up to NORMAL, warn up to ten times as much, else fail."""
    lines = [Line("info", "compared", f"{metrics['num_tokens']:.0f} tokens that the {kind} engine sampled")]
    spelled = str(dtype).removeprefix("torch.")
    for name, most in zip(("mean", "max"), NORMAL[dtype], strict=True):
        value = metrics[f"drift/log_ratio/{name}"]
        status: Status = "ok" if value <= most else "warn" if value <= 10 * most else "fail"
        finding = f"|log p trainer - log p engine| {value:.2g} nats; normal in {spelled}: up to {most:g}"
        lines.append(Line(status, f"difference, {name}", finding))
    worth = f"{metrics['drift/ess_tokens']:.4f} of tokens, {metrics['drift/ess_sequences']:.4f} of sequences"
    lines.append(
        Line("info", "effective sample", f"{worth}; beyond 2x {metrics['drift/share_beyond_2x']:.2%}")
    )
    return lines
