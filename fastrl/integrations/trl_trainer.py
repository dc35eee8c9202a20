"""FastGRPOTrainer: TRL's GRPOTrainer with fastrl's loss, shared prefixes and dynamic sampling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from datasets import IterableDataset
from torch import Tensor
from trl import GRPOTrainer

from fastrl.config import refuse
from fastrl.integrations.trl_metrics import loss_metrics, mean
from fastrl.integrations.trl_options import (
    PER_MICROBATCH,
    check_options,
    check_version,
    denominator,
    loss_config,
)
from fastrl.integrations.trl_packing import PackedRows, pack_rows, prepare
from fastrl.integrations.trl_sampling import Batch, draw, groups_with_signal, merge, regroup, rows_of, take
from fastrl.ops import LossConfig, LossOutput, linear_grpo_loss, linear_logprob
from fastrl.policy.head import LmHead


class FastGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer with the same loss and gradients at lower cost.

    Shared prefixes of a micro-batch's rows (a group's prompt) are computed once. Padding is not computed,
    nor, if beta and entropy_coef are 0, rows without advantage. One pass computes logits and gradients of the
    head. Generation, rewards, advantages and logs are TRL's.

    Args:
        max_refills: dynamic sampling (DAPO): groups with equal rewards are replaced by groups of other
            prompts, for at most this many rounds; remaining places keep groups without signal. 0: off.
        keep_groups: put rows of one prompt into one micro-batch if they fit, so that they share it. False:
            keep TRL's shuffled micro-batches.
    Raises:
        ValueError: an unsupported option of GRPOConfig; names it. Unsupported are the losses sapo, luspo and
            vespo, top_entropy_quantile, use_adaptive_entropy, entropy_coef with grpo,
            off_policy_mask_threshold, vllm_importance_sampling_clip_min, images, the experts' auxiliary loss,
            torch_compile, DeepSpeed and FSDP.
    Metrics are TRL's; entropy covers only rows that were run. With max_refills also dynamic_sampling/refills
    and dynamic_sampling/signal, the fraction of sampled groups whose rewards differ.
    """

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: Any = None, *others: Any, max_refills: int = 0,
        keep_groups: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        check_version()
        if args is not None:
            check_options(args, max_refills)
        super().__init__(model, reward_funcs, args, *others, **kwargs)
        check_options(self.args, max_refills)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            refuse("trl", "accelerate", "one GPU, or data parallel, in FastGRPOTrainer", "sharded weights")
        if self.aux_loss_enabled:
            refuse("trl", "router_aux_loss_coef", "0 in FastGRPOTrainer", self.router_aux_loss_coef)
        if max_refills and isinstance(self.train_dataset, IterableDataset):
            refuse("trl", "max_refills", "0 for an IterableDataset", max_refills)
        self.max_refills, self.keep_groups = max_refills, keep_groups
        loss_config(self)  # LossConfig checks the values
        for model in (self.model, self.ref_model):
            if model is not None:
                causal = self.accelerator.unwrap_model(model)
                prepare(causal.get_base_model() if hasattr(causal, "peft_config") else causal)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before: list[Batch] | None = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is None or self._buffered_inputs is before or not self.keep_groups:
            return inputs
        batches = regroup(self._buffered_inputs, self._tokenizer.pad_token_id)
        self._buffered_inputs: list[Batch] | None = batches
        return batches[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)
        if not (self.model.training and self.max_refills):
            return batch
        size, num_rows = self.num_generations, len(batch["advantages"])
        signal = groups_with_signal(batch, size)
        kept, idle = [take(batch, rows_of(signal, size))], take(batch, rows_of(~signal, size))
        seen, found, refills = signal.numel(), int(signal.sum()), 0
        while refills < self.max_refills and (missing := self._missing(num_rows // size - found)):
            more = super()._generate_and_score_completions(self._drawn(missing, refills))
            signal = groups_with_signal(more, size)
            kept.append(take(more, rows_of(signal, size)))
            seen, found, refills = seen + signal.numel(), found + int(signal.sum()), refills + 1
        merged = merge([*kept, idle], self._tokenizer.pad_token_id)
        merged = take(merged, torch.arange(num_rows, device=self.accelerator.device))
        trained = merged["completion_mask"] * merged.get("tool_mask", 1)
        merged["num_items_in_batch"] = self.accelerator.gather(trained.sum()).sum()
        share = mean(self, *torch.tensor([found, seen], device=self.accelerator.device))
        self._metrics["train"]["dynamic_sampling/refills"].append(float(refills))
        self._metrics["train"]["dynamic_sampling/signal"].append(share)
        return merged

    def _missing(self, groups: int) -> int:
        """Return the largest number of missing groups over processes, so that all join the same rounds."""
        here = torch.tensor([groups], device=self.accelerator.device)
        return max(0, int(self.accelerator.gather(here).max()))

    def _drawn(self, groups: int, refill: int) -> list[dict[str, Any]]:
        """Draw dataset rows of new prompts, each repeated num_generations times."""
        place = (self.args.seed, "refill", self._step, self.accelerator.process_index, refill)
        chosen = draw(len(self.train_dataset), groups, *place)
        return [dict(self.train_dataset[row]) for row in chosen for _ in range(self.num_generations)]

    @torch.no_grad()
    def _scores(self, model: Any, packed: PackedRows) -> tuple[Tensor, Tensor]:
        def with_head(hidden: Tensor, head: LmHead) -> Any:
            ids = packed.batch.ids
            return linear_logprob(hidden, head.weight, ids, temperature=self.temperature, **head.options())

        with self.accelerator.autocast():
            out = packed.run(model, with_head, self.args.cast_lm_head_to_fp32)
        return out.logprobs, out.entropy

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[Tensor, Tensor | None, None]:  # fmt: skip
        """Return log-probs and entropies [B, logits_to_keep], for old and reference policies, no gradient."""
        refuse_images(images)
        shape = (len(input_ids), logits_to_keep)
        logprobs, entropy = (torch.zeros(shape, device=input_ids.device) for _ in range(2))
        for start in range(0, len(input_ids), size := batch_size or len(input_ids)):
            rows = slice(start, start + size)
            packed = pack_rows(input_ids[rows], attention_mask[rows], logits_to_keep)
            if len(packed.rows):
                packed_logprobs, packed_entropy = self._scores(model, packed)
                logprobs[rows] = logprobs[rows].masked_scatter(packed.tokens, packed_logprobs)
                entropy[rows] = entropy[rows].masked_scatter(packed.tokens, packed_entropy)
        return logprobs, entropy if compute_entropy else None, None

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        refuse_images(inputs)
        mode = "train" if self.model.training else "eval"
        trained = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
        num_trained = int(trained.sum())
        divisor = denominator(self, inputs, num_trained)
        accumulated = self.current_gradient_accumulation_steps if mode == "train" else 1
        # TRL averages the bonus over the micro-batch's tokens; fastrl divides it by the loss's denominator
        bonus = self.entropy_coef * divisor / (max(1, num_trained) * accumulated)
        config = replace(loss_config(self), entropy_coef=bonus)
        packed = self._packed(inputs, config)
        out = self._loss(model, inputs, packed, trained, config, divisor)
        metrics = loss_metrics(self, config, inputs, packed, trained, out)
        if self.entropy_coef:
            entropy = (out.stats["entropy_sum"] / max(1, num_trained)).float()
            policy = out.loss.detach() + self.entropy_coef * entropy / accumulated
            policy = policy * (accumulated if self.loss_type in PER_MICROBATCH else 1)
            metrics["policy_loss"] = self.accelerator.gather(policy).nanmean().item()
            if mode == "train" and self.accelerator.sync_gradients:
                metrics["entropy_coef"] = self.entropy_coef
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        return out.loss

    def _packed(self, inputs: Batch, config: LossConfig) -> PackedRows:
        """Pack the rows that contribute to the gradient; if there are none, one dummy row."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        width = inputs["completion_ids"].shape[1]
        active = inputs["completion_mask"].any(1)
        if not (config.kl_coef or config.entropy_coef):
            active &= (inputs["advantages"].view(len(ids), -1) != 0).any(1)
        rows = active.nonzero()[:, 0]
        if not len(rows):
            rows = rows.new_zeros(1)
            seen[0, -width] = 1
        return pack_rows(ids, seen, width, rows)

    def _loss(
        self, model: Any, inputs: Batch, packed: PackedRows, trained: Tensor, config: LossConfig,
        divisor: float,
    ) -> LossOutput:  # fmt: skip
        advantages = inputs["advantages"]
        of_rows = advantages[packed.rows] if advantages.dim() == 1 else packed.of(advantages)
        corrects = config.correction != "none"
        loss = partial(
            linear_grpo_loss,
            cu_seqlens=packed.batch.row_cu_seqlens,
            advantages=of_rows,
            loss_mask=packed.of(trained),
            old_logprobs=packed.of_optional(inputs.get("old_per_token_logps")),
            ref_logprobs=packed.of_optional(inputs["ref_per_token_logps"]) if config.kl_coef else None,
            rollout_logprobs=packed.of_optional(inputs["sampling_per_token_logps"]) if corrects else None,
            config=config,
            denominator=divisor,
            temperature=self.temperature,
        )

        def with_head(hidden: Tensor, head: LmHead) -> LossOutput:
            return loss(hidden, head.weight, packed.batch.ids, **head.options())

        with self.accelerator.autocast():
            out: LossOutput = packed.run(model, with_head, self.args.cast_lm_head_to_fp32)
        return out


def refuse_images(inputs: Batch) -> None:
    if inputs.get("pixel_values") is not None:
        refuse("trl", "images", "only text in FastGRPOTrainer", "pixel_values")
