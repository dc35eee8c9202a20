"""Parsing a verifier's reply: the last tag, LaTeX in JSON, Python literals, and every reject."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.methods.interventions.parse import Intervention, Reject, parse_intervention


def tagged(body):
    return f"log\n<intervention>{body}</intervention>\n"


def content_of(inside):
    """What a content becomes that was written like this between quotes."""
    read = parse_intervention(tagged('{"content": "' + inside + '", "location": 2}'), 3)
    assert isinstance(read, Intervention), read
    assert read.location == 2
    return read.content


def test_the_last_tag_wins():
    draft = tagged('{"content": "draft", "location": 1}')
    final = tagged('{"content": "final", "location": 2}')
    assert parse_intervention(draft + "revised:" + final, 3) == Intervention(2, "final")
    assert parse_intervention("In <intervention> tags, {a}: " + final, 3) == Intervention(2, "final")


@pytest.mark.parametrize(
    "inside, content",
    [
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\theta \times \tau", r"\theta \times \tau"),
        (r"a\tb", "a\tb"),
        (r"a\nb", "a\nb"),
        (r"a\n\nNow b", "a\n\nNow b"),
        (r"\nu \neq \nabla", r"\nu \neq \nabla"),
        (r"\beta \rho \forall", r"\beta \rho \forall"),
        (r"\( x \) and \[ y \]", r"\( x \) and \[ y \]"),
        (r"\{1, 2\}", r"\{1, 2\}"),
        (r"\underline{x} é", r"\underline{x} é"),
        (r"\u00e9", "é"),
        (r"say \"so\"", 'say "so"'),
        (r"it\'s", "it's"),
        (r"1\/2", "1/2"),
        ("two\nlines", "two\nlines"),
        ("braces } { inside", "braces } { inside"),
    ],
)
def test_escapes_as_they_were_meant(inside, content):
    assert content_of(inside) == content


@pytest.mark.parametrize(
    "body",
    [
        "{'content': 'so x = 3', 'location': 2}",
        "{'content': \"so x = 3\", 'location': 2,}",
        '```json\n{"location": "Substep 2", "content": " so x = 3 "}\n```',
        '{"content": "so x = 3", "location": 2.0, "reason": {"a": null}}',
    ],
)
def test_other_spellings(body):
    assert parse_intervention(tagged(body), 3) == Intervention(2, "so x = 3")


def test_without_a_tag_the_last_object_with_both_names():
    first = '{"location": 1, "content": "a"}'
    last = '{"location": 2, "content": "b } {"}'
    assert parse_intervention(f"{first} then {last} for all $x \\in \\{{1\\}}$.", 3) == Intervention(
        2, "b } {"
    )
    assert parse_intervention("{'location': 3, 'content': 'c'}", 3) == Intervention(3, "c")
    assert parse_intervention('{"location": 2}</intervention> ' + last, 3) == Intervention(2, "b } {")


REJECTED = [
    ("<intervention>{", "unfinished"),
    (tagged('{"content": "a", "location": 1}') + "<intervention> better", "unfinished"),
    ("no error found", "no_tag"),
    ('{"location": 2}', "no_tag"),
    ("", "no_tag"),
    (tagged("none"), "unreadable"),
    (tagged('{"content": "a, "location": 1}'), "unreadable"),
    (tagged('{"location": 1}'), "unreadable"),
    (tagged('{"content": 5, "location": 1}'), "unreadable"),
    (tagged("{{'a'}: 1}"), "unreadable"),
    (tagged("[" * 9999 + '{"content": ' * 5), "unreadable"),
    (tagged('{"content": ' + "[" * 99999 + "}"), "unreadable"),
    (tagged('{"content": "a"}'), "no_location"),
    (tagged('{"content": "a", "location": true}'), "no_location"),
    (tagged('{"content": "a", "location": 1.5}'), "no_location"),
    (tagged('{"content": "a", "location": "1 or 2"}'), "no_location"),
    (tagged('{"content": "a", "location": "-1"}'), "no_location"),
    (tagged('{"content": "a", "location": NaN}'), "no_location"),
    (tagged('{"content": "a", "location": "' + "9" * 5000 + '"}'), "no_location"),
    (tagged('{"content": "a", "location": 0}'), "out_of_range"),
    (tagged('{"content": "a", "location": 4}'), "out_of_range"),
    (tagged('{"content": "a", "location": ' + "9" * 400 + "}"), "out_of_range"),
    (tagged('{"content": " ", "location": null}'), "empty"),
    (tagged('{"content": null, "location": 0}'), "empty"),
]


@pytest.mark.parametrize("text, reject", REJECTED)
def test_every_reject(text, reject):
    assert parse_intervention(text, 3) == reject


def test_all_rejects_are_reached():
    assert {reject for _, reject in REJECTED} == set(get_args(Reject))


# of what JSON escapes, the quote: the rest may be LaTeX
@given(st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\\"), max_size=60))
def test_proper_json_is_read_as_it_is(text):
    content, location = f"x{text}", 1 + len(text) % 5
    text = tagged(json.dumps({"content": content, "location": location}, ensure_ascii=False))
    assert parse_intervention(text, 5) == Intervention(location, content.strip())


@given(st.text(alphabet="{}<>\"'\\ncontelai:/, 1", max_size=80))
def test_no_text_is_an_error(text):
    for written in (text, tagged(text), '{"content": "location"' + text):
        read = parse_intervention(written, 3)
        assert isinstance(read, Intervention) or read in get_args(Reject)
