"""fastrl's rewards in verl: compute_score for answers, and a reward manager that batches requests.

    reward.custom_reward_function.path=pkg://fastrl.integrations.verl_rewards        # compute_score

    reward.reward_manager.name=fastrl reward.num_workers=1                           # FastRewardManager
    +reward.custom_reward_function.reward_kwargs.answer.weight=1
    +reward.custom_reward_function.reward_kwargs.transfer.receiver=receiver/

Each worker of the reward loop loads its own receiver: use one worker unless there is memory for more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from fastrl.config import refuse
from fastrl.integrations.batcher import Batcher
from fastrl.integrations.rewards import answer_reward, format_reward, transfer_reward, uplift_reward
from fastrl.runtime.seeding import seed_of

Score = dict[str, float]


@cache
def _answer() -> Any:
    return answer_reward()


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **others: Any
) -> Score:
    """Return score 1 if the answer stated in solution_str equals ground_truth, else 0; verl's signature."""
    (score,) = _answer()([""], [solution_str], solution=[ground_truth])
    return {"score": float(score), "acc": float(score)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout."""

    prompt: Any
    """The prompt's messages."""
    completion: str
    completion_ids: list[int]
    step: int
    columns: dict[str, Any]
    """solution, and the entries of extra_info, such as question."""

    @property
    def place(self) -> int:
        """Return the rollout's id for random draws, a hash, since verl passes no rollout number."""
        return seed_of("verl", str(self.prompt), *self.completion_ids)


@dataclass(frozen=True, slots=True)
class Weighted:
    function: Callable[..., list[float | None]]
    weight: float


def score(rewards: dict[str, Weighted], samples: Sequence[Sample]) -> list[Score]:
    """Return each sample's weighted sum of rewards and the single rewards; NaN for a reward of None.

    Raises:
        ValueError: all rewards of a sample are None.
    """
    ordered = sorted(samples, key=lambda sample: (str(sample.prompt), sample.place))  # groups together
    columns = {name: [sample.columns.get(name) for sample in ordered] for name in ordered[0].columns}
    values = {
        name: reward.function(
            prompts=[sample.prompt for sample in ordered],
            completions=[sample.completion for sample in ordered],
            completion_ids=[sample.completion_ids for sample in ordered],
            trainer_state=SimpleNamespace(global_step=max(sample.step for sample in ordered)),
            rollout_ids=[sample.place for sample in ordered],
            **columns,
        )
        for name, reward in rewards.items()
    }
    found: dict[int, Score] = {}
    for row, sample in enumerate(ordered):
        own = {name: column[row] for name, column in values.items()}
        given = [rewards[name].weight * value for name, value in own.items() if value is not None]
        if not given:
            raise ValueError(f"[verl] rewards: expected at least one number, got None from {list(own)}")
        single = {name: float("nan") if value is None else value for name, value in own.items()}
        found[id(sample)] = {"score": sum(given), **single}
    return [found[id(sample)] for sample in samples]


def build(functions: dict[str, dict[str, Any]], tokenizer: Any, longest: int) -> dict[str, Weighted]:
    """Build rewards by name from their options; each also takes `weight`, by default 1.

    Raises:
        ValueError: no reward, or an unknown name.   TypeError: an unknown option.
    """
    makers: dict[str, Callable[..., Any]] = {
        "answer": answer_reward,
        "format": format_reward,
        "transfer": lambda receiver, **options: transfer_reward(
            receiver, tokenizer, **{"max_new_tokens": longest, **options}
        ),
        "uplift": uplift_reward,
    }
    if not functions or not functions.keys() <= makers.keys():
        refuse("verl", "reward_kwargs", f"rewards among {', '.join(makers)}", list(functions))
    built = {}
    for name, options in functions.items():
        given = dict(options)
        built[name] = Weighted(weight=float(given.pop("weight", 1.0)), function=makers[name](**given))
    return built


@register("fastrl")
class FastRewardManager(RewardManagerBase):  # type: ignore[misc]
    """Scores concurrent requests of verl's reward loop, each for one rollout, as one batch."""

    def __init__(
        self, config: Any, tokenizer: Any, compute_score: Any, reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:  # fmt: skip
        from omegaconf import OmegaConf

        super().__init__(config, tokenizer, compute_score)
        named: Any = OmegaConf.to_container(
            OmegaConf.create(config.reward.custom_reward_function), resolve=True
        )
        functions = named.get("reward_kwargs") or {}
        rewards = build(functions, tokenizer, int(config.actor_rollout_ref.rollout.response_length))
        self.batcher: Batcher[Sample, Score] = Batcher(lambda samples: score(rewards, samples))

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Score the last sequence of `data`: {"reward_score", "reward_extra_info"}."""
        found = await self.batcher(self._sample(data[-1:]))
        return {"reward_score": found["score"], "reward_extra_info": found}

    def _sample(self, data: Any) -> Sample:
        item = data[0]
        ids, mask = item.batch["responses"], item.batch["attention_mask"]
        valid = ids[: int(mask[-len(ids) :].sum())]
        fields = item.non_tensor_batch
        columns = dict(fields.get("extra_info") or {})
        columns["solution"] = fields["reward_model"]["ground_truth"]
        prompt = fields.get("raw_prompt")
        if prompt is None:
            refuse("verl", "raw_prompt", "messages (data.return_raw_chat=True)", None)
        return Sample(
            prompt=list(prompt),
            completion=self.tokenizer.decode(valid, skip_special_tokens=True),
            completion_ids=valid.tolist(),
            step=int(data.meta_info.get("global_steps", 0)),
            columns=columns,
        )
