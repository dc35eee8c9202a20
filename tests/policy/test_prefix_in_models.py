"""attn_implementation="fastrl_prefix" in plain Hugging Face models, as other trainers use them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from fastrl.ops import TreeLayout, prefix_tree
from fastrl.policy.prefix_attention import PREFIX

FAMILIES = ["qwen3", "llama", "gemma2", "mistral_window", "gpt2"]


def models(path, dtype=torch.float32):
    return [
        AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=name).eval()
        for name in ("eager", PREFIX)
    ]


def draw(*shape) -> torch.Tensor:
    return torch.randint(4, 260, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forest(checkpoints, family):
    eager, ours = models(checkpoints[family], torch.float64)
    ids = draw(30).tolist()
    sequences = [[*ids[:20], 7, 8, 9], [*ids[:20], 7, 5], [*ids[:12], 4], ids[25:]]
    forest = prefix_tree(sequences, backend="reference")
    out = ours(
        input_ids=torch.from_numpy(forest.tokens)[None],
        position_ids=torch.from_numpy(forest.depths)[None],
        prefix_layout=TreeLayout.of(forest, torch.device("cpu")),
        use_cache=False,
    ).logits[0]
    alone = torch.cat([eager(torch.tensor([sequence])).logits[0] for sequence in sequences])
    torch.testing.assert_close(out[torch.from_numpy(forest.slots)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_by_their_positions(checkpoints, family):
    eager, ours = models(checkpoints[family])
    ids, lengths = draw(2, 24), ((9, 1, 14), (24,))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    packed = ours(input_ids=ids, position_ids=positions, use_cache=False).logits
    for row, parts in enumerate(lengths):
        begin = 0
        for length in parts:
            alone = eager(ids[row : row + 1, begin : begin + length]).logits[0]
            torch.testing.assert_close(packed[row, begin : begin + length], alone, rtol=1e-4, atol=2e-5)
            begin += length


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(checkpoints, family, side):
    eager, ours = models(checkpoints[family])
    ids, real = draw(3, 12), (12, 5, 8)
    mask = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate(real):
        mask[row, slice(12 - length, None) if side == "left" else slice(0, length)] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for given in ({}, {"position_ids": positions}):
        wanted, got = (
            model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits[mask.bool()]
            for model in (eager, ours)
        )
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)


def test_gradients_of_a_padded_batch(checkpoints):
    ids, mask = draw(2, 10), torch.ones(2, 10, dtype=torch.long)
    mask[1, :4] = 0
    labels, grads = ids.masked_fill(mask == 0, -100), []
    labels[1, 4] = -100  # padding would predict it
    for model in models(checkpoints["qwen3"]):
        model.train()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache(checkpoints, family):
    ids, mask = draw(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    by = [
        model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        for model in models(checkpoints[family])
    ]
    assert torch.equal(*by)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_mask_that_is_given(checkpoints, family):
    """[B, 1, N, N], as a caller makes it: what it shows is seen, nothing else."""
    eager, ours = models(checkpoints[family])
    ids, sees = draw(1, 9), torch.ones(9, 9, dtype=torch.bool).tril()
    sees[6:, 2:4] = False
    mask = torch.zeros(1, 1, 9, 9).masked_fill(~sees, torch.finfo(torch.float32).min)
    wanted = eager(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for given in (mask, sees[None, None]):
        got = ours(input_ids=ids, attention_mask=given, use_cache=False).logits
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)


def test_refusals(checkpoints):
    _, ours = models(checkpoints["llama"])
    mask = torch.tensor([[1, 1, 0, 1]])
    with pytest.raises(ValueError, match=r"attention_mask: expected padding at the ends of a row"):
        ours(input_ids=draw(1, 4), attention_mask=mask)
    layout = TreeLayout.packed([0, 3])
    with pytest.raises(ValueError, match=r"tree: expected one of 4 tokens, got one of 3"):
        ours(input_ids=draw(1, 4), prefix_layout=layout, use_cache=False)
    ours.train()
    for layer in ours.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"dropout: expected 0, got 0.1"):
        ours(input_ids=draw(1, 4), use_cache=False)
