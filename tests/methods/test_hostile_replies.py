"""Parsers of model replies: any text gives a value or a counted reason, in bounded time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.methods.interventions.parse import CLOSE, OPEN, Intervention, parse_intervention
from fastrl.methods.tracelift.groups.drafts import Judgment, UnusableError
from fastrl.methods.tracelift.groups.judge import read_judgment
from fastrl.methods.tracelift.groups.rationale import parse_rationale
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS

PIECES = (
    "[", "]", "{", "}", '"', "\\", "\\ud800", "content", "location", ": ", ",", "1", "9" * 5000, "```", "\n",
    "json", OPEN, CLOSE, "\ud800", "NaN", "1e999", "\\u", "'", "\0", "-",
)  # fmt: skip
REPLIES = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=40)


def reply(**changes) -> str:
    return json.dumps(
        dict.fromkeys((*DIMENSIONS["math"], "overall"), 5) | {"label": "weak", "reason": "so"} | changes
    )


@given(REPLIES)
def test_any_reply_is_judged_or_unusable(text):
    try:
        assert isinstance(read_judgment(text, "math"), Judgment)
    except UnusableError as error:
        assert len(str(error)) < 60


@given(REPLIES)
def test_any_reply_is_an_intervention_or_a_reason(text):
    found = parse_intervention(text, 3)
    assert isinstance(found, str) or found.content.encode()


@pytest.mark.parametrize("text", ["[" * 10000, '{"a":' * 3000, "1" * 5000, "[" * 10**7])
def test_nested_replies_are_unusable(text):
    with pytest.raises(UnusableError, match=r"not JSON|other fields|too long"):
        read_judgment(text, "math")


def test_half_a_surrogate_pair_stops_at_the_parser():
    with pytest.raises(UnusableError, match="half a surrogate pair"):
        read_judgment(reply(reason="\ud800"), "math")
    assert read_judgment(reply(reason="\U0001f642"), "math").reason == "\U0001f642"
    body = '{"content": "so \\ud800", "location": 1}'
    assert parse_intervention(f"{OPEN}{body}{CLOSE}", 3) == "unreadable"
    assert parse_intervention(body.replace(" \\ud800", ""), 3) == Intervention(1, "so")


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n  ```", "{}"])
def test_a_fence_around_it_is_allowed(fence):
    assert read_judgment(fence.replace("{}", reply()), "math").label == "weak"


LONG = {
    "line breaks in a fence": "```" + "\n" * 15000 + "x",
    "braces": "{" * 50000,
    "objects": '{"content": ' * 4000 + '"location"' + "}" * 4000,
    "tags": OPEN * 5000,
}


@pytest.mark.parametrize("name", list(LONG))
def test_long_replies_are_read_in_linear_time(name):
    began = time.process_time()
    with pytest.raises(UnusableError):
        read_judgment(LONG[name], "math")
    assert isinstance(parse_intervention(LONG[name], 3), str)
    assert time.process_time() - began < 10.0  # quadratic ones took minutes


@pytest.mark.parametrize("formula", ["(" * 5000 + "1+1" + ")" * 5000, "+".join("1" * 5000)])
def test_endless_formulas_are_no_equations(formula):
    with pytest.raises(UnusableError, match="no equation"):
        parse_rationale(f"It is <<{formula}=2>>2")
