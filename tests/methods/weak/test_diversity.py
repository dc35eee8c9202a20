"""Clusters and diversity by hand; judges: parsed replies, retries, agreement."""

import math
import re
from collections import Counter

import pytest
from scripted import ScriptedEngine

from fastrl.methods.weak.diversity import (
    cluster,
    diversity,
    judged_clusters,
    mean_diversity,
    named_clusters,
)
from fastrl.methods.weak.judge import ALIGNMENT, DIFFERENCE, Judge, agreement, filled, why_unreadable
from fastrl.types import SamplingParams


def judge(write, **options):
    engine = ScriptedEngine(write)
    sampling = SamplingParams(max_new_tokens=20, temperature=options.pop("temperature", 1.0))
    return Judge(engine=engine, sampling=sampling, **options), engine


@pytest.mark.parametrize(
    "clusters, num, entropy, evenness",
    [
        ([0, 0, 1, 1], 2, math.log(2), 1.0),
        (list(range(16)), 16, math.log(16), 1.0),
        ([0, 0, 0, 1], 2, 0.75 * math.log(4 / 3) + 0.25 * math.log(4), 4 / 27**0.25 - 1),
        ([3, 3, 3], 1, 0.0, 0.0),
        ([0, None, 1, None, 0, 2], 3, 1.5 * math.log(2), (2**1.5 - 1) / 2),
        ([None, None], 0, 0.0, 0.0),
        ([], 0, 0.0, 0.0),
    ],
)
def test_diversity_by_hand(clusters, num, entropy, evenness):
    found = diversity(clusters)
    assert found.num_clusters == num and found.num_responses == sum(c is not None for c in clusters)
    assert found.entropy == pytest.approx(entropy) and found.evenness == pytest.approx(evenness)
    assert found.effective == pytest.approx(math.exp(entropy) if num else 0)
    assert found.log_clusters == pytest.approx(math.log(num) if num else 0)


def test_evenness_does_not_distinguish_two_ways_from_sixteen():
    two, sixteen = diversity([0] * 8 + [1] * 8), diversity(range(16))
    assert two.evenness == pytest.approx(sixteen.evenness) == pytest.approx(1)
    assert two.effective == pytest.approx(2) and sixteen.effective == pytest.approx(16)


def test_means_over_problems():
    found = mean_diversity([diversity([0, 1]), diversity([0, 0]), diversity([])])
    assert found["evenness"] == pytest.approx(1 / 3)
    assert found["effective"] == pytest.approx(1)
    assert found["num_clusters"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"\[diversity\] found: expected at least one problem, got none"):
        mean_diversity([])


def close(a, b):
    return abs(len(a) - len(b)) <= 1


def test_a_response_is_compared_only_with_the_first_of_a_cluster():
    asked = []

    def same(representative, response):
        asked.append((representative, response))
        return close(representative, response)

    # bb is close to a and to ccc, but ccc is not close to a
    assert cluster(["a", "bb", "ccc", "dd", "eeee", "ccccc"], same) == [0, 0, 1, 0, 1, 2]
    assert asked == [
        ("a", "bb"),
        *[("a", "ccc")],
        *[("a", "dd")],
        *[("a", "eeee"), ("ccc", "eeee")],
        *[("a", "ccccc"), ("ccc", "ccccc")],
    ]
    assert cluster([], same) == []


def test_equal_names_are_one_cluster():
    names = [("a", 1), "b", None, ("a", 1), 7, "b"]
    assert named_clusters(names) == [0, 1, None, 0, 2, 1]
    chosen = [False, True, True, True, False, True]
    assert named_clusters(names, chosen) == [None, 0, None, 1, None, 0]
    assert named_clusters([]) == []


FIRST_SECOND = re.compile(r"<first>\n(.*)\n</first>.*<second>\n(.*)\n</second>", re.DOTALL)


def strategies(question, prefix, sample, seed):
    first, second = FIRST_SECOND.search(question).groups()
    if "?" in second and second != "?":
        return "hm"
    return "so " + ("||no||" if close(first, second) else "||yes||")


def test_a_judge_clusters_many_problems_at_once_as_one_by_one():
    groups = [["a", "bb", "ccc", "dd", "eeee", "ccccc"], ["x"], [], ["ccc", "a", "bb"]]
    one, engine = judge(strategies)
    found, rejects = judged_clusters(one, ["p", "q", "r", "s"], groups)
    assert found == [cluster(group, close) for group in groups] == [[0, 0, 1, 0, 1, 2], [0], [], [0, 1, 0]]
    assert not rejects
    assert all("<problem>\np\n" in q or "<problem>\ns\n" in q for q, _, _, _ in engine.asked)


def test_passed_over_and_unreadable_responses_are_in_no_cluster():
    one, _ = judge(strategies, retries=1)
    found, rejects = judged_clusters(one, ["p"], [[None, "a", "?????", "bb", None, "cccc", "?c?c"]])
    assert found == [[None, 0, None, 0, None, 1, None]]
    # ????? against a; ?c?c against a and cccc; each asked twice
    assert rejects == Counter(no_label=6)


@pytest.mark.parametrize(
    "text, labels, reject",
    [
        ("It follows. ||1||", ALIGNMENT, None),
        ("||0.5||  \n", ALIGNMENT, None),
        ("||0||", ALIGNMENT, None),
        ("||yes||", ALIGNMENT, "no_label"),
        ("|1|", ALIGNMENT, "no_label"),
        ("||1.0||", ALIGNMENT, "no_label"),
        ("||0.25||", ALIGNMENT, "no_label"),
        ("||Yes||", DIFFERENCE, "no_label"),
        ("", ALIGNMENT, "no_label"),
        ("||1|| or ||0||", ALIGNMENT, "several_labels"),
        ("||1|| and again ||1||", ALIGNMENT, "several_labels"),
        ("||1|| is my label", ALIGNMENT, "not_last"),
        ("||v|| <= ||w||, so ||no||", DIFFERENCE, None),  # norms are no labels
        ("||0x5||", ALIGNMENT, "no_label"),
    ],
)
def test_what_can_be_read(text, labels, reject):
    assert why_unreadable(text, labels) == reject


def test_a_question_is_retried_with_another_seed_until_its_reply_is_readable():
    seen = {}

    def write(question, prefix, sample, seed):
        tries = seen.setdefault(question.split("\n")[0], [])
        tries.append(seed)
        replies = {"a": ["||1||"], "b": ["hm", "||0|| hm", "||0.5||"], "c": ["||1||||0||", None, "?"]}
        return replies[question[0]][len(tries) - 1]

    one, engine = judge(write, retries=2, seed=4)
    found = one.ask(["a", "b", "c", "b"], ALIGNMENT)
    assert found.labels == ["1", "0.5", None, "0.5"]
    assert found.rejects == Counter(no_label=2, not_last=1, several_labels=1, unfinished=1)
    assert [len(tries) for tries in seen.values()] == [1, 3, 3]  # equal questions are asked once
    seeds = [seed for _, _, _, seed in engine.asked]
    assert len(set(seeds)) == 7
    # what is said of a question depends on (seed, question) alone
    seen.clear()
    again, other = judge(write, retries=2, seed=4)
    again.ask(["b"], ALIGNMENT)
    assert [seed for *_, seed in other.asked] == [seed for q, _, _, seed in engine.asked if q == "b"]


def test_a_greedy_judge_is_called_once():
    one, engine = judge(lambda *asked: "hm", temperature=0.0, retries=3)
    assert one.ask(["a"], ALIGNMENT).rejects == Counter(no_label=1)
    assert len(engine.asked) == 1
    assert one.ask([], ALIGNMENT).labels == []


def test_the_prompts_hold_what_is_judged_as_it_is():
    one, engine = judge(lambda *asked: "||1||")
    assert one.alignment(["{response}"], [r"\frac{1}{2} {problem}"]).labels == ["1"]
    (question, *_), *_ = engine.asked
    assert "<problem>\n{response}\n</problem>" in question
    assert "<response>\n\\frac{1}{2} {problem}\n</response>" in question
    assert all(f"||{label}||" in question for label in ALIGNMENT)
    with pytest.raises(KeyError):
        filled("{other}", problem="p")


def test_kappa_by_hand():
    # 20 5 / 10 15: p_o = 0.7, p_e = (25 * 30 + 25 * 20) / 2500 = 0.5
    first = ["yes"] * 25 + ["no"] * 25 + ["yes", None]
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15 + [None, "no"]
    found = agreement(first, second, DIFFERENCE)
    assert found.table == {"yes": {"yes": 20, "no": 5}, "no": {"yes": 10, "no": 15}}
    assert found.observed == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)
    assert (found.num_items, found.num_left_out) == (50, 2)


def test_kappa_at_its_ends():
    labels = ["1", "0.5", "0", "1", "1"]
    assert agreement(labels, labels, ALIGNMENT).kappa == 1
    assert agreement(["1"] * 7, ["1"] * 7, ALIGNMENT).kappa is None
    assert agreement(["1"] * 7, ["0"] * 7, ALIGNMENT).kappa == 0
    assert agreement(["1", "0"], ["0", "1"], ALIGNMENT).kappa == -1


@pytest.mark.parametrize(
    "first, second, got",
    [(["2"], ["1"], "the label '2'"), ([None], ["1"], "no item"), ([], [], "no item")],
)
def test_agreement_needs_known_labels(first, second, got):
    with pytest.raises(ValueError, match=rf"\[agreement\] labels: expected some among 1, 0\.5, 0, got {got}"):
        agreement(first, second, ALIGNMENT)
