"""The transfer reward (RLTR, arXiv 2602.08489): can a frozen receiver finish what the policy began?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrl.config import TransferConfig
from fastrl.engine.protocol import Engine
from fastrl.rewards.answer import COUNTED_APART
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, TrainerState, group_indexes, mean
from fastrl.rewards.cuts import Cut, draw_tau
from fastrl.rewards.receiver import Continuation, Receiver
from fastrl.verify import AnswerGrader

PREFIX_END = 200  # characters of a prefix that are logged

Scored = tuple[Cut, list[Continuation]]


class TransferReward:
    """Share of a frozen receiver's continuations of a cut rollout that reach the gold answer.

        tau_k ~ U(0, 1],  l_k = floor(tau_k * |y|),  z_kn ~ receiver(. | x, y[:l_k])
        reward = mean over K cuts and N continuations of 1[answer(y[:l_k] z_kn) == gold]

    A continuation that does not finish counts as wrong. Every draw is a function of seed, step, rollout and
    cut, so that a resumed run repeats it. A rollout is known by its entry in rollout_ids where the trainer
    numbers its rollouts (fastrl does: ranks and refills share no number), by its row otherwise.

    Args:
        receiver: engine of the frozen model.
        policy_tokenizer: of completion_ids.
        max_new_tokens: longest rollout; see Receiver.
        seed: of the run.
    """

    def __init__(
        self,
        receiver: Engine,
        policy_tokenizer: Any,
        grader: AnswerGrader,
        config: TransferConfig,
        max_new_tokens: int,
        seed: int,
    ) -> None:
        self.__name__ = "transfer"
        self.config = config
        self.seed = seed
        self.receiver = Receiver(receiver, policy_tokenizer, grader, config, max_new_tokens)

    def check_capacity(self, prompts: Sequence[Any]) -> None:
        """Raises ValueError where the receiver could not hold a prompt, a rollout and its continuation."""
        self.receiver.check_capacity(prompts)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[CompletionInput],
        completion_ids: Sequence[Sequence[int]],
        *,
        solution: Sequence[Any],
        trainer_state: TrainerState,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        rollout_ids: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        step, groups = trainer_state.global_step, group_indexes(prompts)
        ids = range(len(prompts)) if rollout_ids is None else rollout_ids
        cuts = [
            self.receiver.cutter.cut(token_ids, self._taus(step, ids[row], ids[groups.index(groups[row])]))
            for (row, token_ids), _ in zip(enumerate(completion_ids), prompts, strict=True)
        ]
        continuations = self.receiver.continue_cuts(
            prompts, cuts, solution, self.seed, "transfer", step, ids=ids
        )
        rows: list[list[Scored]] = [
            list(zip(row_cuts, found, strict=True))
            for row_cuts, found in zip(cuts, continuations, strict=True)
        ]
        if log_extra is not None:
            log_extra("cuts", [[_record(*scored) for scored in row] for row in rows])
        if log_metric is not None:
            for name, value in _metrics([scored for row in rows for scored in row]).items():
                log_metric(f"transfer/{name}", value)
        return [mean([_share_correct(found) for _, found in row]) for row in rows]

    def _taus(self, step: int, rollout: int, first_of_group: int) -> list[float]:
        owner = ("group", first_of_group) if self.config.tau_shared_in_group else ("rollout", rollout)
        return [draw_tau(self.seed, "tau", step, *owner, k) for k in range(self.config.num_cuts)]


def _share_correct(continuations: Sequence[Continuation]) -> float:
    return mean([float(continuation.correct) for continuation in continuations])


def _metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Means over cuts; those with and without the answer in the prefix apart, where there are any."""
    if not scored:
        return {}
    with_answer = [_share_correct(found) for cut, found in scored if cut.has_answer]
    without_answer = [_share_correct(found) for cut, found in scored if not cut.has_answer]
    written = [continuation for _, found in scored for continuation in found]
    metrics = {
        "mean": mean(with_answer + without_answer),
        "num_with_answer": float(len(with_answer)),
        "num_without_answer": float(len(without_answer)),
        "tau_mean": mean([cut.tau for cut, _ in scored]),
        "unfinished": mean([float(continuation.verdict is None) for continuation in written]),
    }
    if with_answer:
        metrics["with_answer"] = mean(with_answer)
    if without_answer:
        metrics["without_answer"] = mean(without_answer)
    for kind in COUNTED_APART:
        metrics[kind.value] = mean([float(continuation.verdict is kind) for continuation in written])
    return metrics


def _record(cut: Cut, continuations: Sequence[Continuation]) -> dict[str, Any]:
    return {
        "tau": cut.tau,
        "position": cut.position,
        "prefix_end": cut.text[-PREFIX_END:],
        "has_answer": cut.has_answer,
        "continuations": [
            {
                "text": continuation.text,
                "finish_reason": continuation.finish_reason,
                "verdict": "unfinished" if continuation.verdict is None else continuation.verdict.value,
            }
            for continuation in continuations
        ],
    }
