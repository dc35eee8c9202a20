"""The transfer reward's modes force (the answer after a forcing text) and teacher (its probability)."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from fastrl.config import TransferConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.rewards.cuts import Cutter, draw_tau

TEXTS = ["3+4 is 7 🙂 so \\boxed{7}", "seven 界", "a" * 30, ""]
PROMPTS = [[{"role": "user", "content": question}] for question in ("3+4?", "3+4?", "2+5?", "2+5?")]
FORCED = "\n\nThe final answer is \\boxed{"


def call(engine, tokenizer, grader, **options):
    config = TransferConfig(num_cuts=3, **options)
    reward = TransferReward(engine, tokenizer, grader, config, 32, seed=5)
    extra, metrics = {}, {}
    rewards = reward(
        PROMPTS,
        TEXTS,
        [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS],
        solution=["7", "7", "12", "7"],
        trainer_state=SimpleNamespace(global_step=2),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    return rewards, extra["cuts"], metrics


def test_teacher_is_the_models_probability_of_the_answer(checkpoints, bpe, grader):
    path = str(checkpoints["qwen3"])
    engine = TorchEngine.from_pretrained(path, dtype=torch.float32, device=torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    rewards, logged, metrics = call(engine, bpe, grader, mode="teacher")
    encode = lambda text: engine.tokenizer.encode(text, add_special_tokens=False)
    cutter = Cutter(bpe, engine.tokenizer, strip_answer=False)
    total, distinct = 0.0, set()
    for row, text in enumerate(TEXTS):
        prompt = encode(
            engine.tokenizer.apply_chat_template(PROMPTS[row], tokenize=False, add_generation_prompt=True)
        )
        answer = encode(["7}", "7}", "12}", "7}"][row])
        taus = [draw_tau(5, "tau", 2, "rollout", row, k) for k in range(3)]
        own = []
        for k, cut in enumerate(cutter.cut(bpe.encode(text, add_special_tokens=False), taus)):
            whole = [*prompt, *cut.receiver_ids, *encode(FORCED), *answer]
            distinct |= {tuple(whole[:i]) for i in range(1, len(whole) + 1)}
            with torch.no_grad():
                logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            places = range(len(whole) - len(answer), len(whole))
            expected = float(sum(logp[t - 1, whole[t]] for t in places))
            assert logged[row][k]["answer_logprob"] == pytest.approx(expected, abs=1e-4)
            own.append(torch.tensor(expected).exp().item())
        assert rewards[row] == pytest.approx(sum(own) / 3, rel=1e-3)
        total += sum(own) / 3
    assert metrics["transfer/mean"] == pytest.approx(total / 4, rel=1e-3)
    assert engine.stats().scored_tokens == len(distinct)
    assert engine.stats().requests == 0  # nothing was sampled


def test_force_samples_only_the_answer(checkpoints, byte, grader):
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )
    seen = []
    ask = engine.continue_prefixes

    def listening(trees, sampling):
        seen.extend([branch for tree in trees for branch in tree.branches])
        assert sampling.stop == ("}",)
        return ask(trees, sampling)

    engine.continue_prefixes = listening
    rewards, logged, _ = call(engine, byte, grader, mode="force", num_continuations=2, answer_tokens=5)
    assert all(engine.tokenizer.decode(branch.token_ids).endswith(FORCED) for branch in seen)
    assert {branch.max_new_tokens for branch in seen} == {5}
    written = [c for row in logged for cut in row for c in cut["continuations"]]
    assert len(written) == 4 * 3 * 2
    assert all(reward in {i / 6 for i in range(7)} for reward in rewards)


def test_forced_answers_are_graded_with_what_forced_them(byte, grader):
    class Answers:
        max_model_len, tokenizer = 4096, byte

        def continue_prefixes(self, trees, sampling):
            from fastrl.types import Completion

            ids = byte.encode("7}", add_special_tokens=False)
            one = Completion(token_ids=ids, logprobs=[], finish_reason="stop", text="7}")
            return [[[one] * branch.num_samples for branch in tree.branches] for tree in trees]

    rewards, _, _ = call(Answers(), byte, grader, mode="force")
    assert rewards == [1.0, 1.0, 0.0, 1.0]


def test_a_receiver_that_is_the_reference_scores_in_the_same_prefill(checkpoints, byte, grader):
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )
    ids = [byte.encode(text, add_special_tokens=False) for text in TEXTS]
    found = {}
    for ref_temperature in (None, 0.7):
        config = TransferConfig(num_cuts=3, num_continuations=2, slack_tokens=4)
        reward = TransferReward(engine, byte, grader, config, 32, 5, ref_temperature)
        extra, before = {}, engine.stats()
        rewards = reward(
            PROMPTS, TEXTS, ids, solution=["7"] * 4, trainer_state=SimpleNamespace(global_step=2),
            log_extra=extra.__setitem__,
        )  # fmt: skip
        after = engine.stats()
        prefilled = after.prefill_tokens - before.prefill_tokens
        found[ref_temperature] = (rewards, extra["cuts"], extra.get("ref_logprobs"), prefilled)
    plain, scored = found[None], found[0.7]
    assert plain[:2] == scored[:2]
    assert plain[2] is None
    encode = lambda text: engine.tokenizer.encode(text, add_special_tokens=False)
    prompts = [
        encode(engine.tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True))
        for p in PROMPTS
    ]
    whole = [[*prompt, *own] for prompt, own in zip(prompts, ids, strict=True)]
    nodes = {  # a tree a question
        (question, *sequence[:i])
        for question, sequence in zip([0, 0, 1, 1], whole, strict=True)
        for i in range(1, len(sequence) + 1)
    }
    assert plain[3] == scored[3] == len(nodes)
    for sequence, own, expected in zip(whole, ids, engine.score(whole, 0.7), strict=True):
        row = scored[2][whole.index(sequence)]
        assert row == pytest.approx(expected.logprobs[len(sequence) - len(own) :], abs=1e-5)
    assert [len(row) for row in scored[2]] == [len(own) for own in ids]


def test_what_the_modes_refuse():
    with pytest.raises(ValueError, match="forcing_end: expected at least one character"):
        TransferConfig(mode="teacher", forcing_end="")
    assert TransferConfig(forcing_end="").mode == "sample"
