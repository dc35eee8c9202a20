"""Real TRL trainers on tiny CPU models that record what every step trains on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from checkpoints import SIZES
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from trl import GRPOConfig, GRPOTrainer

from fastrl.integrations.trl import FastGRPOTrainer

WORDS = ["<pad>", "<eos>", "<unk>"] + [f"w{i}" for i in range(11)]
PROMPTS = ["w1 w2 w3", "w4", "w5 w6", "w7 w8 w9 w10"]
ACCUMULATION = 2


def write_model(folder: Path, family: str = "qwen3") -> Path:
    """Random weights, larger than an initialisation, that end a sequence after a few words."""
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(WORDS)}
    kind = {"qwen3": Qwen3Config, "llama": LlamaConfig}[family]
    model = AutoModelForCausalLM.from_config(kind(**sizes, tie_word_embeddings=family == "qwen3"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.25)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def rows() -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "number": i} for i, prompt in enumerate(PROMPTS)])


def by_tokens(completion_ids, number, **kwargs) -> list[float]:
    """One prompt's group has equal rewards, so advantages of 0."""
    pairs = zip(completion_ids, number, strict=True)
    return [1.0 if n == 0 else sum(ids) % 11 / 4 for ids, n in pairs]


@dataclass
class Step:
    losses: list[float] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """Summed over the micro-batches, as the optimizer takes them."""
    prompts: list[list[str]] = field(default_factory=list)
    """Of each micro-batch."""

    @property
    def rows(self) -> list[str]:
        return [prompt for prompts in self.prompts for prompt in prompts]


class Kept:
    """Keeps copies; trains as the trainer next to it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[Step] = []

    def training_step(self, model, inputs, num_items_in_batch):
        if self._step % ACCUMULATION == 0:
            self.steps.append(Step())
        loss = super().training_step(model, inputs, num_items_in_batch)
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.steps[-1].gradients = {name: value.grad.clone() for name, value in trained.items()}
        return loss

    def _compute_loss(self, model, inputs):
        kept = {name: value.clone() for name, value in inputs.items()}
        loss = super()._compute_loss(model, inputs)
        for name, value in kept.items():  # a batch is used again
            torch.testing.assert_close(inputs[name], value, rtol=0, atol=0, equal_nan=True)
        step = self.steps[-1]
        step.losses.append(loss.item())
        step.metrics.append({name: values[-1] for name, values in self._metrics["train"].items()})
        step.prompts.append(self._tokenizer.batch_decode(inputs["prompt_ids"], skip_special_tokens=True))
        return loss


class Plain(Kept, GRPOTrainer):
    pass


class Fast(Kept, FastGRPOTrainer):
    pass


def inexact_engine(prompts, trainer) -> dict:
    """TRL's own generation, with log-probs as an inexact engine reports them, and a tool's token in each."""
    prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
    completion_ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, trainer.num_generations)
    noise, logprobs, masks = torch.Generator().manual_seed(1), [], []
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        logits = trainer.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        scores = (logits.detach() / trainer.temperature).log_softmax(-1)
        chosen = scores.gather(1, torch.tensor(completion)[:, None])[:, 0]
        logprobs.append((chosen + 0.3 * torch.randn(len(completion), generator=noise)).tolist())
        masks.append([int(i != 1) for i in range(len(completion))])
    logprobs[0][0] = None  # a token that the engine gave no log-prob
    trainer.use_vllm = True  # from here on TRL corrects by these log-probs; no vLLM has to run
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "logprobs": logprobs,
        "env_mask": masks,
    }


def arguments(folder: Path, **options) -> GRPOConfig:
    """Two optimizer steps of two micro-batches on the same rollouts, so that the second is off-policy."""
    given = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
        "disable_tqdm": True, "logging_strategy": "no", "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": ACCUMULATION, "num_generations": 4, "num_iterations": 2,
        "max_steps": 2, "learning_rate": 0.003, "max_completion_length": 9, "temperature": 0.9,
        "epsilon": 0.1, "epsilon_high": 0.28,
    }  # fmt: skip
    return GRPOConfig(**{**given, **options})


def run(kind, model: Path, folder: Path, engine: bool = False, trainer: dict | None = None, **options):
    made = kind(
        str(model),
        by_tokens,
        arguments(folder, **options),
        rows(),
        processing_class=AutoTokenizer.from_pretrained(model),
        rollout_func=inexact_engine if engine else None,
        **(trainer or {}),
    )
    made.train()
    return made
