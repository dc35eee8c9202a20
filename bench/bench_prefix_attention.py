"""Time prefix_attention, forward and backward, against repeated prompts, padded SDPA and other libraries.

    python -m bench.bench_prefix_attention [--shapes cpu|gpu] [--dtype float32|bfloat16] [--part layer|model]

Measured on one layer and on a random model of 4 layers. Outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.competitors import add_wheels
from bench.harness import arguments, compare, finish, show
from fastrl.ops import prefix_attention, prefix_tree
from fastrl.policy.attention import FLASH, FLEX, PREFIX, SDPA, compiled_flex, padded_layout, sdpa_attention
from fastrl.policy.model import Policy
from fastrl.policy.packing import PackedBatch, pack
from fastrl.types import TrainSequence

OP = "prefix_attention"
LAYERS = 4
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """`groups` prompts of P tokens with G rollouts of R tokens each; R/4 to R tokens if ragged."""

    P: int
    R: int
    G: int
    groups: int
    heads: int
    kv_heads: int
    head: int
    ragged: bool = False

    def title(self) -> str:
        rollouts = f"{self.G} x R {self.R // 4}..{self.R}" if self.ragged else f"{self.G} x R {self.R}"
        heads = f"heads {self.heads}/{self.kv_heads} of {self.head}"
        return f"{self.groups} x (P {self.P}, {rollouts}), {heads}"

    def sequences(self) -> list[TrainSequence]:
        """Return the sequences; rollouts differ in the first token, and the last token is no input."""
        rng = random.Random(0)
        found = []
        for _ in range(self.groups):
            prompt = [rng.randrange(1000) for _ in range(self.P)]
            for place in range(self.G):
                length = rng.randint(self.R // 4, self.R) if self.ragged else self.R
                rollout = [1000 + place] + [rng.randrange(1000) for _ in range(length)]
                found.append(TrainSequence(prompt + rollout, [False] * self.P + [True] * len(rollout)))
        return found


SHAPES = {
    "cpu": (
        Shape(128, 128, 8, 2, 8, 2, 64),
        Shape(512, 128, 8, 1, 8, 2, 64),
        Shape(64, 256, 8, 2, 8, 2, 64, ragged=True),
        Shape(24, 48, 8, 16, 4, 2, 32, ragged=True),
        Shape(0, 256, 8, 2, 8, 2, 64, ragged=True),
        Shape(0, 256, 8, 2, 8, 2, 64),
    ),
    "gpu": tuple(
        Shape(*lengths, 8, 1, heads, kv_heads, 128)
        for lengths in ((512, 2048), (2048, 2048), (8192, 512))
        for heads, kv_heads in ((28, 4), (32, 8))
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Batch of one shape with shared and with repeated prompts; slots maps repeated tokens to shared ones."""

    shape: Shape
    shared: PackedBatch
    repeated: PackedBatch
    slots: Tensor

    @classmethod
    def of(cls, shape: Shape, device: torch.device) -> Case:
        sequences = shape.sequences()
        shared, repeated = (pack(sequences, device, share_prefixes=share) for share in (True, False))
        forest = prefix_tree([sequence.token_ids[:-1] for sequence in sequences])
        return cls(shape, shared, repeated, torch.from_numpy(forest.slots).to(device))

    def pairs(self) -> int:
        """Count the (query, key) pairs that the shared batch attends to."""
        return int((self.shared.tree.host_depths + 1).sum())


def layer_providers(case: Case, device: torch.device) -> Iterator[tuple[str, bool, Attention]]:
    """Yield (name, whether prompts are shared, attention)."""
    backend = "triton" if device.type == "cuda" else "torch"
    for name, batch in (("shared", case.shared), ("repeated", case.repeated)):
        attend = partial(prefix_attention, tree=batch.tree, backend=backend)
        yield f"fastrl {backend}, {name}", batch is case.shared, attend
    layout = padded_layout(case.repeated)
    yield (
        "padded SDPA",
        False,
        lambda q, k, v: sdpa_attention(
            torch.nn.Module(), *(x.transpose(0, 1)[None] for x in (q, k, v)), None, packed_layout=layout
        )[0][0],
    )
    if importlib.util.find_spec("prefix_grouper") and case.shape.P and not case.shape.ragged:
        yield "prefix-grouper, SDPA", True, prefix_grouper(case.shape, device)
    if device.type == "cuda":
        yield "FlexAttention, tree mask", True, flex(case.shared)
        yield "FlexAttention, repeated", False, flex(case.repeated)
        if importlib.util.find_spec("flash_attn"):
            yield "flash-attn varlen, repeated", False, flash(case.repeated)


def prefix_grouper(shape: Shape, device: torch.device) -> Attention:
    from prefix_grouper import PrefixGrouper

    info = [[shape.P] + [shape.R] * shape.G] * shape.groups
    grouper = PrefixGrouper(info, device=device, padding_mode="right")

    later = torch.ones(shape.R, shape.P + shape.R, dtype=torch.bool, device=device).tril(shape.P)

    def attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        """Ignore `padding`: all lengths are equal."""
        how = {"is_causal": True} if q.shape[2] == k.shape[2] else {"attn_mask": later}
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **how).transpose(1, 2)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = (x.unflatten(0, (shape.groups, -1)).transpose(1, 2) for x in (q, k, v))
        return grouper.forward(attend, *rows).flatten(0, 1)

    return run


def flex(batch: PackedBatch) -> Attention:
    from torch.nn.attention.flex_attention import create_block_mask

    stop, count = batch.tree.subtree_stop, batch.num_tokens
    mask = create_block_mask(
        lambda b, h, i, j: (j <= i) & (i < stop[j]), None, None, count, count, device=str(stop.device)
    )

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
        return compiled_flex()(*heads_first, block_mask=mask, enable_gqa=True)[0].transpose(0, 1)

    return run


def flash(batch: PackedBatch) -> Attention:
    from flash_attn import flash_attn_varlen_func

    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    return lambda q, k, v: flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest, causal=True)


def layer(case: Case, device: torch.device, dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    shape, heads = case.shape, (case.shape.heads, case.shape.kv_heads, case.shape.kv_heads, case.shape.heads)
    tensors = [
        torch.randn(case.shared.num_tokens, count, shape.head, device=device, dtype=dtype) for count in heads
    ]
    given = {True: tensors, False: [tensor[case.slots] for tensor in tensors]}
    runs, wanted = {}, None
    for name, share, attention in layer_providers(case, device):
        inputs = [tensor.clone().requires_grad_() for tensor in given[share][:3]]

        def run(attention=attention, inputs=inputs, grad=given[share][3]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(attention(*inputs), inputs, grad)

        out = attention(*inputs).detach().float()
        out = out[case.slots] if share else out
        wanted = out if wanted is None else wanted
        error = float((out - wanted).norm() / wanted.norm())
        if error > (1e-4 if dtype == torch.float32 else 2e-2):
            raise SystemExit(
                f"[bench] {name}: expected the output of the others, got one that is {error:.1e} off"
            )
        runs[name] = run
    rows = compare(runs, rounds, device.type, 3)
    # per (query, key) pair and head of width K: forward 4 K, backward 10 K operations
    show(
        f"one layer, {shape.title()}, {dtype}",
        rows,
        14 * shape.head * shape.heads * case.pairs() / 1e9,
        "GFLOP",
    )
    return [{"part": "layer", **asdict(shape), "provider": name, **row} for name, row in rows.items()]


def model(case: Case, device: torch.device, dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    """Compare and time hidden states of the predicting tokens with gradients of all weights."""
    from transformers import Qwen2Config, Qwen2Model

    shape = case.shape
    width = shape.heads * shape.head
    config = Qwen2Config(
        vocab_size=1100, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=LAYERS,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=16384,
    )  # fmt: skip
    found = {"fastrl, shared": (PREFIX, case.shared), "fastrl, repeated": (PREFIX, case.repeated)}
    found["padded SDPA"] = (SDPA, case.repeated)
    if device.type == "cuda":
        found["FlexAttention, repeated"] = (FLEX, case.repeated)
        if importlib.util.find_spec("flash_attn"):
            found["flash-attn, repeated"] = (FLASH, case.repeated)
    runs, wanted = {}, None
    for name, (attention, batch) in found.items():
        torch.manual_seed(0)
        body = Qwen2Model._from_config(copy.deepcopy(config), attn_implementation=attention).to(device)
        policy = Headless(body, dtype, attention)

        def run(policy=policy, batch=batch) -> Tensor:
            policy.model.zero_grad(set_to_none=True)
            hidden = policy.hidden(batch)
            hidden.float().square().mean().backward()
            return hidden.detach()

        hidden = run().float()
        wanted = hidden if wanted is None else wanted
        error = float((hidden - wanted).norm() / wanted.norm())
        if error > (1e-4 if dtype == torch.float32 else 5e-2):
            raise SystemExit(
                f"[bench] {name}: expected the output of the others, got one that is {error:.1e} off"
            )
        runs[name] = run
    rows = compare(runs, rounds, device.type, 2)
    weights = sum(p.numel() for p in body.layers.parameters())
    work = 6 * weights * case.shared.num_tokens + 14 * width * LAYERS * case.pairs()
    show(f"{LAYERS} layers, {shape.title()}, {dtype}", rows, work / 1e9, "GFLOP")
    return [{"part": "model", **asdict(shape), "provider": name, **row} for name, row in rows.items()]


class Headless(Policy):
    """Policy without a head, used for its hidden states."""

    def __init__(self, body: torch.nn.Module, dtype: torch.dtype, attention: str) -> None:
        self.model, self.dtype, self.attention, self.device = body, dtype, attention, body.device


def flags(parser: argparse.ArgumentParser) -> None:
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--shapes", choices=tuple(SHAPES), default="gpu" if on_gpu else "cpu")
    parser.add_argument(
        "--dtype", default="bfloat16" if on_gpu else "float32", choices=("float32", "bfloat16")
    )
    parser.add_argument("--part", choices=("layer", "model"), help="run only this part")
    parser.add_argument("--wheels", type=Path, help="a folder with competitors' wheels or files")


def main() -> None:
    given = arguments(OP, flags)
    if given.wheels is not None:
        add_wheels(given.wheels)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: list[dict[str, object]] = []
    for shape in SHAPES[given.shapes][: 1 if given.small else None]:
        case = Case.of(shape, device)
        for part in (layer, model):
            if given.part in (None, part.__name__):
                results += part(case, device, getattr(torch, given.dtype), given.rounds)
    finish(OP, [{"dtype": given.dtype, **row} for row in results], given.out)


if __name__ == "__main__":
    main()
