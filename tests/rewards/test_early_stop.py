"""Cancelling continuations changes no order: for any outcomes, in any order of their ends."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.config import TransferConfig
from fastrl.rewards import TransferReward
from fastrl.rewards.early_stop import GroupOrder
from fastrl.types import Completion

EOS, MAX_NEW = 1, 40


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.integers(1, 3),
)
def test_the_order_is_that_of_all_continuations(outcomes, rng, at_once):
    groups = [i % 2 for i in range(len(outcomes))]
    order = GroupOrder(groups, [4] * len(outcomes))
    events = [(rollout, outcome) for rollout, own in enumerate(outcomes) for outcome in own]
    rng.shuffle(events)
    told = [[] for _ in outcomes]
    cancelled = set()
    for start in range(0, len(events), at_once):
        some = [event for event in events[start : start + at_once] if event[0] not in cancelled]
        for rollout, outcome in some:
            order.tell(rollout, outcome)
            told[rollout].append(outcome)
        settled = order.newly_settled([rollout for rollout, _ in some])
        assert not cancelled & set(settled)
        cancelled |= set(settled)
    assert all(len(told[rollout]) == 4 for rollout in range(len(outcomes)) if rollout not in cancelled)
    early = [sum(own) / len(own) for own in told]
    exact = [sum(own) / 4 for own in outcomes]
    for a, b in itertools.combinations(range(len(outcomes)), 2):
        if groups[a] == groups[b]:
            assert sign(early[a] - early[b]) == sign(exact[a] - exact[b])


def test_by_hand():
    order = GroupOrder([0, 0, 1], [2, 2, 2])
    order.tell(0, True)
    assert order.newly_settled([0]) == []  # 0: [1/2, 1], 1: [0, 1]
    order.tell(1, False)
    assert order.newly_settled([1]) == []  # 1: [0, 1/2]: they may end equal
    order.tell(1, False)
    assert order.newly_settled([1]) == [0]  # 1 has 0, 0 at least 1/2
    assert order.newly_settled([0, 1]) == []
    order.tell(2, True)
    assert order.newly_settled([2]) == []  # nobody to compare with: every continuation counts


class InTurn:
    """An engine whose samples end one after another, round by round; what is cancelled does not come."""

    max_model_len = 4096

    def __init__(self, tokenizer, rule):
        self.tokenizer, self.rule, self.written = tokenizer, rule, 0

    def continue_prefixes(self, trees, sampling, watch=None):
        places = [
            (t, b, j)
            for j in range(trees[0].branches[0].num_samples)
            for t, tree in enumerate(trees)
            for b in range(len(tree.branches))
        ]
        found = {}
        for place in places:
            if place in found:
                continue
            t, b, j = place
            text = self.rule(self.tokenizer.decode(trees[t].branches[b].token_ids), j)
            ids = [*self.tokenizer.encode(text, add_special_tokens=False), EOS]
            found[place] = Completion(token_ids=ids, logprobs=[], finish_reason="stop", text=text)
            self.written += 1
            for other in watch([(place, found[place])]) if watch else ():
                if other not in found:
                    found[other] = Completion(token_ids=[], logprobs=[], finish_reason="cancelled", text="")
        return [
            [[found[t, b, j] for j in range(branch.num_samples)] for b, branch in enumerate(tree.branches)]
            for t, tree in enumerate(trees)
        ]


@pytest.mark.parametrize("early_stop", [False, True])
def test_the_reward_asks_less_and_keeps_the_order(byte, grader, early_stop):
    texts = ["good", "good", "bad", "even"]
    right = {"good": lambda j: True, "bad": lambda j: False, "even": lambda j: j % 2 == 0}
    kind = lambda prefix: next(text for text in texts if text.startswith(prefix[:1] or "good"))
    rule = lambda prefix, j: r"\boxed{1}" if right[kind(prefix)](j) else r"\boxed{0}"
    engine = InTurn(byte, rule)
    config = TransferConfig(num_continuations=8, slack_tokens=3, early_stop=early_stop)
    reward = TransferReward(engine, byte, grader, config, MAX_NEW, seed=3)
    metrics, extra = {}, {}
    rewards = reward(
        prompts=["q"] * 4,
        completions=texts,
        completion_ids=[byte.encode(text, add_special_tokens=False) for text in texts],
        solution=["1"] * 4,
        trainer_state=SimpleNamespace(global_step=0),
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
    )
    assert rewards[0] == rewards[1] == 1.0
    assert rewards[2] == 0.0
    assert 0 < rewards[3] < 1
    verdicts = [c["verdict"] for row in extra["cuts"] for cut in row for c in cut["continuations"]]
    assert len(verdicts) == 32
    assert metrics["transfer/cancelled"] == verdicts.count("cancelled") / 32
    assert verdicts.count("cancelled") == 32 - engine.written
    assert (engine.written < 32) == early_stop
