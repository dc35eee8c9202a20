"""The reasoning reward model: a decoder with five rubric heads and a total head on the last token.

Its folder holds config.json and model.safetensors (the backbone for AutoModel, adapters merged), the
tokenizer, rubric.json, rubric/heads.safetensors (in a subfolder, since some loaders read all weights of a
folder), and adapter/, from which a run with adapters resumes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from fastrl.config import Attention, BackboneConfig, LoraConfig, refuse
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS, NUM_LEVELS
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_loss import NUM_DIMENSIONS, Judgments, Verdicts
from fastrl.methods.tracelift.rubric_policy import (
    FORMAT,
    POOLING,
    RUBRIC,
    RubricNetwork,
    RubricPolicy,
    read_heads,
)
from fastrl.policy.lora import FOLDER, add_adapters, load_adapters
from fastrl.policy.model import Policy, check_layers, choose_attention, compute_dtype, without_dropout
from fastrl.policy.shard import Sharding, shard
from fastrl.policy.shard_load import fill, outline, stand_ins
from fastrl.policy.source import model_source
from fastrl.types import TrainSequence


class RubricModel:
    """Scores traces; `policy` wraps its network for optimizers and checkpoints."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.network: RubricNetwork = policy.model
        self.rubric, self.tokenizer = self.network.rubric, policy.tokenizer

    @classmethod
    def start(
        cls, model: BackboneConfig, rubric: Rubric, lora: LoraConfig, device: torch.device, seed: int,
        checkpoint: Path | None = None, sharding: Sharding | None = None,
    ) -> RubricModel:  # fmt: skip
        """Load a trainable model with float32 weights; a checkpoint is restored bit for bit.

        Args:
            sharding: shard the model over the ranks; each reads only its own part.
        Raises:
            ValueError: the backbone is no decoder, lacks weights or can't hold max_tokens; or adapters are
                configured and peft is not installed.
        """
        source = model_source(model.path if checkpoint is None or lora.rank else str(checkpoint))
        attention, trust = choose_attention(model, device), model.trust_remote_code
        whole = partial(load_backbone, model, source, attention, torch.float32)
        backbone: Any
        if sharding:
            backbone = outline(source, AutoModel, attn_implementation=attention, trust_remote_code=trust)
            prepare(backbone, model, source, attention)
        else:
            backbone = whole().to(device)
        text = backbone.config.get_text_config()
        check_room(getattr(text, "max_position_embeddings", None), rubric.max_tokens)
        if lora.rank:
            with stand_ins(backbone):
                add_adapters(backbone, lora, seed, lora.dropout)
            if checkpoint is not None:
                load_adapters(backbone, checkpoint / FOLDER)
        network = RubricNetwork(backbone, rubric, sharding.home(device) if sharding else device)
        if checkpoint is not None:
            network.heads.load_state_dict(read_heads(checkpoint))
        if sharding:
            shard(network, sharding, device, compute_dtype(model, device), exact=[network.heads])
            fill(backbone, source, sharding.home(device), device, whole)
        return cls(policy_of(network.train(), model, source, device, sharding))

    @classmethod
    def load(
        cls, folder: Path | str, device: torch.device, dtype: torch.dtype, *, attention: Attention = "auto",
        trust_remote_code: bool = False,
    ) -> RubricModel:  # fmt: skip
        """Load a frozen model from a folder that the reward_model stage wrote.

        Args:
            dtype: float32 or bfloat16, for the backbone's weights and computation; heads are float32.
        Raises:
            FileNotFoundError: no folder, or no rubric.json in it.   ValueError: rubric.json does not fit.
        """
        names = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
        if dtype not in names:
            raise ValueError(f"[rubric_model] dtype: expected float32 or bfloat16, got {dtype}")
        rubric = read_rubric(Path(folder))
        model = BackboneConfig(
            path=str(folder), dtype=names[dtype], attention=attention,  # type: ignore[arg-type]
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        backbone = load_backbone(model, str(folder), choose_attention(model, device), dtype).to(device)
        network = RubricNetwork(backbone, rubric, device)
        network.heads.load_state_dict(read_heads(Path(folder)))
        return cls(policy_of(network.eval().requires_grad_(False), model, str(folder), device))

    def save(self, folder: Path | str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.policy.save(Path(folder))

    def __call__(self, token_ids: Sequence[Sequence[int]]) -> Judgments:
        """Return the judgments of one micro-batch, differentiable; shared prefixes are computed once if the
        policy shares prefixes."""
        pooled = self.policy.hidden(self.policy.pack([read_to_the_end(ids) for ids in token_ids]))
        out = self.network.heads(pooled.float())
        return Judgments(out[:, :-1].unflatten(1, (NUM_DIMENSIONS, NUM_LEVELS)), out[:, -1])

    @torch.no_grad()
    def judge(self, token_ids: Sequence[Sequence[int]], tokens_per_microbatch: int) -> Verdicts:
        """Return the verdicts on any number of inputs, without dropout.

        Inputs are sorted and equal ones judged once, so their order changes no bit. The set of inputs may
        change a score by about 1e-6 in float32: matrices of another size round differently. Every rank must
        call it if the model is sharded; their numbers of inputs may differ.
        """
        distinct = sorted({tuple(ids) for ids in token_ids})
        sequences = [read_to_the_end(ids) for ids in distinct]
        found = Verdicts.empty(len(distinct))
        training = self.network.training
        self.network.eval()
        try:
            for indices in self.policy.microbatches(sequences, tokens_per_microbatch):
                found.put(indices, self([distinct[index] for index in indices]))
            self.policy.reshard()
        finally:
            self.network.train(training)
        places = {ids: place for place, ids in enumerate(distinct)}
        return found.at([places[tuple(ids)] for ids in token_ids])


def read_to_the_end(token_ids: Sequence[int]) -> TrainSequence:
    """Return a sequence that reads all tokens and yields only the last one's hidden state."""
    # the last token of a packed sequence is a target, not an input: any token does
    return TrainSequence([*token_ids, token_ids[-1]], [False] * len(token_ids) + [True])


def load_backbone(model: BackboneConfig, source: str, attention: str, weights: torch.dtype) -> Any:
    """Load the decoder without its language head into host memory; `source` may have a head or not."""
    backbone: Any
    backbone, found = AutoModel.from_pretrained(
        source,
        dtype=weights,
        attn_implementation=attention,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        refuse("model", "path", f"weights with {sorted(found['missing_keys'])[0]}", source)
    prepare(backbone, model, source, attention)
    return backbone


def prepare(backbone: Any, model: BackboneConfig, source: str, attention: str) -> None:
    """Remove dropout and set gradient checkpointing.

    Raises:
        ValueError: the backbone is no decoder, or has unsupported layers.
    """
    if backbone.config.is_encoder_decoder or not getattr(backbone.config, "is_decoder", True):
        raise ValueError(f"[model] path: expected a decoder, got {type(backbone).__name__} in {source!r}")
    check_layers(backbone, attention)
    without_dropout(backbone)
    if model.gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})


def policy_of(
    network: RubricNetwork, model: BackboneConfig, source: str, device: torch.device,
    sharding: Sharding | None = None,
) -> RubricPolicy:  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=model.trust_remote_code)
    attention, dtype = choose_attention(model, device), compute_dtype(model, device)
    return RubricPolicy(
        network, tokenizer, dtype, attention, model.share_prefixes, device=device, sharding=sharding
    )


def check_room(room: int | None, max_tokens: int) -> None:
    if room is not None and max_tokens > room:
        refuse("reward_model", "max_tokens", f"<= {room}, the model's max_position_embeddings", max_tokens)


def read_rubric(folder: Path) -> Rubric:
    """Read and check the rubric of a saved reward model."""
    if not (folder / RUBRIC).is_file():
        raise FileNotFoundError(
            f"[rubric_model] folder: expected one with {RUBRIC}, as the reward_model stage writes it, "
            f"got {str(folder)!r}"
        )
    about = json.loads((folder / RUBRIC).read_text())
    expected = {"format": FORMAT, "pooling": POOLING, "levels": NUM_LEVELS}
    for name, value in expected.items():
        if about.get(name) != value:
            raise ValueError(
                f"[rubric_model] {name}: expected {value!r}, got {about.get(name)!r} in {folder}"
            )
    task = about.get("task")
    if task not in DIMENSIONS or tuple(about["dimensions"]) != DIMENSIONS[task]:
        raise ValueError(
            f"[rubric_model] task: expected {' or '.join(DIMENSIONS)} with its dimensions, "
            f"got {task!r} with {about.get('dimensions')} in {folder}"
        )
    return Rubric(task, int(about["max_tokens"]))
