"""Time the uplift reward's executor phase in several ways, with requests and tokens per step.

    python -m bench.bench_uplift --world tiny-world
        [--planner planner --executor executor --data math-train.jsonl]

    one at a time    one request per run, each sent after the previous answer, and a new baseline for every
                     trace (as a client of a served model does)
    batched          the same requests in one call, without shared prompts
    shared           the same as prefix trees: runs share their trace, traces of a problem its question
    cached           shared, with one baseline per problem, on problems that are new to the run
    cached, later    the same in later epochs

All ways use the same model, grader, traces and numbers of runs (1 + 3 with a trace, 3 without) and take turns
in every round. By default the planner is the world's generator and the executor its receiver. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.harness import finish
from fastrl.config import DataConfig, ExecutorConfig, UpliftConfig
from fastrl.data import Problem, load_problems, render_prompt, reward_columns
from fastrl.engine.tree.engine import TorchEngine
from fastrl.grading import AnswerGrader
from fastrl.methods.tracelift.executor import Answer, Executor, ExecutorRequest
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.tracelift.verifiers import MathVerifier
from fastrl.runtime.seeding import seed_of
from fastrl.types import PrefixTree, SamplingParams

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
COUNTED = ("requests", "prefill_tokens", "decode_tokens", "kv_tokens_read")


class OneAtATime(Executor):
    """Executor with one engine call per run."""

    def _ask(self, requests: Sequence[ExecutorRequest]) -> list[list[Answer]]:
        ask = super()._ask
        return [[ask([single])[0][0] for single in runs_of(request)] for request in requests]


class Batched(Executor):
    """Executor with one engine call for all runs; nothing is shared."""

    def _ask(self, requests: Sequence[ExecutorRequest]) -> list[list[Answer]]:
        answers = iter(super()._ask([single for request in requests for single in runs_of(request)]))
        return [[next(answers)[0] for _ in range(request.num_samples)] for request in requests]

    def _trees(self, requests: Sequence[ExecutorRequest]) -> tuple[list[PrefixTree], list[tuple[int, int]]]:
        trees = [
            PrefixTree(
                prompt_ids=self._prompt_ids(request.question, request.trace),
                branches=[self._branch(request, [])],
            )
            for request in requests
        ]
        return trees, [(tree, 0) for tree in range(len(trees))]


@dataclass(frozen=True, slots=True)
class Step:
    """Problems and traces of one step."""

    problems: list[Problem]
    texts: list[str]


def runs_of(request: ExecutorRequest) -> list[ExecutorRequest]:
    return [
        replace(request, num_samples=1, seed=seed_of(request.seed, j)) for j in range(request.num_samples)
    ]


def steps_of(planner: Path, data: Path, num_steps: int, prompts: int, group_size: int) -> list[Step]:
    engine = TorchEngine.from_pretrained(str(planner), dtype=DTYPE, device=DEVICE)
    problems = load_problems(DataConfig(path=str(data), limit=num_steps * prompts))
    steps = []
    for number in range(num_steps):
        own = problems[number * prompts : (number + 1) * prompts]
        prompts_ids = [render_prompt(engine.tokenizer, problem.messages) for problem in own]
        seeds = [seed_of("bench", number, i) for i in range(len(own))]
        written = engine.generate(prompts_ids, SamplingParams(max_new_tokens=48), seeds=seeds, n=group_size)
        texts = [completion.text for samples in written for completion in samples]
        steps.append(Step([problem for problem in own for _ in range(group_size)], texts))
    return steps


def call(reward: UpliftReward, step: Step, number: int) -> list[float | None]:
    return reward(
        prompts=[problem.messages for problem in step.problems],
        completions=step.texts,
        trainer_state=SimpleNamespace(global_step=number),
        **reward_columns(step.problems),
    )


def measure(ways: dict[str, UpliftReward], steps: Sequence[Step], rounds: int) -> list[dict[str, Any]]:
    """Time every way on every step, in turn; `cached` starts each round without baselines."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counted: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        ways["cached"].executor._cache.clear()
        for i, step in enumerate(steps):
            for name, reward in ways.items():
                before = asdict(reward.executor.engine.stats())
                began = time.perf_counter()
                call(reward, step, i)
                took = time.perf_counter() - began
                if number:  # the first round warms up
                    seconds[name].append(took)
                    after = asdict(reward.executor.engine.stats())
                    counted[name].append({field: after[field] - before[field] for field in COUNTED})
    return [
        {
            "way": name,
            "step_s": statistics.median(seconds[name]),
            "min_s": min(seconds[name]),
            **{field: statistics.mean(counts[field] for counts in counted[name]) for field in COUNTED},
        }
        for name in ways
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--planner", default="generator", help="folder in the world")
    parser.add_argument("--executor", default="receiver", help="folder in the world")
    parser.add_argument("--data", default="train.jsonl", help="file in the world")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    world: Path = given.world
    planner, data = world / given.planner, world / given.data
    steps = steps_of(planner, data, given.steps, given.prompts, given.group_size)
    executor = ExecutorConfig(
        system="", prompt="{question}\n", prompt_with_trace="{question}\n{trace}", begin="", max_new_tokens=32
    )
    resampled = UpliftConfig(form="uplift", baseline="resampled", baseline_repeats=3, executor=executor)
    cached = replace(resampled, baseline="cached")
    engine = TorchEngine.from_pretrained(str(world / given.executor), dtype=DTYPE, device=DEVICE)
    with AnswerGrader(num_workers=1, extraction="last_number") as grader:
        ways = {
            name: UpliftReward(kind(engine, executor, MathVerifier(grader)), config, None, seed=0)
            for name, kind, config in (
                ("one at a time", OneAtATime, resampled),
                ("batched", Batched, resampled),
                ("shared", Executor, resampled),
                ("cached", Executor, cached),
                ("cached, later", Executor, cached),
            )
        }
        results = measure(ways, steps, given.rounds)
    slowest = results[0]["step_s"]
    print(f"{'':16}{'s/step':>9}{'x':>7}{'requests':>10}{'prefilled':>11}{'decoded':>9}{'KV read':>11}")
    for row in results:
        print(
            f"{row['way']:16}{row['step_s']:9.3f}{slowest / row['step_s']:7.1f}{row['requests']:10.0f}"
            f"{row['prefill_tokens']:11.0f}{row['decode_tokens']:9.0f}{row['kv_tokens_read']:11.0f}"
        )
    shape = {"prompts": given.prompts, "group_size": given.group_size, "repeats": 3, "baseline_repeats": 3}
    finish("uplift", [shape | row for row in results], given.out)


if __name__ == "__main__":
    main()
