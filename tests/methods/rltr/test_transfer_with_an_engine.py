"""The transfer reward over the embedded engine: its continuations equal plain generation."""

from types import SimpleNamespace

import pytest
import torch

from fastrl.config import TransferConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.rewards.cuts import Cutter, draw_tau
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

TEXTS = ["3+4 is 7 🙂 so \\boxed{7}", "seven 界", "a" * 30, "7"]
PROMPTS = [[{"role": "user", "content": question}] for question in ("3+4?", "3+4?", "2+5?", "2+5?")]
MAX_NEW, SLACK = 32, 4


@pytest.fixture(scope="module")
def engine(checkpoints):
    return TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )


def call(engine, policy_tokenizer, grader, **options):
    config = TransferConfig(num_cuts=2, num_continuations=2, slack_tokens=SLACK, **options)
    reward = TransferReward(engine, policy_tokenizer, grader, config, MAX_NEW, seed=5)
    extra = {}
    rewards = reward(
        PROMPTS,
        TEXTS,
        [policy_tokenizer.encode(text, add_special_tokens=False) for text in TEXTS],
        solution=["7"] * 4,
        trainer_state=SimpleNamespace(global_step=2),
        log_extra=extra.__setitem__,
    )
    return rewards, extra["cuts"]


def test_continuations_are_those_of_plain_generation(engine, bpe, grader):
    before = engine.stats()
    rewards, logged = call(engine, bpe, grader)
    after = engine.stats()
    cutter = Cutter(bpe, engine.tokenizer, strip_answer=False)
    for row, text in enumerate(TEXTS):
        taus = [draw_tau(5, "tau", 2, "rollout", row, k) for k in range(2)]
        prompt = engine.tokenizer.apply_chat_template(
            PROMPTS[row], tokenize=False, add_generation_prompt=True
        )
        prompt_ids = engine.tokenizer.encode(prompt, add_special_tokens=False)
        for k, cut in enumerate(cutter.cut(bpe.encode(text, add_special_tokens=False), taus)):
            sampling = SamplingParams(
                temperature=0.7, top_p=0.95, max_new_tokens=MAX_NEW - cut.position + SLACK
            )
            (plain,) = engine.generate(
                [[*prompt_ids, *cut.receiver_ids]], sampling, seeds=[seed_of(5, "transfer", 2, row, k)], n=2
            )
            record = logged[row][k]
            assert [c["text"] for c in record["continuations"]] == [c.text for c in plain]
            assert [c["finish_reason"] for c in record["continuations"]] == [c.finish_reason for c in plain]
    assert all(0.0 <= reward <= 1.0 for reward in rewards)
    assert after.requests - before.requests == 16
    assert (
        after.prefill_tokens - before.prefill_tokens < after.prompt_tokens_asked - before.prompt_tokens_asked
    )


def test_twice_the_same(engine, byte, grader):
    assert call(engine, byte, grader) == call(engine, byte, grader)
    assert call(engine, byte, grader)[1] != call(engine, byte, grader, temperature=1.0)[1]
