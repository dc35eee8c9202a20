"""The transfer reward, with receivers whose answers are computed from their prompts."""

import itertools
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fastrl.config import TransferConfig
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.types import Completion

EOS = 1
MAX_NEW = 40


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@dataclass
class RuleEngine:
    """Continues by a rule of (prefix text, seed, sample) and keeps what it was asked."""

    tokenizer: object
    rule: object
    max_model_len: int = 512
    asked: list = field(default_factory=list)

    def continue_prefixes(self, trees, sampling):
        self.asked.append((trees, sampling))
        return [[self._continue(branch) for branch in tree.branches] for tree in trees]

    def _continue(self, branch):
        prefix = self.tokenizer.decode(branch.token_ids)
        return [self._completion(self.rule(prefix, branch.seed, j)) for j in range(branch.num_samples)]

    def _completion(self, text):
        finished = not text.endswith("…")
        token_ids = self.tokenizer.encode(text, add_special_tokens=False) + [EOS] * finished
        return Completion(
            token_ids=token_ids,
            logprobs=[0.0] * len(token_ids),
            finish_reason="stop" if finished else "length",
            text=text,
        )


@dataclass
class Batch:
    """Rollouts of two questions, two each."""

    tokenizer: object
    texts: tuple[str, ...] = ("key abcd", "abcd key", "no such", "key")
    solution: tuple[str, ...] = ("1", "1", "2", "2")
    prompts: tuple = (user("q1"), user("q1"), user("q2"), user("q2"))

    def reward(self, reward, step=0, **logs):
        ids = [[*self.tokenizer.encode(text, add_special_tokens=False), EOS] for text in self.texts]
        return reward(
            prompts=list(self.prompts),
            completions=[[{"role": "assistant", "content": text}] for text in self.texts],
            completion_ids=ids,
            solution=list(self.solution),
            trainer_state=SimpleNamespace(global_step=step),
            **logs,
        )

    def cuts(self, reward, step=0):
        extra = {}
        self.reward(reward, step, log_extra=extra.__setitem__)
        return extra["cuts"]


def make(engine, policy_tokenizer, grader, seed=0, **options):
    config = TransferConfig(**{"slack_tokens": 3, **options})
    return TransferReward(engine, policy_tokenizer, grader, config, MAX_NEW, seed)


def knows_with_key(prefix, seed, j):
    return r" so \boxed{1}" if "key" in prefix else r" so \boxed{0}"


def test_reward_is_whether_the_kept_text_suffices(byte, bpe, grader):
    reward = make(RuleEngine(bpe, knows_with_key), byte, grader, num_cuts=3, num_continuations=2)
    batch = Batch(byte)
    seen = set()
    for step in range(12):
        extra = {}
        rewards = batch.reward(reward, step, log_extra=extra.__setitem__)
        # the key is whole after 3 bytes of "key abcd" and after 8 of "abcd key"; nothing answers 2
        for row, (cuts, length, needed) in enumerate(
            zip(extra["cuts"], (8, 8, 7, 3), (3, 8, 99, 99), strict=True)
        ):
            assert [cut["position"] for cut in cuts] == [int(cut["tau"] * length) for cut in cuts]
            assert rewards[row] == sum(cut["position"] >= needed for cut in cuts) / 3
            assert [cut["prefix_end"] for cut in cuts] == [
                batch.texts[row][: cut["position"]] for cut in cuts
            ]
        seen.update(rewards)
    assert seen == {0.0, 1 / 3, 2 / 3, 1.0}


def test_mean_over_continuations(byte, grader):
    engine = RuleEngine(byte, lambda prefix, seed, j: rf"\boxed{{{j}}}")
    reward = make(engine, byte, grader, num_cuts=2, num_continuations=4)
    assert Batch(byte).reward(reward) == [0.25] * 4


def test_the_receivers_prompts(byte, bpe, grader):
    engine = RuleEngine(bpe, knows_with_key)
    reward = make(engine, byte, grader, num_cuts=3, num_continuations=2, temperature=0.5, top_p=0.9)
    cuts = Batch(byte).cuts(reward)
    ((trees, sampling),) = engine.asked
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.9)
    assert [bpe.decode(tree.prompt_ids) for tree in trees] == ["<user>q1<assistant>", "<user>q2<assistant>"]
    assert [len(tree.branches) for tree in trees] == [6, 6]
    branches = [branch for tree in trees for branch in tree.branches]
    for branch, cut in zip(branches, itertools.chain(*cuts), strict=True):
        assert bpe.decode(branch.token_ids) == cut["prefix_end"]
        assert branch.max_new_tokens == MAX_NEW - cut["position"] + 3
        assert branch.num_samples == 2
    assert len({branch.seed for branch in branches}) == 12


def test_plain_prompts_are_questions(byte, grader):
    engine = RuleEngine(byte, knows_with_key)
    batch = Batch(byte, prompts=("q1", "q1", "q2", "q2"))
    batch.reward(make(engine, byte, grader))
    assert [byte.decode(tree.prompt_ids) for tree in engine.asked[0][0]] == [
        "<user>q1<assistant>",
        "<user>q2<assistant>",
    ]


def test_taus_of_rows_and_of_groups(byte, grader):
    engine = RuleEngine(byte, knows_with_key)
    own = [[cut["tau"] for cut in cuts] for cuts in Batch(byte).cuts(make(engine, byte, grader, num_cuts=2))]
    assert len({tau for row in own for tau in row}) == 8
    shared = make(engine, byte, grader, num_cuts=2, tau_shared_in_group=True)
    taus = [[cut["tau"] for cut in cuts] for cuts in Batch(byte).cuts(shared)]
    assert taus[0] == taus[1]
    assert taus[2] == taus[3]
    assert len({*taus[0], *taus[2]}) == 4


def test_draws_depend_only_on_seed_and_step(byte, grader):
    def draws(seed, step):
        engine = RuleEngine(byte, knows_with_key)
        cuts = Batch(byte).cuts(make(engine, byte, grader, seed, num_cuts=2), step)
        seeds = [branch.seed for tree in engine.asked[0][0] for branch in tree.branches if branch.num_samples]
        return [cut["tau"] for row in cuts for cut in row], seeds

    once, again, later, other = draws(3, 7), draws(3, 7), draws(3, 8), draws(4, 7)
    assert once == again
    for different in (later, other):
        assert not set(once[0]) & set(different[0])
        assert not set(once[1]) & set(different[1])


def test_unfinished_is_wrong_and_counted(byte, grader):
    engine = RuleEngine(byte, lambda prefix, seed, j: r"\boxed{1}" if j else r"\boxed{1} and …")
    metrics, extra = {}, {}
    batch = Batch(byte)
    rewards = batch.reward(
        make(engine, byte, grader, num_continuations=2),
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert rewards == [0.5, 0.5, 0.0, 0.0]
    assert metrics["transfer/unfinished"] == 0.5
    assert [c["verdict"] for c in extra["cuts"][0][0]["continuations"]] == ["unfinished", "correct"]
    assert json.loads(json.dumps(extra)) == extra


def test_an_answer_in_the_prefix_counts_and_is_logged_apart(byte, grader):
    engine = RuleEngine(byte, lambda prefix, seed, j: "")
    metrics = {}
    batch = Batch(
        byte, texts=(r"\boxed{1}" + " " * 20, "x" * 10, r"\boxed{1}" + "!" * 200, r"\boxed{2}" + "?" * 200)
    )
    reward = make(engine, byte, grader)
    taus = [cuts[0]["tau"] for cuts in batch.cuts(reward, step=5)]
    rewards = batch.reward(reward, step=5, log_metric=metrics.__setitem__)
    # a box is complete after 9 bytes and begins to show after 6
    kept = [int(tau * length) for tau, length in zip(taus, (29, 10, 209, 209), strict=True)]
    expected = [float(kept[0] >= 9), 0.0, 0.0, float(kept[3] >= 9)]
    marked = [kept[0] >= 6, False, kept[2] >= 6, kept[3] >= 6]
    assert rewards == expected
    assert sum(marked) not in (0, 4)
    assert metrics["transfer/mean"] == sum(expected) / 4
    assert metrics["transfer/num_with_answer"] == sum(marked)
    assert metrics["transfer/num_without_answer"] == 4 - sum(marked)
    assert metrics["transfer/with_answer"] == sum(itertools.compress(expected, marked)) / sum(marked)
    assert metrics["transfer/without_answer"] == 0.0
    assert metrics["transfer/tau_mean"] == pytest.approx(sum(taus) / 4)
    assert metrics["transfer/unfinished"] == 0.0


def test_strip_answer_leaves_no_answer_behind(byte, bpe, grader):
    engine = RuleEngine(bpe, lambda prefix, seed, j: rf"\boxed{{{len(prefix)}}}")
    metrics = {}
    batch = Batch(byte, texts=(r"so \boxed{1}",) * 4, solution=("3",) * 4)
    for step in range(20):
        batch.reward(make(engine, byte, grader, strip_answer=True), step, log_metric=metrics.__setitem__)
        assert metrics["transfer/num_with_answer"] == 0
        assert "transfer/with_answer" not in metrics


def test_text_is_joined_as_the_receiver_reads_it(byte, spaced, grader):
    """A tokenizer that drops a leading space when it decodes must not glue 1 to 2."""
    engine = RuleEngine(spaced, None)
    engine._continue = lambda branch: [
        Completion(token_ids=[*spaced.encode(" 2}", add_special_tokens=False)[1:], EOS], logprobs=[0.0] * 4,
                   finish_reason="stop", text="2}")
    ]  # fmt: skip
    batch = Batch(byte, texts=(r"\boxed{1 + 1 and \boxed{1 +",) * 4, solution=("x",) * 4)
    cuts = batch.cuts(make(engine, byte, grader))
    assert {cut["continuations"][0]["text"] for row in cuts for cut in row} == {" 2}"}


def test_capacity(byte, grader):
    engine = RuleEngine(byte, knows_with_key, max_model_len=54)
    reward = make(engine, byte, grader)
    reward.check_capacity([user("q" * 9)])  # 11 prompt + 40 new + 3 slack
    with pytest.raises(
        ValueError, match=r"\[transfer\] receiver: .* 12 \+ prefix 0 \+ new 43, got max_model_len 54"
    ):
        reward.check_capacity([user("q"), user("q" * 10)])
    with pytest.raises(ValueError, match=r"\[transfer\] receiver: expected room for prompt 33"):
        Batch(byte, prompts=(user("q" * 31),) * 4).reward(reward)
    assert engine.asked == []


def test_rows_must_match(byte, grader):
    reward = make(RuleEngine(byte, knows_with_key), byte, grader)
    with pytest.raises(ValueError, match="zip"):
        reward(["q"] * 2, ["a"] * 2, [[5]], solution=["1"] * 2, trainer_state=SimpleNamespace(global_step=0))


HEADINGS = "#### Step 1\nadd\n#### Step 2\nso " + r"\boxed{1}"


def test_headings_of_steps_are_kept_and_rollouts_without_a_cut_are_counted(byte, bpe, grader):
    """Two rollouts begin with their answer: nothing of them can be cut. Headings are no answer."""
    engine, metrics = RuleEngine(bpe, lambda prefix, seed, j: "1"), {}
    batch = Batch(byte, texts=(r"\boxed{1} it is", HEADINGS, "Answer: 1", HEADINGS), solution=("1",) * 4)
    reward = make(engine, byte, grader, strip_answer=True, num_cuts=4)
    batch.reward(reward, log_metric=metrics.__setitem__)
    assert metrics["transfer/empty_cuts"] == 2 / 4
    cuts = batch.cuts(reward)
    assert [cut["position"] for row in cuts[::2] for cut in row] == [0] * 8
    assert max(cut["position"] for cut in cuts[1]) > len("#### Step 1\n")
    assert not any(cut["has_answer"] for row in cuts for cut in row)
