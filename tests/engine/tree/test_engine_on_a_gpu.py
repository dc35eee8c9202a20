"""The tree engine on a GPU, with its Triton kernels."""

import pytest
import torch
from engine_cases import ragged_trees

from fastrl.engine.tree.engine import TorchEngine
from fastrl.types import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FAMILIES = ["qwen3", "llama", "gemma2", "mistral_window"]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_trees_are_those_of_the_cpu(family, checkpoints, name):
    engine = TorchEngine.from_pretrained(
        str(checkpoints[name]), dtype=torch.float32, device=torch.device("cuda")
    )
    trees, sampling = ragged_trees(seed=1), SamplingParams(temperature=0)
    expected = family(name).engine.continue_prefixes(trees, sampling)
    found = engine.continue_prefixes(trees, sampling)
    for ours, theirs in zip(found, expected, strict=True):
        assert [[c.token_ids for c in b] for b in ours] == [[c.token_ids for c in b] for b in theirs]
    assert engine.pool.used_tokens == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_scores_are_near(family, checkpoints, name):
    engine = TorchEngine.from_pretrained(
        str(checkpoints[name]), dtype=torch.bfloat16, device=torch.device("cuda")
    )
    (tree,) = ragged_trees(seed=2, num_trees=1)
    sequences = [[*tree.prompt_ids, *branch.token_ids] for branch in tree.branches]
    for ours, exact in zip(engine.score(sequences), family(name).engine.score(sequences), strict=True):
        assert ours.logprobs == pytest.approx(exact.logprobs, abs=0.3)
    completions = engine.continue_prefixes([tree], SamplingParams())[0]
    assert [len(samples) for samples in completions] == [branch.num_samples for branch in tree.branches]
