"""A problem drawn several times in a step: its groups stay separate for every reward."""

from types import SimpleNamespace

import pytest
from executors import Reader, math_executor

from fastrl.config import TransferConfig, UpliftConfig
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.weak.majority import MajorityReward
from fastrl.rewards.batch import group_numbers
from fastrl.rewards.cuts import draw_tau

PROMPT = [{"role": "user", "content": "q"}]
GROUPS = [12, 12, 13, 13, 14, 14]
"""Three draws of the only problem, two rollouts each."""
IDS = [24, 25, 26, 27, 28, 29]


def ask(reward, texts, **columns):
    extra = {}
    rewards = reward(
        prompts=[PROMPT] * len(texts),
        completions=texts,
        completion_ids=[[10 + i, 11, 12, 13, 14, 15, 16, 17] for i in range(len(texts))],
        solution=["7"] * len(texts),
        trainer_state=SimpleNamespace(global_step=3),
        log_extra=extra.__setitem__,
        **columns,
    )
    return rewards, extra


@pytest.mark.parametrize(
    ("prompts", "ids", "groups"),
    [
        ("aaaa", [5, 5, 6, 6], [0, 0, 1, 1]),
        ("aaaa", [6, 5, 6, 5], [0, 1, 0, 1]),
        ("aabb", [9, 9, 9, 9], [0, 0, 0, 0]),
        ("aaba", None, [0, 0, 1, 2]),
        ("", [], []),
    ],
)
def test_group_numbers(prompts, ids, groups):
    assert group_numbers(prompts, ids) == groups


def transfer(byte, grader, **options):
    engine = Reader(lambda read, j: r" \boxed{7}", byte)
    return TransferReward(engine, byte, grader, TransferConfig(slack_tokens=2, **options), 40, seed=0), engine


def test_transfer_shares_a_tau_only_within_the_group(byte, grader):
    reward, _ = transfer(byte, grader, tau_shared_in_group=True)
    taus = [cuts[0]["tau"] for cuts in ask(reward, ["x"] * 6, group_ids=GROUPS, rollout_ids=IDS)[1]["cuts"]]
    assert taus == [draw_tau(0, "tau", 3, "group", first, 0) for first in (24, 24, 26, 26, 28, 28)]
    assert len(set(taus)) == 3
    foreign = [cuts[0]["tau"] for cuts in ask(reward, ["x"] * 6)[1]["cuts"]]
    assert len(set(foreign)) == 1  # nobody says that these are three groups


@pytest.mark.parametrize("columns", [{"group_ids": GROUPS}, {}])
def test_transfer_prefills_the_prompt_of_several_groups_once(byte, grader, columns):
    reward, engine = transfer(byte, grader)
    rewards, _ = ask(reward, ["x"] * 6, **columns)
    assert rewards == [1.0] * 6
    ((trees, _),) = engine.calls
    (tree,) = trees
    assert [branch.num_samples for branch in tree.branches] == [1] * 6 + [0] * 6  # cuts, then whole rollouts
    assert [branch.token_ids[0] for branch in tree.branches[6:]] == list(range(10, 16))


def test_a_groups_transfer_does_not_depend_on_the_others(byte, grader):
    reward, engine = transfer(byte, grader, num_cuts=2, tau_shared_in_group=True)
    _, together = ask(reward, ["x"] * 6, group_ids=GROUPS, rollout_ids=IDS)
    seeds = [seed for _, _, seed in engine.reads()]
    assert len(set(seeds)) == 12
    for place in (0, 2, 4):
        alone, _ = transfer(byte, grader, num_cuts=2, tau_shared_in_group=True)
        _, own = ask(
            alone, ["x"] * 2, group_ids=GROUPS[place : place + 2], rollout_ids=IDS[place : place + 2]
        )
        taus = [[cut["tau"] for cut in cuts] for cuts in own["cuts"]]
        assert taus == [[cut["tau"] for cut in cuts] for cuts in together["cuts"][place : place + 2]]


def test_uplift_of_three_draws_is_that_of_each(byte, grader):
    """The executor is right with traces that say so; every rollout has its own draws, the baseline is one."""

    def write(read, j):
        return r"\boxed{7}" if "good" in read and j < 2 else r"\boxed{0}"

    texts = ["good", "bad", "bad", "bad", "good", "good"]
    reward = UpliftReward(
        math_executor(write, grader), UpliftConfig(form="uplift", baseline_repeats=4), None, 0
    )
    questions = {"question": ["q"] * 6}
    rewards, extra = ask(reward, texts, group_ids=GROUPS, rollout_ids=IDS, **questions)
    # the primary run is right, and one of three others: (1 + 1 / 3 - 0) / 2; nothing without
    assert rewards == [pytest.approx(2 / 3 if text == "good" else 0) for text in texts]
    assert extra["s_base"] == [0.0] * 6
    reads = reward.executor.engine.reads()
    assert len({seed for text, _, seed in reads if "good" in text or "bad" in text}) == 6
    assert len({seed for text, _, seed in reads if "good" not in text and "bad" not in text}) == 1


def test_majority_elects_in_each_draw(grader):
    texts = [f"\\boxed{{{answer}}}" for answer in (7, 7, 3, 3, 7, 3)]
    rewards, extra = ask(MajorityReward(grader), texts, group_ids=GROUPS)
    assert rewards == [1, 1, 1, 1, 1, 0]
    assert extra["pseudo_label"] == ["7", "7", "3", "3", "7", "7"]
