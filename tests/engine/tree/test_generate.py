import pytest
import torch
from engine_cases import CPU, ids

from fastrl.engine.tree.engine import TorchEngine
from fastrl.types import Branch, PrefixTree, SamplingParams

FAMILIES = ["qwen3", "llama", "gpt2", "gemma2", "mistral_window"]


def prompts(seed: int, *lengths: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [ids(g, length) for length in lengths]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_the_models_own_argmax(family, name):
    f = family(name)
    given = prompts(1, 5, 1, 17, 8)
    found = f.engine.generate(given, SamplingParams(max_new_tokens=14, temperature=0), seeds=[0] * 4, n=2)
    for prompt, completions in zip(given, found, strict=True):
        expected = f.greedy(prompt, 14)
        for c in completions:
            assert c.token_ids == expected
            logprobs = f.logits(prompt + c.token_ids).log_softmax(-1)[len(prompt) - 1 : -1]
            own = logprobs.gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(c.logprobs).double(), own, rtol=0, atol=1e-4)


def test_sampled_logprobs_are_those_of_the_filtered_distribution(family):
    f = family("qwen3")
    (prompt,) = prompts(2, 6)
    sampling = SamplingParams(max_new_tokens=12, temperature=0.7, top_k=40, top_p=0.9)
    for c in f.engine.generate([prompt], sampling, seeds=[3], n=5)[0]:
        for t, token in enumerate(c.token_ids):
            logits = f.logits(prompt + c.token_ids[:t])[-1] / 0.7
            kept = logits >= logits.topk(40).values[-1]
            p = logits.masked_fill(~kept, -torch.inf).softmax(-1)
            ranked, order = p.sort(descending=True)
            nucleus = order[: int((ranked.cumsum(0) < 0.9).sum()) + 1]
            assert token in nucleus
            assert c.logprobs[t] == pytest.approx(float((p[token] / p[nucleus].sum()).log()), abs=1e-4)


def test_a_completion_depends_only_on_its_own_seed(family):
    engine = family("qwen3").engine
    given = prompts(3, *range(1, 25))
    seeds = list(range(100, 124))
    sampling = SamplingParams(max_new_tokens=40, temperature=1.0)
    together = engine.generate(given, sampling, seeds=seeds, n=4)
    assert engine.generate(given, sampling, seeds=seeds, n=4) == together  # same bits
    backwards = engine.generate(given[::-1], sampling, seeds=seeds[::-1], n=4)[::-1]
    for i, (a, b) in enumerate(zip(together, backwards, strict=True)):
        alone = engine.generate([given[i]], sampling, seeds=[seeds[i]], n=2)[0] if i % 6 == 0 else a[:2]
        for x, y in [*zip(a, b, strict=True), *zip(a[:2], alone, strict=True)]:
            assert x.token_ids == y.token_ids
            assert x.logprobs == pytest.approx(y.logprobs, abs=1e-4)
    firsts = {tuple(c.token_ids) for completions in together for c in completions}
    assert len(firsts) > 90  # samples of a prompt differ from each other
    lengths = {len(c.token_ids) for completions in together for c in completions}
    assert len(lengths) > 5  # rows did leave the batch at different times


@pytest.mark.parametrize("budget", [60, 400])
def test_requests_beyond_the_budget_wait_and_change_nothing(family, checkpoints, budget):
    f = family("llama")
    small = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=CPU, max_batch_tokens=budget
    )
    given = prompts(4, 3, 30, 12, 7, 30, 1)
    sampling = SamplingParams(max_new_tokens=18)
    expected = f.engine.generate(given, sampling, seeds=list(range(6)), n=3)
    found = small.generate(given, sampling, seeds=list(range(6)), n=3)
    assert [[c.token_ids for c in cs] for cs in found] == [[c.token_ids for c in cs] for cs in expected]
    assert small.stats().prefill_tokens == sum(map(len, given))  # n completions, one prefill


def test_completions_end_at_stops_and_limits(family):
    engine = family("qwen3").engine
    (prompt,) = prompts(5, 4)
    free = engine.generate([prompt], SamplingParams(max_new_tokens=40, temperature=1.3), seeds=[8], n=12)[0]
    stopped = [c for c in free if c.finish_reason == "stop"]
    for c in free:
        assert (c.token_ids[-1] == 1) == (c.finish_reason == "stop")
        assert 1 not in c.token_ids[:-1]
        assert len(c.token_ids) == 40 or c in stopped
        assert c.text == engine.tokenizer.decode(c.token_ids, skip_special_tokens=True)
    target = next(c for c in free if len(c.token_ids) > 20)
    token = target.token_ids[10]
    at = target.token_ids.index(token)
    j = free.index(target)
    cut = engine.generate(
        [prompt],
        SamplingParams(max_new_tokens=40, temperature=1.3, stop_token_ids=(token,)),
        seeds=[8],
        n=12,
    )[0][j]
    assert cut.token_ids == target.token_ids[: at + 1]
    assert cut.finish_reason == "stop"
    assert cut.logprobs == pytest.approx(target.logprobs[: at + 1], abs=1e-5)


def test_end_on_the_last_allowed_token_is_a_stop(family):
    engine = family("qwen3").engine
    (prompt,) = prompts(6, 4)
    first = engine.generate([prompt], SamplingParams(max_new_tokens=1, temperature=0), seeds=[0])[0][0]
    assert first.finish_reason == ("stop" if first.token_ids == [1] else "length")
    sampling = SamplingParams(max_new_tokens=1, temperature=0, stop_token_ids=tuple(first.token_ids))
    assert engine.generate([prompt], sampling, seeds=[0])[0][0].finish_reason == "stop"


def test_stop_strings_end_at_the_token_that_completes_them(family):
    engine = family("llama").engine
    (prompt,) = prompts(7, 4)
    free = engine.generate([prompt], SamplingParams(max_new_tokens=40), seeds=[1], n=8)[0]
    checked = 0
    for j, c in enumerate(free):
        text = c.text
        readable = [
            i for i in range(5, len(text) - 2) if text[i : i + 2].isascii() and text[i + 1].isprintable()
        ]
        if not readable:
            continue
        string = text[readable[0] : readable[0] + 2]
        sampling = SamplingParams(max_new_tokens=40, stop=("never there", string))
        cut = engine.generate([prompt], sampling, seeds=[1], n=8)[0][j]
        ends = [t for t in range(1, len(c.token_ids) + 1) if string in engine.tokenizer.decode(
            c.token_ids[:t], skip_special_tokens=True)]  # fmt: skip
        assert cut.token_ids == c.token_ids[: ends[0]]
        assert cut.finish_reason == "stop"
        checked += 1
    assert checked >= 3


def test_counters(family, checkpoints):
    engine = TorchEngine.from_pretrained(str(checkpoints["gpt2"]), dtype=torch.float32, device=CPU)
    given = prompts(8, 3, 9)
    found = engine.generate(given, SamplingParams(max_new_tokens=7), seeds=[0, 1], n=3)
    generated = sum(len(c.token_ids) for cs in found for c in cs)
    stats = engine.stats()
    assert (stats.requests, stats.prompt_tokens_asked, stats.prefill_tokens) == (6, 36, 12)
    assert (stats.generated_tokens, stats.decode_tokens) == (generated, generated - 6)
    assert stats.prefill_ms > 0
    assert stats.decode_ms > 0


def test_rows_that_ended_may_wait_beyond_the_longest_position(family):
    engine = family("gpt2").engine  # 512 learned positions
    g = torch.Generator().manual_seed(9)
    prompt = ids(g, 1)
    long = Branch(token_ids=ids(g, 506), max_new_tokens=5, seed=0)
    short = [Branch(token_ids=(), max_new_tokens=30, seed=seed) for seed in range(12)]
    tree = PrefixTree(prompt_ids=prompt, branches=[long, *short])
    found = engine.continue_prefixes([tree], SamplingParams())[0]
    sampling = SamplingParams(max_new_tokens=30)
    for branch, (completion,) in zip(short, found[1:], strict=True):
        expected = engine.generate([prompt], sampling, seeds=[branch.seed])[0][0]
        assert completion.token_ids == expected.token_ids


def test_weights_that_are_not_finite_are_reported(checkpoints):
    engine = TorchEngine.from_pretrained(str(checkpoints["llama"]), dtype=torch.float32, device=CPU)
    weights = {name: p.clone() for name, p in engine.decoder.model.named_parameters()}
    weights["lm_head.weight"][7] = torch.nan
    engine.load_weights(weights.items(), 1)
    for temperature in (0.0, 1.0):
        with pytest.raises(FloatingPointError, match="logits: expected numbers, got nan"):
            engine.generate([[5]], SamplingParams(max_new_tokens=3, temperature=temperature), seeds=[0])


def test_bad_requests(family):
    engine = family("qwen3").engine
    ok = SamplingParams(max_new_tokens=4)
    assert engine.generate([], ok, seeds=[]) == []
    with pytest.raises(ValueError, match=r"seeds: expected 2, one per prompt, got 1"):
        engine.generate([[5], [6]], ok, seeds=[1])
    with pytest.raises(ValueError, match=r"max_model_len 512, got 509 \+ 4"):
        engine.generate([[5] * 509], ok, seeds=[1])
    with pytest.raises(ValueError, match="at least one token"):
        engine.generate([[]], ok, seeds=[1])
    with pytest.raises(ValueError, match="n: expected >= 1"):
        engine.generate([[5]], ok, seeds=[1], n=0)
    with pytest.raises(ValueError, match=r"stop_token_ids: expected ids in \[0, 260\), got 260"):
        engine.generate([[5]], SamplingParams(max_new_tokens=4, stop_token_ids=(260,)), seeds=[1])
    with pytest.raises(ValueError, match=r"prompt: expected token ids in \[0, 260\), got 300"):
        engine.generate([[5, 300]], ok, seeds=[1])
