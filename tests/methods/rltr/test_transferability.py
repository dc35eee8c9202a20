"""Transferability: prefixes at each tau, success by hand, removed answers, intervals."""

import pytest
import torch
from checkpoints import byte_tokenizer
from scripted import ScriptedEngine

from fastrl.data import Problem
from fastrl.engine.tree.engine import TorchEngine
from fastrl.evaluate.accuracy import evaluate
from fastrl.grading import AnswerGrader
from fastrl.methods.rltr.transferability import area_under, transferability
from fastrl.types import Completion, SamplingParams

TEXT = r"one two ten so it is \boxed{10}"  # 31 bytes; \boxed begins at 21


def problem(index, question, solution="10"):
    return Problem(index=index, messages=[{"role": "user", "content": question}], solution=solution)


def completion(text):
    tokenizer = byte_tokenizer()
    token_ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return Completion(token_ids=token_ids, logprobs=[0.0] * len(token_ids), finish_reason="stop", text=text)


def measure(write, problems, completions, **options):
    engine = ScriptedEngine(write)
    with AnswerGrader(num_workers=1) as grader:
        found = transferability(
            engine, byte_tokenizer(), problems, completions, grader, max_new_tokens=50, seed=3, **options
        )
    return found, engine


def test_the_receiver_reads_the_prefix_at_every_tau():
    _, engine = measure(
        lambda *asked: "", [problem(0, "q")], [[completion(TEXT)]], taus=(0.0, 0.5, 0.7, 1.0), slack_tokens=8
    )
    # floor(31 tau) bytes: 0, 15, 21, 31; the end token is none of the length.
    assert [prefix for _, prefix, _, _ in engine.asked] == ["", TEXT[:15], TEXT[:21], TEXT]
    assert [question for question, _, _, _ in engine.asked] == ["q"] * 4
    assert [most for _, _, most, _ in engine.asked] == [50 - cut + 8 for cut in (0, 15, 21, 31)]
    assert len({seed for _, _, _, seed in engine.asked}) == 4


def test_success_is_counted_by_hand():
    def write(question, prefix, sample, seed):
        """Right in (tau index + 1) of 4 samples for "easy", never for "hard"; one never ends."""
        if question == "hard":
            return r"\boxed{9}"
        done = {TEXT[:7]: 1, TEXT[:15]: 2, TEXT[:29]: 3}[prefix]
        if sample < done:
            return " so " + r"\boxed{10}"
        return None if sample == 3 else r"\boxed{11}"

    problems = [problem(0, "easy"), problem(1, "hard")]
    found, _ = measure(write, problems, [[completion(TEXT)], [completion(TEXT)]], taus=(0.25, 0.5, 0.95))
    assert found.success == pytest.approx([1 / 8, 2 / 8, 3 / 8])
    assert found.per_problem == [[0.25, 0.5, 0.75], [0, 0, 0]]
    area = (0.25 * (0.25 + 0.5) / 2 + 0.45 * (0.5 + 0.75) / 2) / 0.7
    assert found.auc == pytest.approx(area / 2)
    assert (found.low, found.high) == (0.0, pytest.approx(area))
    assert found.unfinished == pytest.approx(3 / 24)
    assert found.with_answer == [0, 0, 1]  # 29 bytes end in \boxed{1


def test_problems_weigh_the_same_however_many_completions_they_have():
    def write(question, prefix, sample, seed):
        return r" \boxed{10}" if question == "a" else r" \boxed{1}"

    completions = [[completion(TEXT)], [completion(TEXT), completion("other words entirely")]]
    found, engine = measure(
        write, [problem(0, "a"), problem(1, "b")], completions, taus=(0.2,), num_continuations=3
    )
    assert found.success == [0.5] and found.auc == 0.5
    assert len(engine.asked) == 3


def test_stripping_takes_the_answer_away():
    def write(question, prefix, sample, seed):
        """Reads the answer off the prefix, and knows nothing of its own."""
        return "" if prefix.endswith("}") else r" \boxed{0}"

    options = {"taus": (0.4, 1.0), "num_continuations": 1}
    plain, _ = measure(write, [problem(0, "q")], [[completion(TEXT)]], **options)
    stripped, engine = measure(write, [problem(0, "q")], [[completion(TEXT)]], strip_answer=True, **options)
    assert plain.success == [0, 1] and plain.with_answer == [0, 1]
    assert stripped.success == [0, 0] and stripped.with_answer == [0, 0]
    assert [prefix for _, prefix, _, _ in engine.asked] == [TEXT[:12], TEXT[:21]]


def test_area_under_a_curve():
    assert area_under((0.3,), [0.7]) == 0.7
    assert area_under((0.0, 1.0), [0.0, 1.0]) == 0.5
    # Uneven grid: 0.1 * (0 + 1) / 2 + 0.4 * 1, over 0.5.
    assert area_under((0.1, 0.2, 0.6), [0.0, 1.0, 1.0]) == pytest.approx(0.9)


@pytest.mark.parametrize("taus", [(), (0.5, 0.5), (0.5, 0.2), (-0.1,), (1.1,)])
def test_a_wrong_grid_is_refused(taus):
    with pytest.raises(ValueError, match=r"\[transferability\] taus: expected rising numbers in \[0, 1\]"):
        measure(lambda *asked: "", [problem(0, "q")], [[completion(TEXT)]], taus=taus)


@pytest.mark.parametrize("completions", [[], [[]], [[completion(TEXT)]] * 2])
def test_completions_must_match_the_problems(completions):
    with pytest.raises(ValueError, match=r"\[transferability\] completions: expected"):
        measure(lambda *asked: "", [problem(0, "q")], completions)


def test_real_engines_of_two_families_and_the_same_bits_again(checkpoints):
    def load(family):
        return TorchEngine.from_pretrained(
            str(checkpoints[family]), dtype=torch.float32, device=torch.device("cpu")
        )

    policy, receiver = load("qwen3"), load("llama")
    problems = [problem(0, "1+2=?", "3"), problem(1, "2+2=?", "4")]
    with AnswerGrader(num_workers=1) as grader:
        sampling = SamplingParams(max_new_tokens=10)
        result = evaluate(policy, problems, grader, num_samples=2, sampling=sampling, seed=0)
        options = {"max_new_tokens": 10, "slack_tokens": 4, "taus": (0.25, 0.5, 1.0), "num_continuations": 2}
        runs = [
            transferability(
                receiver, policy.tokenizer, problems, result.completions, grader, seed=seed, **options
            )
            for seed in (1, 1)
        ]
    assert runs[0] == runs[1]
    assert len(runs[0].per_problem) == 2 and all(len(curve) == 3 for curve in runs[0].per_problem)
    assert receiver.stats().requests == 2 * 2 * 2 * 3 * 2  # runs, problems, completions, taus, continuations
