"""Every filter on a pool made by hand, the split by hash, cleaned reasoning, and the page."""

import hashlib

import pytest

from fastrl.config import DataConfig, GroupsConfig
from fastrl.methods.tracelift.groups.asking import AnswerFile
from fastrl.methods.tracelift.groups.drafts import Draft
from fastrl.methods.tracelift.groups.filters import Pool, drops, filter_by_executor, filter_pools, is_whole
from fastrl.methods.tracelift.groups.page import marked
from fastrl.methods.tracelift.groups.seeds import Seed, clean_reasoning
from fastrl.methods.tracelift.groups.split import is_dev
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import Trace


def trace(text, total=0.3, label="bad", kind="slip", task="math", **scores):
    base = dict.fromkeys(DIMENSIONS[task], 10.0)
    base |= scores or {DIMENSIONS[task][0]: 1.0}
    return Trace(text=text, scores=base, total=total, label=label, negative_kind=kind)


def pool(*negatives, total=1.0, name="p", task="math"):
    seed = Seed(
        problem_id=name, problem=f"{name}?", reference_solution="", answer="", tests=None, columns={}, row={},
        positive=Draft(text=""),
    )  # fmt: skip
    good = Trace(
        text="It is Right", scores=dict.fromkeys(DIMENSIONS[task], 10.0), total=total, label="strong"
    )
    return Pool(seed, good, list(negatives))


def config(**options):
    return GroupsConfig(data=DataConfig(path="x.jsonl"), **options)


def test_every_filter_drops_its_own():
    kept = trace("one two", kind="good")
    negatives = [
        trace("...", kind="dots"),
        trace("insert: TODO", kind="todo"),
        trace("fine", label="acceptable", kind="label"),
        trace("close", total=0.81, kind="margin"),
        trace("at the margin", total=0.8, kind="good"),
        trace("small drops", kind="levels", answer_support=6.0, step_coherence=7.9),  # levels 3 and 3
        trace("one drop", kind="good", answer_support=5.9),  # level 2
        kept,
        trace(" One  TWO", kind="twin"),
        trace("it is\nright", kind="copy"),
    ]
    one, other = pool(*negatives), pool(trace("one two", kind="good"), name="q")
    filters = filter_pools([one, other], config())
    assert [(each.name, each.before, dict(each.dropped)) for each in filters] == [
        ("placeholder or too short", 11, {"dots": 1, "todo": 1}),
        ("not weak or bad", 9, {"label": 1}),
        ("within the margin of the positive", 8, {"margin": 1}),
        ("no dimension 2 levels lower", 7, {"levels": 1}),
        ("duplicates", 6, {"twin": 1, "copy": 1}),
    ]
    assert [each.text for each in one.negatives] == ["at the margin", "one drop", "one two"]
    assert [each.text for each in other.negatives] == ["one two"]  # another problem's twin is none


def test_the_margin_is_counted_from_the_positive():
    low = pool(trace("a", total=0.5), trace("b", total=0.51), total=0.7)
    filter_pools([low], config(margin=0.2))
    assert [each.text for each in low.negatives] == ["a"]


def test_code_is_long_enough_and_without_a_program():
    words = "word " * 40
    code = [
        trace(f"{words}{end}", task="code")
        for end in ("", "\n  return x", "```", "\ndef f(x):", " return it")
    ]
    one = pool(trace("word " * 39, task="code"), *code, task="code")
    filters = filter_pools([one], config(task="code", drop_code=True, negatives="given"))
    assert [(each.name, each.dropped.total()) for each in filters][:2] == [
        ("placeholder or too short", 1),
        ("holds code", 3),
    ]
    assert [each.text[200:] for each in one.negatives] == ["", " return it"]
    short = pool(trace("word " * 5, task="code"), trace("word " * 4, task="code"), task="code")
    filter_pools([short], config(task="code", negatives="given", min_words=5))
    assert [len(each.text.split()) for each in short.negatives] == [5]
    kept = pool(*code, task="code")
    filter_pools([kept], config(task="code", negatives="given"))
    assert len(kept.negatives) == 5


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a", True), ("", False), (" \n.", False), ("[Insert reasoning]", False), ("As an AI model, I", False),
     ("mock-sonnet output", False), ("They insert a coin", True), ("a mocking bird", True)],
)  # fmt: skip
def test_placeholders(text, whole):
    assert is_whole(text, 1) is whole


def test_a_drop_is_counted_in_levels():
    good = pool().positive
    assert not drops(trace("", step_coherence=6.0), good)
    assert drops(trace("", step_coherence=5.9), good)
    middling = trace("", step_coherence=4.0)
    assert not drops(trace("", step_coherence=2.0), middling)
    assert drops(trace("", step_coherence=0.5), middling)


class Rates:
    """Success by trace."""

    def __init__(self, rates):
        self.rates, self.asked = rates, []

    def success_rates(self, questions, traces, references, repeats, seed):
        self.asked.append((questions, traces, references, repeats, seed))
        return [self.rates[text] for text in traces]


def test_the_executor_is_called_once_for_all(tmp_path):
    one, other = pool(trace("a"), trace("b"), trace("c", kind="leap")), pool(trace("a"), name="q")
    executor = Rates({"It is Right": 0.5, "a": 0.5, "b": 0.25, "c": 0.75})
    out = filter_by_executor([one, other], ["1", "2"], executor, 4, 9, AnswerFile(tmp_path / "rates.jsonl"))
    assert executor.asked == [
        (
            ("p?",) * 4 + ("q?",) * 2,
            ("It is Right", "a", "b", "c", "It is Right", "a"),
            ("1",) * 4 + ("2",) * 2,
            4,
            9,
        )
    ]
    assert [each.text for each in one.negatives] == ["a", "b"]
    assert (out.before, dict(out.dropped)) == (4, {"leap": 1})
    assert len(other.negatives) == 1
    # after a kill: what was measured is not asked again
    again, third = pool(trace("a"), trace("b"), trace("c", kind="leap")), pool(trace("c"), name="r")
    later = Rates({"It is Right": 1.0, "c": 1.0})
    filter_by_executor([again, third], ["1", "3"], later, 4, 9, AnswerFile(tmp_path / "rates.jsonl"))
    assert [questions for questions, *_ in later.asked] == [("r?",) * 2]
    assert [each.text for each in again.negatives] == ["a", "b"] and len(third.negatives) == 1


def test_the_split_by_hand():
    share = int(hashlib.sha256(b"18:gsm-7").hexdigest(), 16) / 2**256
    assert is_dev(18, "gsm-7", share + 1e-9) and not is_dev(18, "gsm-7", share - 1e-9)
    assert not is_dev(18, "gsm-7", 0.0)
    held_out = [is_dev(0, f"{k}", 0.1) for k in range(2000)]
    assert 150 < sum(held_out) < 250
    assert held_out != [is_dev(1, f"{k}", 0.1) for k in range(2000)]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<think>\nSort it.\n</think>\nprogram", "Sort it."),
        ("Sort it.\nprint(sorted(a))\nDone.", "Sort it."),
        ("Sort it.\n```python\nx\n```", "Sort it."),
        ("Sort it.\n## Explanation\nIt sorts.", "Sort it."),
        ("Sort it.\n**Explanation:** it sorts.", "Sort it."),
        ("Sort it; the explanation is short.", "Sort it; the explanation is short."),
        ("A.\n```x``` B. </think>", "A."),
    ],
)
def test_teacher_reasoning_ends_before_its_program(text, cleaned):
    assert clean_reasoning(text, "print(sorted(a))\n") == cleaned


def test_marked_places_are_escaped():
    assert marked("a<b & c", (1, 3)) == "a<mark>&lt;b</mark> &amp; c"
    assert marked("ab", (1, 1)) == "a<mark>‸</mark>b"
    assert marked("<ab>", None) == "&lt;ab&gt;"
