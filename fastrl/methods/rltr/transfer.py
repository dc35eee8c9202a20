"""The transfer reward (RLTR, arXiv 2602.08489): success of a frozen receiver on cut rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastrl.config import TransferConfig
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader
from fastrl.grading.verdict import COUNTED_APART
from fastrl.rewards.batch import CompletionInput, LogExtra, LogMetric, TrainerState, group_numbers, mean
from fastrl.rewards.cuts import Cut, draw_tau
from fastrl.rewards.receiver import Continuation, Receiver

PREFIX_END = 200  # characters at a prefix's end that are logged

Scored = tuple[Cut, list[Continuation]]


class TransferReward:
    """Fraction of a frozen receiver's continuations of a cut rollout that reach the gold answer.

        tau_k ~ U(0, 1],  l_k = floor(tau_k * |y|),  z_kn ~ receiver(. | x, y[:l_k])
        reward = mean over K cuts and N continuations of 1[answer(y[:l_k] z_kn) == gold]

    In mode "force" the receiver reads the forcing text after the cut and writes only the answer. In mode
    "teacher" it generates nothing:

        reward = mean over K cuts of p_receiver(gold answer | x, y[:l_k], forcing text)

    A truncated continuation counts as wrong. Every draw is a function of seed, step, rollout and cut, so a
    resumed run repeats it. rollout_ids identify rollouts if the trainer passes them (fastrl's are unique over
    ranks and refills), else their index in the batch does. group_ids identify groups, else consecutive equal
    prompts do.

    Args:
        receiver: engine of the frozen model.
        policy_tokenizer: tokenizer of completion_ids.
        max_new_tokens: longest rollout; see Receiver.
        seed: seed of the run.
        ref_temperature: set if the receiver is the policy's initial model with the same tokenizer. The same
            prefill then returns the rollouts' log-probs at this temperature as the column ref_logprobs.
    """

    def __init__(
        self,
        receiver: Engine,
        policy_tokenizer: Any,
        grader: AnswerGrader,
        config: TransferConfig,
        max_new_tokens: int,
        seed: int,
        ref_temperature: float | None = None,
    ) -> None:
        self.__name__ = "transfer"
        self.ref_temperature = ref_temperature
        self.config = config
        self.seed = seed
        self.receiver = Receiver(receiver, policy_tokenizer, grader, config, max_new_tokens)

    def check_capacity(self, prompts: Sequence[Any]) -> None:
        """Raise ValueError if the receiver cannot hold a prompt, a rollout and its continuation."""
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
        group_ids: Sequence[int] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        step, groups = trainer_state.global_step, group_numbers(prompts, group_ids)
        ids = range(len(prompts)) if rollout_ids is None else rollout_ids
        cuts = [
            self.receiver.cutter.cut(token_ids, self._taus(step, ids[row], ids[groups.index(groups[row])]))
            for (row, token_ids), _ in zip(enumerate(completion_ids), prompts, strict=True)
        ]
        if self.config.mode == "teacher":
            return self._teacher_rewards(prompts, cuts, solution, log_extra, log_metric)
        continuations, ref_logprobs = self.receiver.continue_cuts(
            prompts, cuts, solution, self.seed, "transfer", step, ids=ids,
            rollouts=completion_ids, score_temperature=self.ref_temperature,
        )  # fmt: skip
        rows: list[list[Scored]] = [
            list(zip(row_cuts, found, strict=True))
            for row_cuts, found in zip(cuts, continuations, strict=True)
        ]
        if log_extra is not None:
            log_extra("cuts", [[_record(*scored) for scored in row] for row in rows])
            if ref_logprobs:
                log_extra("ref_logprobs", ref_logprobs)
        if log_metric is not None:
            for name, value in _metrics([scored for row in rows for scored in row]).items():
                log_metric(f"transfer/{name}", value)
            log_metric("transfer/empty_cuts", _share_empty(cuts))
        return [_share_correct([continuation for _, found in row for continuation in found]) for row in rows]

    def _teacher_rewards(
        self, prompts: Sequence[Any], cuts: Sequence[Sequence[Cut]], solution: Sequence[Any],
        log_extra: LogExtra | None, log_metric: LogMetric | None,
    ) -> list[float | None]:  # fmt: skip
        logprobs = self.receiver.answer_logprobs(prompts, cuts, solution)
        rewards: list[float | None] = [mean([math.exp(value) for value in row]) for row in logprobs]
        if log_extra is not None:
            rows = zip(cuts, logprobs, strict=True)
            log_extra("cuts", [[_teacher_record(*entry) for entry in zip(*row, strict=True)] for row in rows])
        if log_metric is not None:
            flat = [value for row in logprobs for value in row]
            log_metric("transfer/mean", mean([math.exp(value) for value in flat]))
            log_metric("transfer/answer_logprob", mean(flat))
            log_metric("transfer/tau_mean", mean([cut.tau for row in cuts for cut in row]))
            log_metric("transfer/empty_cuts", _share_empty(cuts))
        return rewards

    def _taus(self, step: int, rollout: int, first_of_group: int) -> list[float]:
        owner = ("group", first_of_group) if self.config.tau_shared_in_group else ("rollout", rollout)
        return [draw_tau(self.seed, "tau", step, *owner, k) for k in range(self.config.num_cuts)]


def _share_correct(continuations: Sequence[Continuation]) -> float:
    return mean([float(continuation.correct) for continuation in continuations])


def _share_empty(cuts: Sequence[Sequence[Cut]]) -> float:
    """Return the fraction of rollouts whose cuts are all at position 0."""
    return mean([float(all(cut.position == 0 for cut in row)) for row in cuts]) if cuts else 0.0


def _metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Average over cuts; also separately over prefixes with and without the answer, if there are any."""
    if not scored:
        return {}
    all_found = [continuation for _, found in scored for continuation in found]
    with_answer = [_share_correct(found) for cut, found in scored if cut.has_answer]
    without_answer = [_share_correct(found) for cut, found in scored if not cut.has_answer]
    metrics = {
        "mean": mean(with_answer + without_answer),
        "num_with_answer": float(len(with_answer)),
        "num_without_answer": float(len(without_answer)),
        "tau_mean": mean([cut.tau for cut, _ in scored]),
        "unfinished": mean([float(continuation.verdict is None) for continuation in all_found]),
    }
    if with_answer:
        metrics["with_answer"] = mean(with_answer)
    if without_answer:
        metrics["without_answer"] = mean(without_answer)
    for kind in COUNTED_APART:
        metrics[kind.value] = mean([float(continuation.verdict is kind) for continuation in all_found])
    return metrics


def _cut_record(cut: Cut) -> dict[str, Any]:
    return {
        "tau": cut.tau,
        "position": cut.position,
        "prefix_chars": len(cut.text),
        "prefix_end": cut.text[-PREFIX_END:],
        "has_answer": cut.has_answer,
    }


def _teacher_record(cut: Cut, answer_logprob: float) -> dict[str, Any]:
    return {**_cut_record(cut), "answer_logprob": answer_logprob}


def _record(cut: Cut, continuations: Sequence[Continuation]) -> dict[str, Any]:
    return {
        **_cut_record(cut),
        "continuations": [
            {
                "text": continuation.text,
                "finish_reason": continuation.finish_reason,
                "verdict": _verdict(continuation),
            }
            for continuation in continuations
        ],
    }


def _verdict(continuation: Continuation) -> str:
    return "unfinished" if continuation.verdict is None else continuation.verdict.value
