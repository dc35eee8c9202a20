"""The order of problems: complete epochs, stateless, different per seed."""

import pytest

from fastrl.data import ProblemOrder


@pytest.mark.parametrize("num_problems", [1, 2, 7, 64])
def test_every_epoch_has_every_problem_once(num_problems):
    order = ProblemOrder(num_problems, seed=3)
    for epoch in range(4):
        draws = order.take(epoch * num_problems, num_problems)
        assert sorted(draws) == list(range(num_problems))


def test_a_draw_depends_only_on_its_index():
    whole = ProblemOrder(10, seed=5).take(0, 47)
    assert [ProblemOrder(10, seed=5)[i] for i in range(47)] == whole
    again = ProblemOrder(10, seed=5)
    assert [again[i] for i in reversed(range(47))] == whole[::-1]
    assert ProblemOrder(10, seed=5).take(13, 20) == whole[13:33]


def test_epochs_and_seeds_differ():
    order = ProblemOrder(50, seed=0)
    assert order.take(0, 50) != order.take(50, 50)
    assert order.take(0, 50) != ProblemOrder(50, seed=1).take(0, 50)
    assert order.take(0, 50) != list(range(50))


def test_each_problem_comes_first_equally_often():
    counts = [0] * 4
    for seed in range(2000):
        counts[ProblemOrder(4, seed)[0]] += 1
    chi_square = sum((count - 500) ** 2 / 500 for count in counts)
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_the_order_never_changes():
    assert ProblemOrder(6, seed=0).take(0, 12) == [2, 4, 1, 0, 3, 5, 5, 1, 3, 4, 2, 0]


def test_errors():
    with pytest.raises(ValueError, match=r"\[data\] num_problems: expected >= 1, got 0"):
        ProblemOrder(0, seed=0)
    with pytest.raises(IndexError, match="expected >= 0, got -1"):
        ProblemOrder(3, seed=0)[-1]
