"""Votes: equal answers form one group, every text is in one group; also by plain text."""

from hypothesis import given
from hypothesis import strategies as st

from fastrl.grading import exact_verdict
from fastrl.grading.votes import count_answers, count_texts


def exactly(pairs):
    return [exact_verdict(one, other) is True for one, other in pairs]


def test_votes_are_counted_by_value():
    answers = ["1/2", "7", None, r"\frac{1}{2}", r"\frac{2}{4}", "7", "x", None, "1,000", "1000"]
    votes = count_answers(answers, exactly)
    assert votes == {"1/2": 3, "7": 2, "x": 1, "1,000": 2} and list(votes) == ["1/2", "7", "x", "1,000"]
    assert count_texts(answers) == {
        "1/2": 1, "7": 2, r"\frac{1}{2}": 1, r"\frac{2}{4}": 1, "x": 1, "1,000": 1, "1000": 1
    }  # fmt: skip
    assert count_answers([None], exactly) == count_answers([], exactly) == {}


def test_a_group_is_spelt_as_its_commonest_text():
    assert count_answers(["0.5", "1/2", "3", "1/2"], exactly) == {"1/2": 3, "3": 1}


def test_a_chain_of_equal_answers_is_parted_where_its_commonest_ends():
    """35 % is 35 and is 0.35, which are two numbers."""
    assert count_answers(["35", "35\\%", "0.35", "35"], exactly) == {"35": 3, "0.35": 1}
    assert count_answers(["0.35", "35\\%", "35", "35\\%"], exactly) == {"35\\%": 4}


near = st.lists(st.one_of(st.none(), st.integers(0, 9).map(str)), max_size=12)


@given(answers=near)
def test_every_text_is_in_one_group(answers):
    """Neighbours are called equal, which is not transitive; the groups part the texts all the same."""
    neighbours = lambda pairs: [abs(int(a) - int(b)) <= 1 for a, b in pairs]
    votes = count_answers(answers, neighbours)
    assert sum(votes.values()) == sum(answer is not None for answer in answers)
    firsts = [int(first) for first in votes]
    assert all(abs(a - b) > 1 for i, a in enumerate(firsts) for b in firsts[:i])
