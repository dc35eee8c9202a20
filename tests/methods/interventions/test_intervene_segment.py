"""Segmentation of rollouts into steps: where they are cut, what stays whole; nothing is lost."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.methods.interventions.segment import filled, segment

LONG = "a sentence that is long enough to stand alone"


def steps_of(text, **options):
    return list(segment(text, **{"min_chars": 1, **options}))


@pytest.mark.parametrize(
    "text, separator, steps",
    [
        ("a\n\nb\n \t\nc\n\n\n\nd", "blank line", ["a", "b", "c", "d"]),
        ("a\n\nb\nc", "line", ["a", "b", "c"]),  # two paragraphs are too few
        ("One. Two! $x$ is 3.5 here. Three?", "sentence", ["One.", "Two!", "$x$ is 3.5 here.", "Three?"]),
        ("only this", "blank line", ["only this"]),
        ("a\nb", "line", ["a", "b"]),  # nothing gives three: the coarsest with most
        ("\n\n  a\n\nb\n\nc \n\n", "blank line", ["a", "b", "c"]),
    ],
)
def test_separators_from_coarse_to_fine(text, separator, steps):
    cut = segment(text, min_chars=1)
    assert (cut.separator, list(cut)) == (separator, steps)


@pytest.mark.parametrize(
    "whole",
    [
        "\\[\nx\n\n= 1\n\\]",
        "$$\nx\n\n$$",
        "\\( a\n\nb \\)",
        "```python\nx = 1\n\nprint(x)\n```",
        "\\begin{align*}\na &= b\n\n\\\\\nc &= d\n\\end{align*}",
    ],
)
def test_formulas_and_code_stay_whole(whole):
    text = f"so\n\n{whole}\n\nhence\n\nthen"
    assert steps_of(text) == ["so", whole, "hence", "then"]


def test_the_papers_steps_are_the_pieces_between_blank_lines():
    """Two pieces, short ones, ones inside a formula: none is joined, and no finer separator is taken."""
    paper = {"min_chars": 1, "min_steps": 1, "max_steps": 10**6, "split_formulas": True}
    for text in ("Ok.\n\na longer piece\nof two lines", "u\n\n\\[\nx\n\n= 1\n\\]\n\nv", "one. Two. Three."):
        assert list(segment(text, **paper)) == text.split("\n\n")
    many = "\n\n".join(str(number) for number in range(500))
    assert len(segment(many, **paper)) == 500 and len(segment(many)) < 500


def test_an_environment_ends_where_it_began():
    inner = "\\begin{cases}\na\n\nb\n\\end{cases}"
    text = f"u\n\n\\begin{{align}}\n\n{inner}\n\n\\end{{align}}\n\nv\n\nw"
    assert steps_of(text) == ["u", f"\\begin{{align}}\n\n{inner}\n\n\\end{{align}}", "v", "w"]


def test_short_pieces_join_the_one_before_and_a_short_first_one_the_next():
    text = f"Ok.\n\n{LONG} 1\n\nYes.\n\nNo.\n\n{LONG} 2\n\n{LONG} 3\n\nQ.E.D."
    assert list(segment(text, min_chars=24)) == [
        f"Ok.\n\n{LONG} 1\n\nYes.\n\nNo.", f"{LONG} 2", f"{LONG} 3\n\nQ.E.D."
    ]  # fmt: skip


def test_too_many_steps_are_joined_evenly():
    text = "\n\n".join("abcdefg")
    assert steps_of(text, max_steps=3) == ["a\n\nb", "c\n\nd", "e\n\nf\n\ng"]
    assert steps_of(text, max_steps=7) == list("abcdefg")
    assert steps_of(text, max_steps=1) == [text]


def test_before_and_upto_by_hand():
    cut = segment(" a\n\nb\n \nc\n\n", min_chars=1)
    assert [cut.before(i) for i in (1, 2, 3)] == ["", " a\n\n", " a\n\nb\n \n"]
    assert [cut.upto(i) for i in (0, 1, 2, 3)] == ["", " a", " a\n\nb", " a\n\nb\n \nc"]


def test_numbered_as_configured():
    cut = segment("a\n\nb {step}\n\nc", min_chars=1)
    assert cut.numbered() == "**Substep 1:**\na\n\n**Substep 2:**\nb {step}\n\n**Substep 3:**\nc"
    assert cut.numbered("{number}:{step}", " ") == "1:a 2:b {step} 3:c"


def test_a_template_is_filled_once():
    told = filled("{question} | {x} | {steps}", question="{steps} \\frac{1}{2}", steps="s")
    assert told == "{steps} \\frac{1}{2} | {x} | s"


def test_a_new_step_gets_the_rollouts_line_breaks():
    content = "first\nsecond\n\n\nthird\n\\[\nx\n= 1\n\\]"
    spaced = segment("a\n\nb\n\nc", min_chars=1).spaced(content)
    assert spaced == "first\n\nsecond\n\nthird\n\n\\[\nx\n= 1\n\\]"
    assert steps_of(f"a\n\n{spaced}") == ["a", "first", "second", "third", "\\[\nx\n= 1\n\\]"]
    assert segment("a\nb\nc", min_chars=1).spaced(content) == content


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_an_empty_rollout_is_refused(text):
    with pytest.raises(ValueError, match=r"\[segment\] text: expected at least one character"):
        segment(text)


PARTS = st.lists(
    st.sampled_from(
        ["ab", "c. D", "\n", "\n\n", " ", "\\[", "\\]", "$$", "```", "\\begin{a}", "\\end{a}", "x" * 30]
    ),
    max_size=30,
)


@given(PARTS, st.integers(1, 30), st.integers(1, 4), st.integers(1, 6))
def test_nothing_is_lost_and_steps_keep_their_order(parts, min_chars, min_steps, max_steps):
    text = "".join(parts)
    if not text.strip():
        return
    cut = segment(text, min_chars=min_chars, min_steps=min_steps, max_steps=max_steps)
    assert 1 <= len(cut) <= max_steps
    end, gaps = 0, []
    for index, (start, stop) in enumerate(cut.spans):
        assert end <= start < stop
        gaps.append(text[end:start])
        assert cut.before(index + 1) + cut[index] == (cut.upto(index + 1) if index else cut[0])
        assert cut[index] == cut[index].strip()
        end = stop
    gaps.append(text[end:])
    assert "".join(gaps).strip() == ""  # only spaces between steps
    assert "".join(g + s for g, s in zip(gaps, [*cut, ""], strict=True)) == text


def test_a_degenerate_rollout_does_not_take_long():
    start = time.process_time()
    segment("x" + " " * 60000 + "y" + "\\[ $$ \\begin{a} " * 500)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "piece", ["\\[", "$$", "$$\n", "\\(", "```", "\\begin{a}", "\\begin{", "$$a$$\n\n", ". A", " ", "\n"]
)
def test_long_rollouts_are_cut_at_once(piece):
    """Milliseconds; what is quadratic takes minutes."""
    text = "a" + piece * (60_000 // len(piece))
    assert all(step in text for step in steps_of(text))
