"""A real TRL GRPOTrainer on the CPU that records its batches, and fastrl's losses on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from fastrl.ops import LossConfig, LossOutput, grpo_loss, linear_grpo_loss

SPECIAL = ["<pad>", "<eos>", "<unk>"]
WORDS = SPECIAL + [f"w{i}" for i in range(61)]
PROMPTS = ["w1 w2 w3", "w4", "w5 w6", "w7 w8 w9 w10"]
LONGEST = 8
ACCUMULATION = 2


def write_model(folder: Path) -> Path:
    """Random weights, larger than an initialisation, that end a sequence after a few tokens."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.25)
    model.save_pretrained(folder)
    return folder


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def reward(prompts, completion_ids, **kwargs) -> list[float]:
    """One prompt's group has equal rewards, so advantages of 0."""
    pairs = zip(prompts, completion_ids, strict=True)
    return [1.0 if prompt == PROMPTS[0] else sum(ids) % 11 / 4 for prompt, ids in pairs]


def rollouts_of_an_engine(prompts, trainer) -> dict:
    """TRL's own generation, with log-probs as an inexact engine reports them, and a tool's token in each."""
    prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
    completion_ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, trainer.num_generations)
    logprobs, env_mask = [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        logits = trainer.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        scores = (logits.detach() / trainer.temperature).log_softmax(-1)
        chosen = scores.gather(1, torch.tensor(completion)[:, None])[:, 0]
        logprobs.append((chosen + 0.3 * torch.randn(len(completion))).tolist())
        env_mask.append([int(i != 1) for i in range(len(completion))])
    logprobs[0][0] = None  # a token that the engine gave no log-prob
    trainer.use_vllm = True  # from here on TRL corrects by these log-probs; no vLLM has to run
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "logprobs": logprobs,
        "env_mask": env_mask,
    }


@dataclass
class MicroBatch:
    inputs: dict[str, torch.Tensor]
    loss: torch.Tensor
    metrics: dict[str, float]


@dataclass
class Step:
    weights: dict[str, torch.Tensor]
    micro_batches: list[MicroBatch] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """Summed over the micro-batches, as the optimizer takes them."""


class Trainer(GRPOTrainer):
    """TRL's trainer; the overrides only keep copies."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[Step] = []

    def training_step(self, model, inputs, num_items_in_batch):
        if self._step % ACCUMULATION == 0:
            self.steps.append(Step({name: value.clone() for name, value in model.state_dict().items()}))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.steps[-1].gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        return loss

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        metrics = {name: values[-1] for name, values in self._metrics["train"].items()}
        self.steps[-1].micro_batches.append(MicroBatch(inputs, loss.detach(), metrics))
        return loss


def train(model: Path, folder: Path, engine: bool = False, **options) -> Trainer:
    """Two optimizer steps of two micro-batches on the same rollouts, so that the second is off-policy."""
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        gradient_checkpointing=False,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=ACCUMULATION,
        num_generations=4,
        num_iterations=2,
        max_steps=2,
        learning_rate=0.003,
        max_completion_length=LONGEST,
        temperature=0.9,
        epsilon=0.1,
        **{"epsilon_high": 0.28, **options},
    )
    trainer = Trainer(
        str(model),
        reward,
        config,
        Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=word_tokenizer(),
        rollout_func=rollouts_of_an_engine if engine else None,
    )
    trainer.train()
    return trainer


def loss_config(trainer: Trainer) -> LossConfig:
    args = trainer.args
    return LossConfig(
        loss_type="gspo" if args.importance_sampling_level == "sequence" else args.loss_type,
        clip_eps_low=args.epsilon,
        clip_eps_high=args.epsilon_high,
        dual_clip=args.delta,
        kl_coef=args.beta,
        kl_ratio=args.use_bias_correction_kl,
        entropy_coef=args.entropy_coef,
        correction=args.vllm_importance_sampling_mode if trainer.use_vllm else "none",
        correction_cap=args.vllm_importance_sampling_clip_max,
    )


def loss_of(trainer: Trainer, inputs: dict[str, torch.Tensor], op: str, backend: str) -> LossOutput:
    """fastrl's loss of a micro-batch under the trainer's model."""
    config, model = loss_config(trainer), trainer.model
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    completed = inputs["completion_mask"].bool()
    trained = inputs.get("tool_mask", torch.ones_like(completed))[completed].bool()
    lengths = completed.sum(1)
    num_tokens = inputs["num_items_in_batch"]
    if config.loss_type == "bnpo":  # TRL's divides by the tokens of the micro-batch, ours by the step's
        num_tokens = trained.sum() * ACCUMULATION
    arguments = {
        "cu_seqlens": torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int(),
        "advantages": inputs["advantages"],
        "loss_mask": trained,
        "config": config,
        "denominator": config.denominator(int(num_tokens), len(lengths) * ACCUMULATION, LONGEST),
        "backend": backend,
    }
    for ours, theirs in (("old", "old"), ("ref", "ref"), ("rollout", "sampling")):
        values = inputs.get(f"{theirs}_per_token_logps")
        arguments[f"{ours}_logprobs"] = None if values is None else values[completed]
    if op == "grpo_loss":
        logprobs, entropy, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, seen, completed.shape[1], compute_entropy=True
        )
        return grpo_loss(logprobs[completed], entropy=entropy[completed], **arguments)
    hidden = model.model(input_ids=ids, attention_mask=seen).last_hidden_state
    before = hidden[:, -completed.shape[1] - 1 : -1][completed]
    return linear_grpo_loss(
        before,
        model.lm_head.weight,
        inputs["completion_ids"][completed],
        temperature=trainer.temperature,
        **arguments,
    )
