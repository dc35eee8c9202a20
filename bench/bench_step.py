"""Time a whole RLVR step against TRL's GRPOTrainer with the same model, prompts, rewards and lengths.

    python -m bench.bench_step --model tiny-world/generator --data tiny-world/train.jsonl

Both generate 16 x 8 completions of at most 48 tokens, grade them with the same function and take one
optimiser step; the two take turns. The learning rate (1e-9) is too small for lengths to drift apart. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastrl.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.data.problems import load_problems
from fastrl.grading.pool import AnswerGrader
from fastrl.rewards.answer import AnswerReward
from fastrl.runtime.context import Context
from fastrl.runtime.run import environment
from fastrl.stages.build import build_rl
from fastrl.training.advantages import fill_advantages
from fastrl.training.parts import Parts
from fastrl.training.sample import sample_groups
from fastrl.training.update import update_policy

PROMPTS, GROUP, LENGTH, LEARNING_RATE = 16, 8, 48, 1e-9
SPREAD = {"median": statistics.median, "min": min, "max": max}


def fastrl_config(model: str, data: str, folder: str) -> RlConfig:
    return RlConfig(
        run=RunConfig(dir=folder),
        model=ModelConfig(path=model),
        data=DataConfig(path=data),
        rollout=RolloutConfig(num_prompts=PROMPTS, group_size=GROUP, max_new_tokens=LENGTH),
        reward=RewardConfig(functions=("answer",), weights=(1.0,)),
        train=TrainConfig(learning_rate=LEARNING_RATE),
    )


def fastrl_steps(context: Context[RlConfig], parts: Parts, steps: int, first: int) -> list[dict[str, float]]:
    """Take steps and return each one's seconds, in total and by phase, and its tokens."""
    times, run = [], context.run
    for step in range(first, first + steps):
        start = time.perf_counter()
        with run.time("weight_sync"):
            parts.engine.load_weights(parts.policy.named_weights(), version=step)
        sampled = sample_groups(context, parts, step, step * PROMPTS)
        fill_advantages(sampled.rollouts, parts.rewards, context.config, context.ranks)
        with run.time("update"):
            update_policy(context, parts, sampled.rollouts, step)
        tokens = sum(len(rollout.completion_ids) for rollout in sampled.rollouts)
        times.append({"step": time.perf_counter() - start, **run.seconds, "tokens": tokens})
        run.seconds.clear()
    return times


def trl_steps(model: str, data: str, steps: int) -> list[dict[str, float]]:
    """Train with TRL's GRPOTrainer and return the seconds of each step but the first."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append({"step": time.perf_counter() - self.start})

    rows = [
        {"prompt": p.messages, "solution": p.solution} for p in load_problems(DataConfig(path=data))[:512]
    ]
    with AnswerGrader(num_workers=1, timeout_s=5.0) as grader, tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[AnswerReward(grader)],
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
            callbacks=[Clock()],
            args=GRPOConfig(
                output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=PROMPTS * GROUP,
                logging_steps=1000,
                num_generations=GROUP, max_completion_length=LENGTH, learning_rate=LEARNING_RATE,
                save_strategy="no",
                use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(), report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=False,
            ),
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    return times[1:]


def summary(times: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(t[key] for t in times), 4) for key in times[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed steps per trainer and round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = fastrl_config(options.model, options.data, folder + "/run")
        context, parts = Context.start(config), build_rl(config)
        with parts.grader:
            fastrl_steps(context, parts, 2, 0)
            for number in range(options.rounds):
                ours += fastrl_steps(context, parts, options.steps, number * options.steps)
                theirs += trl_steps(options.model, options.data, options.steps)
    ratios = [t["step"] / o["step"] for o, t in zip(ours, theirs, strict=True)]
    result = {
        "bench": "step",
        "prompts": PROMPTS, "group_size": GROUP, "max_new_tokens": LENGTH,
        "fastrl_s": summary(ours), "trl_s": summary(theirs),
        "trl_over_fastrl": {name: round(of(ratios), 2) for name, of in SPREAD.items()},
        "environment": environment(),
    }  # fmt: skip
    print(f"fastrl {summary(ours)}\ntrl    {summary(theirs)}")
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
