"""Builds fastrl's rewards for other trainers, from a model path and options.

    transfer = transfer_reward("receiver/", tokenizer, max_new_tokens=512, num_cuts=2)
    GRPOTrainer(model, [answer_reward(), transfer], ...)   # the dataset has a column `solution`

Rewards have TRL's signature of reward functions: reward(prompts, completions, completion_ids, **columns).
"""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoTokenizer

from fastrl.config import (
    AnswerConfig,
    EngineConfig,
    ExecutorConfig,
    PromptedConfig,
    RunConfig,
    TransferConfig,
    UpliftConfig,
)
from fastrl.engine.build import build_engine, choose_device
from fastrl.grading import AnswerGrader
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.methods.tracelift.build import build_executor
from fastrl.methods.tracelift.rubric import RubricScorer
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.policy.model import compute_dtype
from fastrl.policy.source import model_source
from fastrl.rewards import AnswerReward, FormatReward

Device = Literal["auto", "cpu", "cuda"]
ANSWER_WORKERS, ANSWER_TIMEOUT_S = 2, 5.0


def answer_reward(
    *, answer_workers: int = ANSWER_WORKERS, answer_timeout_s: float = ANSWER_TIMEOUT_S
) -> AnswerReward:
    """Build a reward of 1 if the stated answer equals the column `solution`, else 0.

    Args:
        answer_workers: number of grading processes.
        answer_timeout_s: timeout per answer, in seconds.
    """
    return AnswerReward(AnswerGrader(answer_workers, answer_timeout_s))


def format_reward(*, pattern: str | None = None) -> FormatReward:
    """Build a reward of 1 if the completion matches `pattern`, else 0. None: one boxed answer at the end."""
    return FormatReward(pattern)


def transfer_reward(
    receiver: str,
    tokenizer: Any,
    *,
    max_new_tokens: int,
    seed: int = 0,
    engine: EngineConfig | None = None,
    device: Device = "auto",
    answer_workers: int = ANSWER_WORKERS,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    **options: Any,
) -> TransferReward:
    """Build the transfer reward: the fraction of a frozen receiver's continuations that reach `solution`.

    Args:
        receiver: folder or hub name of the frozen model.
        tokenizer: the policy's tokenizer, or its folder or hub name.
        max_new_tokens: longest completion (TRL's max_completion_length).
        seed: seed of cuts and continuations.
        engine: options of the receiver's engine; None: the embedded engine.
        options: fields of TransferConfig, such as num_cuts, num_continuations, temperature, mode.
    Raises:
        TypeError: an unknown option.   ValueError: an invalid value.
    """
    config = TransferConfig(receiver=PromptedConfig(path=receiver), **options)
    if isinstance(tokenizer, str):
        tokenizer = AutoTokenizer.from_pretrained(
            model_source(tokenizer), trust_remote_code=config.receiver.trust_remote_code
        )
    where = choose_device(RunConfig(device=device))
    grader = AnswerGrader(answer_workers, answer_timeout_s)
    built = build_engine(config.receiver, engine or EngineConfig(), where)
    return TransferReward(built, tokenizer, grader, config, max_new_tokens=max_new_tokens, seed=seed)


def uplift_reward(
    executor: str,
    *,
    seed: int = 0,
    engine: EngineConfig | None = None,
    device: Device = "auto",
    executor_options: dict[str, Any] | None = None,
    answer_workers: int = ANSWER_WORKERS,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    **options: Any,
) -> UpliftReward:
    """Build the uplift reward: how much a completion, used as a trace, helps a frozen executor.

    The dataset needs the columns `question`, and `solution` (math) or `tests` (code).

    Args:
        executor: folder or hub name of the frozen model.
        engine: options of the executor's engine; None: the embedded engine.
        executor_options: fields of ExecutorConfig, such as task, prompt_with_trace, max_new_tokens.
        options: fields of UpliftConfig, such as form, reward_model, repeats, baseline_repeats.
    Raises:
        TypeError: an unknown option.   ValueError: an invalid value.
    """
    executor_config = ExecutorConfig(model=PromptedConfig(path=executor), **(executor_options or {}))
    config = UpliftConfig(executor=executor_config, **options)
    if config.needs_quality and not config.reward_model:
        raise ValueError(f"[uplift] reward_model: expected a folder, as form is {config.form}, got ''")
    where = choose_device(RunConfig(device=device))
    scorer = None
    if config.needs_quality:
        dtype = compute_dtype(executor_config.model, where)
        scorer = RubricScorer(RubricModel.load(config.reward_model, where, dtype))
    answer = AnswerConfig(workers=answer_workers, timeout_s=answer_timeout_s)
    built = build_executor(executor_config, engine or EngineConfig(), where, answer)
    return UpliftReward(built, config, scorer, seed)
