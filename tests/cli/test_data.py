"""fastrl data FILE: the printed summary of a file, against a page written by hand."""

import pytest

from fastrl.cli.data import form_of
from fastrl.cli.main import main


def test_the_page(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"question": "1+1?", "answer": "so\\n#### 1,200", "level": 3}\n'
        '{"question": "A longer one", "answer": "\\\\frac{1}{2}"}\n{"question": "q"}\n'
    )
    assert main(["data", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 2 problems, 1 bad rows",
        "layout: general; question from 'question', gold answer from 'answer'",
        "columns: question, answer, level",
        "different questions: 2",
        "gold answers: whole number 1, fraction 1",
        "longest prompt: row 2, 12 characters",
        f"bad: [data] {path} row 3, column 'answer': gold answer: expected text or a number, got None",
        "",
        "row 1",
        "  user: 1+1?",
        "  gold answer: 1200",
        "",
        "row 2",
        "  user: A longer one",
        "  gold answer: \\frac{1}{2}",
    ]
    assert main(["data", str(path), "--limit", "2", "--system_prompt", "S"]) == 0
    assert "  system: S\n  user: 1+1?" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["data", str(tmp_path / "none.jsonl")]) == 2
    assert main(["data"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "expected an existing file" in lines[0] and "[data] FILE: expected it" in lines[1]


@pytest.mark.parametrize(
    ("gold", "form"),
    [("12", "whole number"), ("-1.5", "decimal number"), ("1/2", "fraction"), ("B", "letter of an option"),
     ("\\pi", "LaTeX"), ("(1, 2)", "list or interval"), ("a\nb", "text of several lines"), ("Paris", "text"),
     ("", "none (tests judge)")],
)  # fmt: skip
def test_forms(gold, form):
    assert form_of(gold) == form
