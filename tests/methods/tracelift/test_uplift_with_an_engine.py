"""The uplift reward over the embedded engine: its answers equal plain generation; prefixes are shared."""

from types import SimpleNamespace

import pytest
import torch

from fastrl.config import ExecutorConfig, UpliftConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.tracelift.verifiers import MathVerifier
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

QUESTIONS = ["3+4?", "3+4?", "2+5?", "3+4?"]
TRACES = ["first 3", "first 4", "x", "first 3"]
OPTIONS = {"system": "be brief", "begin": "So:", "max_new_tokens": 12, "temperature": 0.7, "top_p": 0.9}


@pytest.fixture(scope="module")
def engine(checkpoints):
    return TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )


def make(engine, grader, **options):
    config = UpliftConfig(form="uplift", baseline_repeats=2, executor=ExecutorConfig(**OPTIONS), **options)
    return UpliftReward(Executor(engine, config.executor, MathVerifier(grader)), config, None, seed=5)


def call(reward, step=2):
    extra, metrics = {}, {}
    rewards = reward(
        QUESTIONS, TRACES, question=QUESTIONS, solution=["7"] * 4, log_extra=extra.__setitem__,
        trainer_state=SimpleNamespace(global_step=step), log_metric=metrics.__setitem__,
    )  # fmt: skip
    return rewards, extra, metrics


def plain(engine, reward, question, trace, seed, n):
    messages = reward.executor.prompts.messages(question, trace)
    text = engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + "So:"
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=12)
    (samples,) = engine.generate([ids], sampling, seeds=[seed], n=n)
    return ["So:" + sample.text for sample in samples], len(ids)


def test_answers_are_those_of_plain_generation(engine, grader):
    reward = make(engine, grader)
    before = engine.stats()
    rewards, logged, _ = call(reward)
    after = engine.stats()
    assert all(0 <= value <= 1 for value in rewards)
    assert after.requests - before.requests == 4 * 4 + 2 * 2
    lengths = []
    for row in range(4):
        seed = seed_of(5, "uplift", 2, row)
        texts, length = plain(engine, reward, QUESTIONS[row], TRACES[row], seed, 4)
        lengths.append(length)
        assert logged["executor_answer"][row] == texts[0]
    for question in ("3+4?", "2+5?"):
        texts, length = plain(engine, reward, question, None, seed_of(5, "baseline", question), 2)
        lengths.append(length)
        kept = [found for key, found in reward.executor._cache.items() if key[0] == question]
        assert [answer.text for answer in kept[0]] == texts
    assert after.prompt_tokens_asked - before.prompt_tokens_asked == 4 * sum(lengths[:4]) + 2 * sum(
        lengths[4:]
    )
    # what the prompts of a question begin with alike, and the one trace that came twice, are read once
    assert after.prefill_tokens - before.prefill_tokens < sum(lengths) - lengths[3]


def test_twice_the_same_and_a_cached_baseline_is_what_it_was(engine, grader):
    one, other = make(engine, grader), make(engine, grader)
    assert call(one) == call(other)
    rewards, logged, metrics = call(one, step=3)
    assert metrics["uplift/cached"] == 1.0
    # a run that went on makes the baseline again, and it is the same
    anew, again, _ = call(make(engine, grader), step=3)
    assert (rewards, logged) == (anew, again)
    assert call(one)[1]["executor_answer"] != logged["executor_answer"]
