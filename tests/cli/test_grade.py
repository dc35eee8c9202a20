"""fastrl grade: one answer with the verdict's reasons, all completions of a file, refusals."""

import json

import pytest

from fastrl.cli.main import main


def test_one_answer(capsys):
    assert main(["grade", "5", "The answer is 5."]) == 0
    assert main(["grade", "-5", "-6"]) == 1
    assert main(["grade", "6", "\\boxed{5"]) == 1
    assert main(["grade", "5", "\\boxed{5"]) == 1
    assert capsys.readouterr().out.split() == ["correct", "wrong", "no_answer", "no_answer"]


def test_a_verdict_is_explained(capsys):
    assert main(["grade", "1/2", "so $\\boxed{\\dfrac12}$", "--explain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "extraction   box: \\dfrac12",
        "normal form  \\frac{1}{2}",
        "gold         1/2",
        "rule         same form (strict)",
        "verdict      correct",
    ]
    assert main(["grade", "(1,2)", "(2,1)", "--explain", "--answer.level", "lenient"]) == 1
    assert "rule         tuples, in order (lenient)" in capsys.readouterr().out


def test_a_file(tmp_path, capsys):
    rows = [{"completion": f"\\boxed{{{n}}}", "solution": "3"} for n in (3, 4, 3)] + [
        {"completion": "", "solution": "3"}
    ]
    path, out = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["grade", str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [
        "correct",
        "2",
        "50.0%",
        "wrong",
        "1",
        "25.0%",
        "no_answer",
        "1",
        "25.0%",
    ]
    graded = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["verdict"] for row in graded] == ["correct", "wrong", "correct", "no_answer"]
    assert graded[1] == {**rows[1], "answer": "4", "verdict": "wrong", "rule": "numbers, exactly"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "[grade] arguments: expected GOLD ANSWER or FILE before any flag, got 0 words"),
        (["a", "b", "c"], "[grade] arguments: expected GOLD ANSWER or FILE before any flag, got 3 words"),
        (["no.jsonl"], "no.jsonl"),
    ],
)
def test_refusals(words, message, capsys):
    assert main(["grade", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_row_without_a_text_is_named(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"completion": "5", "solution": "5"}\n{"text": "5", "solution": "5"}\n')
    assert main(["grade", str(path)]) == 2
    assert "[grade] completion_column: expected text in row 2" in capsys.readouterr().err
