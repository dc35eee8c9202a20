"""Problems from every file format and column layout, and the errors for files that don't fit."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from places import SHARED_DATA

from fastrl.config import DataConfig, HardSetConfig, SubsetConfig
from fastrl.data import gold_text, load_problems, reward_columns, reward_row
from fastrl.data.problems import program_columns
from fastrl.stages.hard_set import hard_row
from fastrl.stages.subset import make_pool

REAL = SHARED_DATA
needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason=f"no benchmark files in {REAL}")


def write_jsonl(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(path: str | Path, **options):
    return load_problems(DataConfig(path=str(path), **options))


def test_jsonl_gsm8k(tmp_path):
    row = {"question": "How many?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"}
    (problem,) = load(write_jsonl(tmp_path / "a.jsonl", row))
    assert problem.index == 0
    assert problem.messages == [{"role": "user", "content": "How many?"}]
    assert problem.solution == "1200"
    assert problem.columns == row


def test_what_a_stage_graded_against_is_the_gold_answer_of_the_next(tmp_path):
    """Rows of hard_set and subset keep the file's columns, and one of those may look like the answer."""
    row = {"question": "Q?", "answer": "see page 7", "final": "12", "label": "3"}
    (problem,) = load(write_jsonl(tmp_path / "a.jsonl", row), solution_column="final")
    hard = hard_row(problem, "worked", {"num_correct": 0, "attempts": []}, HardSetConfig())
    (solved,) = make_pool([problem], [{"num_correct": 1, "answers": []}], SubsetConfig()).rows
    for name, kept in (("hard.jsonl", hard), ("subset-1.jsonl", solved)):
        path = write_jsonl(tmp_path / name, kept)
        assert kept["answer"] == "see page 7" and load(path)[0].solution == "12"
        assert load(path, solution_column="label")[0].solution == "3"
    assert load(write_jsonl(tmp_path / "b.jsonl", row | {"gold": "9"}))[0].solution == "see page 7"


def test_jsonl_gzipped_with_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"problem": "p0", "solution": "x"}\n\n  \n{"problem": "p1", "solution": "y"}\n')
    assert [problem.solution for problem in load(path)] == ["x", "y"]


def test_csv_keeps_text_as_it_stands(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        '\ufeffProblem ID,Problem,Short Answer\n007,"two\nlines, quoted",0.50\n', encoding="utf-8"
    )
    (problem,) = load(path)
    assert problem.messages[0]["content"] == "two\nlines, quoted"
    assert (problem.solution, problem.columns["Problem ID"]) == ("0.50", "007")


def test_parquet_of_verl(tmp_path):
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 1?"}]
    row = {"prompt": turns, "reward_model": {"style": "rule", "ground_truth": "2"}, "data_source": "s"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, row]), tmp_path / "a.parquet")
    problems = load(tmp_path / "a.parquet")
    assert [problem.messages for problem in problems] == [turns, turns]
    assert [problem.solution for problem in problems] == ["2", "2"]


def test_a_worked_solution_next_to_an_answer_is_not_the_gold(tmp_path):
    row = {"problem": "p", "solution": "long reasoning", "answer": 204}
    (problem,) = load(write_jsonl(tmp_path / "a.jsonl", row))
    assert problem.solution == "204"
    assert problem.columns["solution"] == "long reasoning"
    columns = {"problem": ["p"], "solution": ["204"], "answer": [204], "question": ["p"]}
    assert reward_columns([problem]) == columns


def test_columns_by_option_and_inside_a_dict(tmp_path):
    row = {"prompt": "wrong", "extra": {"question": "right"}, "answer": "no", "label": "yes"}
    path = write_jsonl(tmp_path / "a.jsonl", row)
    (problem,) = load(path, prompt_column="extra.question", solution_column="label")
    assert (problem.messages[0]["content"], problem.solution) == ("right", "yes")


@pytest.mark.parametrize("first", [[], [{"role": "system", "content": "old"}]])
def test_system_prompt_goes_first_and_replaces(tmp_path, first):
    turns = [*first, {"role": "user", "content": "q"}]
    (problem,) = load(write_jsonl(tmp_path / "a.jsonl", {"prompt": turns, "answer": 1}), system_prompt="new")
    assert problem.messages == [{"role": "system", "content": "new"}, {"role": "user", "content": "q"}]


def test_limit(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", *({"prompt": str(i), "answer": i} for i in range(5)))
    assert [problem.solution for problem in load(path, limit=2)] == ["0", "1"]
    assert len(load(path, limit=9)) == 5


def test_reward_columns_of_uneven_rows_and_reserved_names(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"prompt": "a", "answer": 1, "level": 3},
        {"prompt": "b", "answer": 2, "completions": "old"},
    )
    columns = {"answer": [1, 2], "level": [3, None], "solution": ["1", "2"], "question": ["a", "b"]}
    assert reward_columns(load(path)) == columns


def test_a_template_wraps_the_question_and_rewards_get_only_the_question(tmp_path):
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "1 {+} 1?"},
    ]
    path = write_jsonl(
        tmp_path / "a.jsonl", {"prompt": turns, "answer": 2}, {"prompt": "2+2? {question}", "answer": 4}
    )
    several, one = load(path, prompt_template="Plan:\n{question}\nNo answer.", system_prompt="plan")
    said = {"role": "user", "content": "Plan:\n1 {+} 1?\nNo answer."}
    assert several.messages == [{"role": "system", "content": "plan"}, *turns[:2], said]
    assert one.messages[-1]["content"] == "Plan:\n2+2? {question}\nNo answer."
    assert reward_columns([several, one])["question"] == ["1 {+} 1?", "2+2? {question}"]
    assert [problem.question for problem in load(path)] == ["1 {+} 1?", "2+2? {question}"]


def test_a_files_own_question_column_wins_where_it_holds_text(tmp_path):
    rows = ({"prompt": "p", "question": "q", "answer": 1}, {"prompt": "p2", "question": None, "answer": 1})
    problems = load(write_jsonl(tmp_path / "a.jsonl", *rows), prompt_column="prompt")
    assert reward_columns(problems)["question"] == ["q", "p2"]
    assert reward_row(problems[0]) == {"question": "q", "answer": 1, "solution": "1"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (27.0, "27"),
        (1.5, "1.5"),
        (-3, "-3"),
        (" 2", "2"),
        ('["1156"]', "1156"),
        (["\\pi"], "\\pi"),
        ("[-6,5]", "[-6,5]"),
        ("[5]", "[5]"),
        ("1,2", "1,2"),
        ("a\n#### -1,080", "-1080"),
        ("a\n#### $1,234.50", "$1234.50"),
        ("roots\n#### 2,9", "2,9"),
        ("roots\n#### 1,234, 5", "1,234, 5"),
        ("a pair\n#### (1,200)", "(1,200)"),
        ("a\n#### 12,34", "12,34"),
        ("5\n#### ", None),
        ("", None),
        ("  ", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        ({"a": 1}, None),
        (["1", "2"], None),
    ],
)
def test_gold_text(value, expected):
    if expected is None:
        with pytest.raises(ValueError, match="gold answer: expected text or a number, got"):
            gold_text(value)
    else:
        assert gold_text(value) == expected
        assert gold_text(expected) == expected


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        (
            "none.jsonl",
            None,
            FileNotFoundError,
            r"\[data\] path: expected an existing file, got .*none.jsonl",
        ),
        (
            "a.txt",
            "x",
            ValueError,
            r"\[data\] path: expected an ending among \.jsonl, \.jsonl\.gz, \.parquet",
        ),
        ("a.jsonl", "\n", ValueError, r"\[data\] path: expected at least one row, got an empty file"),
        ("a.csv", "Problem,Answer\n", ValueError, "expected at least one row"),
        ("a.jsonl", '{"prompt": "p"', ValueError, r"a\.jsonl line 1: expected a JSON object, got"),
        ("a.jsonl", "\n[1]\n", ValueError, r"a\.jsonl line 2: expected a JSON object"),
        ("a.csv", "Problem,Answer\na,1\nb,2,3\n", ValueError, r"a\.csv row 2: expected the header's number"),
        (
            "a.jsonl",
            '{"text": "p", "answer": 1}',
            ValueError,
            r"prompt_column: .* got columns 'text', 'answer'",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "label": 1}',
            ValueError,
            r"solution_column: .*set data\.solution_column",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "answer": 1}\n{"prompt": "q"}',
            ValueError,
            r"row 2, column 'answer': gold answer: .* None",
        ),
        (
            "a.jsonl",
            '{"prompt": [{"role": "user"}], "answer": 1}',
            ValueError,
            "row 1, column 'prompt': question: expected text",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "answer": 1}\n{"prompt": ["x\\ud835"], "answer": 2}',
            ValueError,
            "line 2: column 'prompt': expected text, got half of a surrogate pair",
        ),
        (
            "a.jsonl",
            '{"prompt": "p", "answer": 1, "a": {"b": ["x\\ud835"]}}',
            ValueError,
            r"line 1: column 'a\.b'",
        ),
        ("a.jsonl", "[" * 100_000, ValueError, "line 1: expected a JSON object, got maximum recursion"),
        (
            "a.jsonl",
            b'{"prompt": "\xff", "answer": 1}',
            ValueError,
            "line 1: expected a JSON object, got 'utf-8'",
        ),
        ("a.csv", b"prompt,answer\np,1\n\xff,2\n", ValueError, "row 2: column 'prompt': expected text"),
        ("a.parquet", "no parquet", ValueError, "path: expected a Parquet file, got"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", ValueError, "path: expected a whole gzip file, got"),
        (
            "a.jsonl",
            '{"problem": "p", "answer": "proof"}',
            ValueError,
            "row 1, column 'answer': .* got 'proof'",
        ),
        (
            "a.jsonl",
            '{"prompt": "[{\'role\': user}]", "answer": 1}',
            ValueError,
            "row 1, column 'prompt': question",
        ),
        (
            "a.jsonl",
            '{"problem": "p", "solution": "A long\\nargument."}',
            ValueError,
            r"column 'solution': .*boxed",
        ),
        (
            "a.jsonl",
            '{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "7"}],'
            '"answer": 7}',
            ValueError,
            "column 'prompt': question: .* ends in an assistant's turn",
        ),
        ("a.csv", "Problem,Answer\na,1\nb,\n", ValueError, r"row 2, column 'Answer': gold answer: .* got ''"),
    ],
)
def test_errors_name_the_place(tmp_path, name, content, error, says):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(error, match=says):
        load(tmp_path / name)


def test_no_path():
    with pytest.raises(ValueError, match=r"\[data\] path: expected a \.jsonl"):
        load("")


@needs_real_files
@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("gsm8k_test.jsonl", 1319, "18", "14"),
        ("gsm8k_train.jsonl", 7473, "72", "50"),
        ("math500.parquet", 500, r"\left( 3, \frac{\pi}{2} \right)", r"106^\circ"),
        ("amc23.jsonl", 40, "27", "8"),
        ("aime24.jsonl", 30, "204", "902"),
        ("imo_answerbench_v2.csv", 400, "3", "20"),
        ("sky_math_64.parquet", 64, "1156", r"\frac{4}{5}"),
    ],
)
def test_real_files(name, count, first, last):
    problems = load(REAL / name)
    assert (len(problems), problems[0].solution, problems[-1].solution) == (count, first, last)
    assert all(problem.messages[-1]["role"] == "user" for problem in problems)
    assert all("####" not in problem.solution for problem in problems)


@needs_real_files
def test_humaneval_keeps_what_its_tests_need():
    problems = load(REAL / "humaneval.jsonl.gz")
    assert len(problems) == 164 and all(problem.solution.strip() for problem in problems)
    columns = program_columns(reward_row(problems[0]), problems[0].question)
    assert columns["entry_point"] == "has_close_elements" and columns["prompt"] == problems[0].question


def test_a_file_without_gold_names_its_columns(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", {"task_id": 1, "prompt": "p", "entry_point": "f"})
    with pytest.raises(ValueError, match="got columns 'task_id', 'prompt', 'entry_point' in"):
        load(path)


def test_skipped_rows_are_counted_and_the_others_keep_their_places(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "b"}\n\n{\n{"prompt": "c", "answer": 3}\n')
    with pytest.raises(ValueError, match="line 4: expected a JSON object"):
        load(path)
    with pytest.warns(
        UserWarning, match=r"2 of 4 rows skipped, .*the first: .*line 4: expected a JSON object"
    ):
        problems = load(path, on_bad_row="skip")
    assert [(problem.index, problem.solution) for problem in problems] == [(0, "1"), (3, "3")]
    write_jsonl(path, {"prompt": "b", "answer": ""}, {"prompt": "b", "answer": " "})
    with pytest.raises(ValueError, match=r"at least one good row, got 2 bad ones: .* row 1, column 'answer'"):
        load(path, on_bad_row="skip")


def test_a_byte_order_mark_and_integers_of_any_length_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"prompt": "p", "answer": ' + "9" * 5000 + "}\n", encoding="utf-8")
    (problem,) = load(path)
    assert problem.solution == "9" * 5000


def test_messages_written_as_text_are_read(tmp_path):
    turns = [{"role": "user", "content": "What is 3 + 4?"}]
    rows = [{"prompt": json.dumps(turns), "answer": 7}, {"prompt": repr(turns), "answer": 7},
            {"prompt": "[1, 2] has how many?", "answer": 2}]  # fmt: skip
    problems = load(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert [problem.messages for problem in problems[:2]] == [turns, turns]
    assert problems[2].question == "[1, 2] has how many?"


def test_a_worked_solution_is_never_the_gold(tmp_path):
    rows = [{"question": "q", "solution": ["long\nproof"], "final_answer": ["$2 n-2$"]},
            {"question": "q", "solution": ["long\nproof"], "final_answer": ["2", "3"]}]  # fmt: skip
    problems = load(write_jsonl(tmp_path / "a.jsonl", *rows))
    assert [problem.solution for problem in problems] == ["$2 n-2$", "2, 3"]
