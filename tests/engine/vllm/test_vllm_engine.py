"""A real vLLM (CPU build) behind the Engine protocol gives the embedded engine's answers."""

from functools import cache

import pytest
import torch
from engine_cases import CPU, ids, ragged_trees
from vllm_cases import CONFIGS, Oracle, vllm_engine, write

from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.vllm.adapter import BLOCK, unusable
from fastrl.types import Branch, PrefixTree, SamplingParams

pytestmark = pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
FAMILIES = list(CONFIGS)


class Both:
    """One checkpoint in vLLM, in the embedded engine and in float64."""

    def __init__(self, path) -> None:
        self.path = str(path)
        self.vllm = vllm_engine(self.path)
        self.torch = TorchEngine.from_pretrained(self.path, dtype=torch.float32, device=CPU)
        self.oracle = Oracle(path)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "vllm"
    return cache(lambda name: Both(write(folder / name, name)))


def prompts(seed: int, *lengths: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [ids(g, length) for length in lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_the_embedded_engines(both, name):
    b = both(name)
    given = prompts(1, 5, 1, 17, 40)
    sampling = SamplingParams(max_new_tokens=14, temperature=0)
    expected = b.torch.generate(given, sampling, seeds=[0] * 4, n=2)
    found = b.vllm.generate(given, sampling, seeds=[0] * 4, n=2)
    for prompt, own, others in zip(given, found, expected, strict=True):
        for c, e in zip(own, others, strict=True):
            assert (c.token_ids, c.text, c.finish_reason) == (e.token_ids, e.text, e.finish_reason)
            assert c.logprobs == pytest.approx(b.oracle.own_logprobs(prompt, c.token_ids), abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_logprobs_are_the_models(both, name):
    b = both(name)
    given = prompts(2, 6, 33)
    for prompt, completions in zip(
        given, b.vllm.generate(given, SamplingParams(max_new_tokens=12), seeds=[3, 4], n=3), strict=True
    ):
        for c in completions:
            assert c.logprobs == pytest.approx(b.oracle.own_logprobs(prompt, c.token_ids), abs=1e-5)


def test_filters_change_logprobs_as_they_change_draws(both):
    b = both("qwen3")
    (prompt,) = prompts(2, 6)
    sampling = SamplingParams(max_new_tokens=12, temperature=0.7, top_k=40, top_p=0.9)
    for c in b.vllm.generate([prompt], sampling, seeds=[3], n=5)[0]:
        for t, token in enumerate(c.token_ids):
            logits = b.oracle.logits(prompt + c.token_ids[:t])[-1] / 0.7
            kept = logits >= logits.topk(40).values[-1]
            p = logits.masked_fill(~kept, -torch.inf).softmax(-1)
            ranked, order = p.sort(descending=True)
            nucleus = order[: int((ranked.cumsum(0) < 0.9).sum()) + 1]
            assert token in nucleus
            assert c.logprobs[t] == pytest.approx(float((p[token] / p[nucleus].sum()).log()), abs=1e-5)


def test_draws_follow_the_distribution(both):
    b = both("llama")
    (prompt,) = prompts(4, 9)
    drawn = b.vllm.generate([prompt], SamplingParams(max_new_tokens=1, top_k=4), seeds=[0], n=2000)[0]
    p = b.oracle.logits(prompt)[-1].topk(4)
    expected = dict(zip(p.indices.tolist(), (2000 * p.values.softmax(-1)).tolist(), strict=True))
    seen = {token: sum(c.token_ids == [token] for c in drawn) for token in expected}
    assert sum(seen.values()) == 2000
    chi_square = sum((seen[t] - expected[t]) ** 2 / expected[t] for t in expected)
    assert chi_square < 16.3  # p = 0.001 at 3 degrees of freedom


def test_a_completion_depends_only_on_its_own_seed(both):
    engine = both("qwen3").vllm
    given = prompts(3, *range(1, 13))
    seeds = list(range(100, 112))
    sampling = SamplingParams(max_new_tokens=30)
    together = engine.generate(given, sampling, seeds=seeds, n=3)
    assert engine.generate(given, sampling, seeds=seeds, n=3) == together  # same bits
    backwards = engine.generate(given[::-1], sampling, seeds=seeds[::-1], n=3)[::-1]
    for i, (a, b) in enumerate(zip(together, backwards, strict=True)):
        alone = engine.generate([given[i]], sampling, seeds=[seeds[i]], n=2)[0] if i % 4 == 0 else a[:2]
        for x, y in [*zip(a, b, strict=True), *zip(a[:2], alone, strict=True)]:
            assert x.token_ids == y.token_ids
            assert x.logprobs == pytest.approx(y.logprobs, abs=1e-4)
    assert len({tuple(c.token_ids) for completions in together for c in completions}) == 36


def test_what_ends_a_completion_is_kept(both):
    b = both("llama")
    (prompt,) = prompts(5, 7)
    free = SamplingParams(max_new_tokens=20, temperature=0)
    (plain,) = b.vllm.generate([prompt], free, seeds=[0])[0]
    letters = [t for t in plain.token_ids if b.vllm.tokenizer.decode([t]).isascii()]
    letter = b.vllm.tokenizer.decode([letters[-1]])
    for ending in (
        {"stop_token_ids": (plain.token_ids[4],)},
        {"stop": (letter,)},
        {"stop": ("never there", letter), "stop_token_ids": (plain.token_ids[-1],)},
    ):
        sampling = SamplingParams(max_new_tokens=20, temperature=0, **ending)
        (found,) = b.vllm.generate([prompt], sampling, seeds=[0])[0]
        (expected,) = b.torch.generate([prompt], sampling, seeds=[0])[0]
        assert found.finish_reason == expected.finish_reason == "stop"
        assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
        assert found.token_ids == plain.token_ids[: len(found.token_ids)]
    # the end token is one of 260: some samples meet it within 90
    (sampled,) = b.vllm.generate([prompt], SamplingParams(max_new_tokens=90), seeds=[1], n=30)
    ended = [c for c in sampled if c.finish_reason == "stop"]
    assert ended and all(c.token_ids.index(1) == len(c.token_ids) - 1 for c in ended)
    assert all(len(c.token_ids) == 90 for c in sampled if c.finish_reason == "length")


def tokens_until(tokenizer, ids: list[int], stop: tuple[str, ...]) -> list[int]:
    """The definition: up to the first token that is a stop, or after which the text has one."""
    for n, token in enumerate(ids, start=1):
        text = tokenizer.decode(ids[:n], skip_special_tokens=True)
        if tokenizer.convert_ids_to_tokens(token) in stop or any(each in text for each in stop):
            return ids[:n]
    return ids


@pytest.mark.parametrize("kind", ["torch", "vllm"])
def test_stop_strings_and_special_tokens_end_alike(both, kind):
    """A special token has no text: it ends a completion by itself, and hides no string that it stands in."""
    b = both("llama")
    engine, (prompt,) = getattr(b, kind), prompts(6, 5)
    free = SamplingParams(max_new_tokens=24, temperature=2.0)
    (plain,) = engine.generate([prompt], free, seeds=[1], n=80)
    around = [
        engine.tokenizer.decode([before, after])
        for each in plain
        for before, token, after in zip(each.token_ids, each.token_ids[1:], each.token_ids[2:], strict=False)
        if token in (2, 3)
    ]
    hidden = next(text for text in around if len(text) == 2 and text.isascii())
    for stop in (("<user>", "<assistant>"), (hidden,), ("<user>", hidden, "never there")):
        sampling = SamplingParams(max_new_tokens=24, temperature=2.0, stop=stop)
        (found,) = engine.generate([prompt], sampling, seeds=[1], n=80)
        ended = 0
        for c, whole in zip(found, plain, strict=True):
            assert c.token_ids == tokens_until(engine.tokenizer, whole.token_ids, stop)
            ended += len(c.token_ids) < len(whole.token_ids)
        assert ended


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_continued_prefixes_are_the_embedded_engines(both, name):
    b = both(name)
    trees = [*ragged_trees(seed=1, num_trees=3), PrefixTree(prompt_ids=[5], branches=[])]
    found = b.vllm.continue_prefixes(trees, SamplingParams(temperature=0))
    expected = b.torch.continue_prefixes(trees, SamplingParams(temperature=0))
    assert [[[c.token_ids for c in samples] for samples in tree] for tree in found] == [
        [[c.token_ids for c in samples] for samples in tree] for tree in expected
    ]


def test_sampled_continuations_are_those_of_the_whole_prefix(both):
    engine = both("qwen3").vllm
    (tree,) = ragged_trees(seed=2, num_trees=1)
    found = engine.continue_prefixes([tree], SamplingParams(temperature=0.7, top_p=0.95))[0]
    for branch, completions in zip(tree.branches, found, strict=True):
        own = SamplingParams(max_new_tokens=branch.max_new_tokens, temperature=0.7, top_p=0.95)
        prefix = [*tree.prompt_ids, *branch.token_ids]
        alone = engine.generate([prefix], own, seeds=[branch.seed], n=branch.num_samples)[0]
        assert [c.token_ids for c in completions] == [c.token_ids for c in alone]


def computed_by_blocks(paths: list[list[int]]) -> int:
    """Prefill tokens where a request finds the full blocks of earlier ones, and computes one at least."""
    block, there, computed = BLOCK["cpu"], set(), 0
    for path in sorted(paths):
        full = [tuple(path[:end]) for end in range(block, len(path) + 1, block)]
        hits = next((i for i, prefix in enumerate(full) if prefix not in there), len(full))
        computed += len(path) - block * min(hits, (len(path) - 1) // block)
        there |= set(full)
    return computed


def test_counters_are_those_of_shared_blocks(both):
    engine = both("llama").vllm
    g = torch.Generator().manual_seed(7)
    trees = []
    for _ in range(3):
        trunk = ids(g, 100)
        branches = [trunk[:95], trunk[:40], trunk[:23], (), trunk[:40] + ids(g, 30), trunk[:95]]
        trees.append(
            PrefixTree(
                prompt_ids=ids(g, 41),
                branches=[
                    Branch(token_ids=b, num_samples=1 + i % 2, max_new_tokens=5, seed=i)
                    for i, b in enumerate(branches)
                ],
            )
        )
    paths = [[*t.prompt_ids, *b.token_ids] for t in trees for b in t.branches for _ in range(b.num_samples)]
    for _ in range(2):  # nothing outlives a call
        before = engine.stats()
        found = engine.continue_prefixes(trees, SamplingParams())
        after = engine.stats()
        made = [len(c.token_ids) for tree in found for samples in tree for c in samples]
        counted = {name: getattr(after, name) - getattr(before, name) for name in before.__slots__}
        assert counted["requests"] == len(paths) == 27
        assert counted["prompt_tokens_asked"] == sum(map(len, paths))
        assert counted["prefill_tokens"] == computed_by_blocks(paths)
        assert counted["cached_tokens"] == sum(map(len, paths)) - computed_by_blocks(paths)
        assert counted["generated_tokens"] == sum(made) and counted["decode_tokens"] == sum(made) - 27
        context = [
            (p, len(c.token_ids))
            for p, c in zip(paths, [c for t in found for s in t for c in s], strict=True)
        ]
        reads = sum(len(p) + t for p, n in context for t in range(1, n))
        assert counted["kv_tokens_read"] == counted["kv_tokens_asked"] == reads
        assert counted["prefill_ms"] > 0 and counted["decode_ms"] > 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_against_float64(both, name, temperature):
    b = both(name)
    sequences = prompts(1, 7, 1, 30, 0, 12, 2, 3, 192)  # 192 positions are all that there are
    starts = [0, 0, 11, 0, 12, 1, 2, 1]
    for sequence, start, scores in zip(
        sequences, starts, b.vllm.score(sequences, temperature, starts), strict=True
    ):
        assert len(scores.logprobs) == len(scores.entropy) == len(scores.self_certainty) == len(sequence)
        first = max(1, start)
        assert not any(scores.logprobs[:first] + scores.entropy[:first] + scores.self_certainty[:first])
        if first >= len(sequence):
            continue
        logp = (b.oracle.logits(sequence) / temperature).log_softmax(-1)[first - 1 : -1]
        own = logp.gather(-1, torch.tensor(sequence[first:])[:, None])[:, 0]
        uniform = torch.full_like(logp, 1 / logp.shape[-1])
        for values, expected in (
            (scores.logprobs, own),
            (scores.entropy, -(logp.exp() * logp).sum(-1)),
            (scores.self_certainty, (uniform * (uniform.log() - logp)).sum(-1)),
        ):
            torch.testing.assert_close(torch.tensor(values[first:]).double(), expected, rtol=1e-5, atol=1e-5)


def test_branches_are_scored_in_the_call_that_continues_them(both):
    b = both("qwen3")
    (tree,) = ragged_trees(seed=3, num_trees=1)
    whole = Branch(token_ids=prompts(3, 30)[0], num_samples=0, max_new_tokens=500, seed=0)
    tree = PrefixTree(prompt_ids=tree.prompt_ids, branches=[*tree.branches, whole])
    sampling = SamplingParams(temperature=0)
    found, (logprobs,) = b.vllm.continue_and_score([tree], sampling, [(8, 2)], 0.8)
    assert found == b.vllm.continue_prefixes([tree], sampling) and found[0][8] == []
    assert logprobs.keys() == {8, 2}
    for branch, values in logprobs.items():
        path = [*tree.prompt_ids, *tree.branches[branch].token_ids]
        rows = (b.oracle.logits(path) / 0.8).log_softmax(-1)[len(tree.prompt_ids) - 1 : -1]
        own = rows.gather(-1, torch.tensor(tree.branches[branch].token_ids)[:, None])[:, 0]
        assert values == pytest.approx(own.tolist(), abs=1e-5)


def test_scores_are_fetched_in_chunks(both, monkeypatch):
    engine = both("llama").vllm
    sequences = prompts(8, 60)
    expected = engine.score(sequences)
    monkeypatch.setattr("fastrl.engine.vllm.engine._SCORE_ELEMENTS", 7 * 260)
    assert engine.score(sequences) == expected
    monkeypatch.setattr(
        "fastrl.engine.vllm.adapter.Vllm.measure_prompt", lambda *_: (torch.zeros(59, 4), [1.0] * 58)
    )
    with pytest.raises(RuntimeError, match=r"expected vLLM's own log-probs of 58 tokens"):
        engine.score(sequences)


def test_what_does_not_fit_is_refused(both):
    engine = both("qwen3").vllm
    one = SamplingParams(max_new_tokens=1)
    for call, message in (
        (lambda: engine.generate([[]], one, seeds=[0]), "prompt_ids: expected at least one token"),
        (lambda: engine.generate([[5] * 192], one, seeds=[0]), "<= max_model_len 192, got 192 . 1"),
        (lambda: engine.generate([[260]], one, seeds=[0]), r"token ids in \[0, 260\), got 260"),
        (lambda: engine.generate([[5]], one, seeds=[]), "seeds: expected 1, one per prompt, got 0"),
        (lambda: engine.generate([[5]], one, seeds=[0], n=0), "n: expected >= 1, got 0"),
        (
            lambda: engine.generate([[5]], SamplingParams(temperature=3), seeds=[0]),
            "temperature: expected 0 or",
        ),
        (
            lambda: engine.generate([[5]], SamplingParams(temperature=1e-3), seeds=[0]),
            "temperature: expected",
        ),
        (lambda: engine.generate([[5]], SamplingParams(stop=("",)), seeds=[0]), "at least one character"),
        (lambda: engine.generate([[5]], SamplingParams(stop_token_ids=(260,)), seeds=[0]), "got 260"),
        (lambda: engine.score([[5, 6]], 0.0), "temperature: expected > 0"),
        (lambda: engine.score([[5] * 193]), "expected <= max_model_len 192, got 193"),
        (lambda: engine.score([[5, -1]]), r"token ids in \[0, 260\), got -1"),
        (lambda: engine.score([[5]], 1.0, []), "starts: expected 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert engine.generate([], one, seeds=[]) == engine.score([]) == []
    assert len(engine.generate([[5] * 191], one, seeds=[0])[0][0].token_ids) == 1


def test_sleep_and_wake(both):
    engine = both("llama").vllm
    before = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])
    for _ in range(2):  # once more changes nothing
        engine.sleep()
    for call in (
        lambda: engine.generate([[9]], SamplingParams(max_new_tokens=1), seeds=[0]),
        lambda: engine.score([[9, 8]]),
        lambda: engine.load_weights([], 1),
    ):
        with pytest.raises(RuntimeError, match="expected awake, got asleep"):
            call()
    for _ in range(2):
        engine.wake()
    assert engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0]) == before
    with pytest.raises(ValueError, match="level: expected 1 or 2, got 3"):
        engine.sleep(3)


def test_an_error_leaves_no_request_behind(both, monkeypatch):
    engine = both("llama").vllm
    expected = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])
    tree = PrefixTree(
        prompt_ids=[9],
        branches=[Branch(token_ids=[8], num_samples=1, max_new_tokens=n, seed=0) for n in (2, 90)],
    )

    def failing(output):
        raise ArithmeticError("while another request runs")

    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr("fastrl.engine.vllm.adapter._output_of", failing)
        engine.continue_prefixes([tree], SamplingParams())
    assert engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0]) == expected
