"""Forests for prefix_attention and its expected output: each path on its own, in float64."""

from __future__ import annotations

import random

import torch

from fastrl.kernels.prefix_attention.layout import TreeLayout
from fastrl.ops import PrefixForest, prefix_attention, prefix_tree

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
# softcap, window
OPTIONS = {"plain": (None, None), "window": (None, 7), "softcap": (3.0, None), "both": (2.0, 12)}


def group(rng: random.Random, prompt: int, lengths: tuple[int, ...], vocab: int = 50) -> list[list[int]]:
    """Sequences below one prompt; a small vocabulary makes their beginnings meet by chance."""
    beginning = [rng.randrange(50) for _ in range(prompt)]
    return [beginning + [rng.randrange(vocab) for _ in range(length)] for length in lengths]


def forests(seed: int = 0) -> dict[str, list[list[int]]]:
    """Sequences by what is special in them."""
    rng = random.Random(seed)
    rollout = [rng.randrange(9) for _ in range(40)]
    cuts = [rollout[:at] + [20 + n] * (3 + n) for at in (5, 6, 17, 39, 40) for n in range(3)]
    return {
        "one token": [[5]],
        "one sequence": group(rng, 0, (37,)),
        "nothing shared": [[i, *each] for i, each in enumerate(group(rng, 0, (1, 33, 8, 16, 15, 17, 64)))],
        "a long trunk": group(rng, 70, (9, 30, 31, 5)),
        "many short rows": group(rng, 40, (3,) * 25),
        "shared by chance": group(rng, 12, (20,) * 6, vocab=2) + group(rng, 3, (14,) * 4, vocab=2),
        "cuts of a rollout": cuts,
        "every token is an end": [rollout[:n] for n in range(1, 30)],
        "twice the same": [rollout[:20]] * 2 + [rollout[:33]],
    }


def grown(sequences: list[list[int]], device=CPU) -> tuple[PrefixForest, TreeLayout]:
    forest = prefix_tree(sequences, backend="reference")
    return forest, TreeLayout.of(forest, torch.device(device))


def paths_of(sequences: list[list[int]], forest: PrefixForest) -> list[list[int]]:
    """For every slot the slots from its root down to itself, without a look at segments or intervals."""
    slots, found, begin = forest.slots.tolist(), {}, 0
    for sequence in sequences:
        path = slots[begin : begin + len(sequence)]
        begin += len(sequence)
        found |= {slot: path[: place + 1] for place, slot in enumerate(path)}
    return [found[slot] for slot in range(forest.num_slots)]


def expected(q, k, v, paths, scaling=None, softcap=None, window=None):
    """[M, Hq, Kv] float64, slot by slot."""
    q, k, v = (each.double() for each in (q, k, v))
    k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], dim=1) for each in (k, v))
    rows = []
    for slot, path in enumerate(paths):
        seen = path if window is None else path[-window:]
        scores = torch.einsum("hk,jhk->hj", q[slot], k[seen]) * (scaling or q.shape[2] ** -0.5)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        rows.append(torch.einsum("hj,jhk->hk", scores.softmax(-1), v[seen]))
    return torch.stack(rows)


def inputs(num_slots: int, heads=(4, 2), sizes=(8, 8), dtype=torch.float32, device=CPU):
    """query, key, value that want gradients, and the gradient that comes in."""
    (num_heads, num_kv_heads), (head, head_value) = heads, sizes
    shapes = ((num_heads, head), (num_kv_heads, head), (num_kv_heads, head_value), (num_heads, head_value))
    q, k, v, g = (torch.randn(num_slots, *shape, dtype=torch.float64) for shape in shapes)
    return tuple(each.to(device, dtype).requires_grad_() for each in (q, k, v)), g.to(device, dtype)


def with_gradients(function, tensors, grad):
    out = function(*tensors)
    return out, *torch.autograd.grad(out, tensors, grad.to(out.dtype))


def check(
    sequences, backend, dtype=torch.float32, device=CPU, softcap=None, window=None, scaling=None, **shapes
):
    """Output and gradients against the paths one by one."""
    forest, tree = grown(sequences, device)
    tensors, grad = inputs(forest.num_slots, dtype=dtype, device=device, **shapes)
    how = {"softcap": softcap, "window": window, "scaling": scaling}
    got = with_gradients(
        lambda q, k, v: prefix_attention(q, k, v, tree, backend=backend, **how), tensors, grad
    )
    exact = [each.detach().cpu().double().requires_grad_() for each in tensors]
    paths = paths_of(sequences, forest)
    want = with_gradients(lambda q, k, v: expected(q, k, v, paths, **how), exact, grad.cpu().double())
    for name, a, b in zip(("out", "query", "key", "value"), got, want, strict=True):
        assert a.dtype == dtype
        scale = max(1.0, float(b.detach().abs().max()))
        error = float((a.cpu().double() - b).detach().abs().max()) / scale
        assert error <= TOLERANCE[dtype], f"{name}: {error}"
