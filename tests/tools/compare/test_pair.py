"""Two runs: equal bits or the first difference; with other seeds, the differences in metrics."""

import pytest
from compared import rl_lines, write_run

from fastrl.report.intervals import t_quantile
from fastrl.tools.compare.pair import FirstDifference, other_options, same_bits, seed_differences
from fastrl.tools.compare.runs import read_record


def record(folder, seed=0, lines=None, **options):
    return read_record(write_run(folder, seed, lines, **options))


def test_the_same_run_again_but_for_its_times(tmp_path):
    lines = rl_lines(0)
    lines[4]["time/update_s"] = 99.0
    found = same_bits(record(tmp_path / "a"), record(tmp_path / "b", lines=lines))
    assert found.parting is None
    assert (found.steps, found.values) == (11, 2 + 10 * 3)  # the step itself is one of them


@pytest.mark.parametrize(
    "change, ours, theirs",
    [({"entropy": 0.25 + 2e-17}, None, None), ({"entropy": 0.25 + 1e-16}, 0.25, 0.25 + 1e-16),
     ({"entropy": None}, 0.25, None), ({"new": 1.0}, "nothing", 1.0)],
)  # fmt: skip
def test_the_first_number_that_differs(tmp_path, change, ours, theirs):
    lines = rl_lines(0)
    lines[4] |= change
    lines[7]["reward"] = 5.0
    found = same_bits(record(tmp_path / "a"), record(tmp_path / "b", lines=lines))
    if ours is None:  # rounds to the same double
        assert found.parting.step == 7
    else:
        name = next(iter(change))
        assert found.parting == FirstDifference(stage="rl", step=4, metric=name, ours=ours, theirs=theirs)


def test_steps_that_one_of_them_lacks_are_passed_over(tmp_path):
    found = same_bits(record(tmp_path / "a", lines=rl_lines(0, steps=4)), record(tmp_path / "b"))
    assert found.parting is None and found.steps == 5


def test_differences_of_other_seeds_by_hand(tmp_path):
    """Over blocks 0, 1-5, 6-10, 11-15: reward differs by 0.01 in three blocks, which leaves no variance."""
    ours = record(tmp_path / "a", 1, rl_lines(1, steps=15))
    theirs = record(tmp_path / "b", 0, rl_lines(0, steps=15, entropy=0.4))
    found = {each.metric: each for each in seed_differences(ours, theirs)}
    assert list(found) == ["eval/avg@4", "reward", "entropy"]
    reward = found["reward"].difference
    assert reward.n == 3 and reward.mean == pytest.approx(0.01) and found["reward"].clear
    assert reward.high - reward.low < 1e-9
    assert found["eval/avg@4"].difference.low is None and not found["eval/avg@4"].clear
    means = [
        0.0,
        sum(1 / step for step in range(6, 11)) / 5 - 0.4,
        sum(1 / step for step in range(11, 16)) / 5 - 0.4,
    ]
    mean = sum(means) / 3
    deviation = (sum((value - mean) ** 2 for value in means) / 2) ** 0.5
    half = t_quantile(1 - 0.01 / 3 / 2, 2) * deviation / 3**0.5
    entropy = found["entropy"]
    assert entropy.difference.mean == pytest.approx(mean)
    assert entropy.difference.high == pytest.approx(mean + half) and not entropy.clear


def test_options_that_differ(tmp_path):
    ours, theirs = record(tmp_path / "a"), record(tmp_path / "b", rollout={"group_size": 3})
    assert other_options(ours, theirs) == ["rl rollout.group_size 8, not 3"]
    assert other_options(ours, ours) == []
    other = write_run(tmp_path / "c", 0)
    (other / "config.yaml").write_text("stage: sft\n")
    with pytest.raises(ValueError, match=r"\[compare\] run: expected a stage of c, which has sft, got rl"):
        other_options(ours, read_record(other))
