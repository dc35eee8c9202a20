"""Public data layouts: each is read from a small file with the right question and gold answer."""

import base64
import csv
import json
import pickle
import zlib
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from fastrl.config import DataConfig
from fastrl.data.hidden_tests import unpacked
from fastrl.data.layouts import LAYOUTS
from fastrl.data.problems import program_columns, read_problems, reward_row
from fastrl.grading.programs.cases import ProgramTests

TURN = [{"role": "user", "content": "Q?"}]
MATH = {
    "gsm8k": ({"question": "Q?", "answer": "6 * 200 = <<6*200=1200>>1200\n#### 1,200"}, "1200", "general"),
    "math": (
        {"problem": "Q?", "level": "Level 2", "type": "Algebra",
         "solution": "First $\\boxed{a}$ is wrong,\nso $x=\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}", "math"),
    "math500": ({"problem": "Q?", "solution": "so \\boxed{7}", "answer": "7", "subject": "A", "level": 2,
                 "unique_id": "test/a/1.json"}, "7", "general"),
    "dapo": ({"data_source": "math_dapo", "prompt": TURN, "ability": "MATH",
              "reward_model": {"ground_truth": "34", "style": "rule"}, "extra_info": {"index": "a"}}, "34",
             "general"),
    "deepscaler": ({"problem": "Q?", "answer": "2^7", "solution": "worked"}, "2^7", "general"),
    "skywork": ({"prompt": TURN, "reward_model": {"ground_truth": '["\\\\frac{5}{9}"]', "style": "rule"},
                 "data_source": "train-math", "extra_info": {"model_difficulty": {"a": 3}}}, "\\frac{5}{9}",
                "general"),
    "numinamath": ({"problem": "Q?", "solution": "worked", "answer": "3", "problem_type": "Algebra",
                    "question_type": "math-word-problem", "problem_is_valid": "Yes"}, "3", "general"),
    "openr1": ({"problem": "Q?", "solution": "worked", "answer": "5", "generations": ["a", "b"],
                "is_reasoning_complete": [True, False], "correctness_math_verify": None}, "5", "general"),
    "bigmath": ({"problem": "Q?", "answer": "12", "source": "orca_math", "domain": ["Algebra"],
                 "llama8b_solve_rate": 0.5}, "12", "general"),
    "omnimath": ({"problem": "Q?", "answer": "\\sqrt{2}", "solution": "worked", "domain": ["Algebra"],
                  "difficulty": 5.0, "source": "imo"}, "\\sqrt{2}", "general"),
    "olympiadbench": ({"id": 1, "question": "Q?", "solution": ["A proof.\nHence done."],
                       "final_answer": ["$2 n-2$"], "is_multiple_answer": False, "unit": None}, "$2 n-2$",
                      "olympiadbench"),
    "scibench": ({"problem_text": "Q?", "answer_latex": "-1.5", "answer_number": " -1.5", "unit": "$ m$",
                  "source": "fund", "problemid": "1", "solution": ""}, "-1.5", "scibench"),
    "verl": ({"prompt": TURN, "reward_model": {"ground_truth": "34"}}, "34", "general"),
    "messages": ({"messages": [{"role": "system", "content": "S"}, *TURN,
                               {"role": "assistant", "content": "It is\n\\boxed{34}."}]}, "34", "messages"),
}  # fmt: skip


def write(path, row):
    """One row, as the file's ending asks; CSV has lists and dicts in JSON."""
    if path.suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        cells = [json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in row.values()]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([list(row), cells])
    return DataConfig(path=str(path))


def only(config):
    read = read_problems(config)
    (problem,) = read.problems
    return problem, read.layout.name


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("name", MATH)
def test_mathematics_by_columns_and_by_name(tmp_path, name, ending):
    row, gold, found_as = MATH[name]
    config = write(tmp_path / f"a.{ending}", row)
    problem, layout = only(config)
    named, named_layout = only(replace(config, layout=name))
    assert (layout, named_layout) == (found_as, name)
    for each in (problem, named):
        assert (each.question, each.solution) == ("Q?", gold)
        assert each.messages[-1] == TURN[0]


def test_verl_as_csv_of_pandas(tmp_path):
    """Which writes Python's repr of lists and dicts."""
    row = {"prompt": repr(TURN), "reward_model": repr({"ground_truth": "34", "style": "rule"})}
    problem, _ = only(write(tmp_path / "a.csv", row))
    assert (problem.messages, problem.solution) == (TURN, "34")


def test_a_ground_truth_column_next_to_messages_is_the_gold(tmp_path):
    problem, layout = only(write(tmp_path / "a.jsonl", {"messages": TURN, "ground_truth": "5"}))
    assert (problem.question, problem.solution, layout) == ("Q?", "5", "messages")


GPQA = {"Question": "Q?", "Correct Answer": "right\n", "Incorrect Answer 1": "w1",
        "Incorrect Answer 2": "w2", "Incorrect Answer 3": "w3"}  # fmt: skip
SUPER = {"uuid": "u", "question": "Q?", "options": ["w1", "w2", "right", "w3", "w4"], "answer": "right",
         "answer_letter": "C", "discipline": "Law"}  # fmt: skip


@pytest.mark.parametrize(("row", "name"), [(GPQA, "gpqa"), (SUPER, "supergpqa")])
def test_options_are_shuffled_by_seed_and_the_gold_is_the_right_ones_letter(tmp_path, row, name):
    config = write(tmp_path / "a.jsonl", row)
    texts = set()
    for seed in range(20):
        problem, layout = only(replace(config, option_seed=seed))
        assert layout == name and problem == only(replace(config, option_seed=seed))[0]
        question, *options = problem.question.splitlines()
        assert question == "Q?" and f"{problem.solution}) right" in options
        assert {option[3:] for option in options} >= {"right", "w1", "w2", "w3"}
        texts.add(problem.question)
    assert len(texts) > 10


def test_options_that_do_not_hold_the_answer_are_refused(tmp_path):
    config = write(tmp_path / "a.jsonl", SUPER | {"answer": "other"})
    with pytest.raises(ValueError, match=r"row 1, column .*answer: expected one of the options, got 'other'"):
        read_problems(config)


def program_tests(problem):
    row = reward_row(problem)
    return ProgramTests.from_columns(program_columns(row, row["question"]))


def passes(tests, program):
    """Whether the check lets a program pass; it runs here, since it is ours."""
    space = {}
    exec(tests.prompt + "\n" + program, space)
    exec(tests.check, space)
    try:
        space["check"](space[tests.entry_point])
    except AssertionError:
        return False
    return True


CHECKED = {
    "mbpp": {"task_id": 1, "text": "Add.", "test_setup_code": "",
             "code": "def helper(a):\n    return a\ndef add(a, b):\n    return a + b",
             "test_list": ["assert add(1, 2) == 3", "assert set([add(0, 1)]) == {1}"]},
    "mbpp+": {"task_id": 1, "prompt": "Add.", "code": "def add(a, b):\n    return a + b",
              "test_imports": ["import math"], "test_list": ["assert add(1, 2) == 3"],
              "test": "import math\ndef same(a, b):\n    assert math.isclose(a, b), 'x'\n"
                      "for given, out in zip([[1, 2], [2, 2]], [3, 4]):\n    same(add(*given), out)\n"},
    "humaneval": {"task_id": "H/0", "prompt": "def add(a, b):\n    '''Add.'''\n", "entry_point": "add",
                  "canonical_solution": "    return a + b\n",
                  "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"},
    "leetcode": {"task_id": "add", "problem_description": "Add.", "starter_code": "def add(a, b):",
                 "prompt": "import math\n", "entry_point": "add",
                 "completion": "def add(a, b):\n    return a + b",
                 "test": "def check(candidate):\n    assert candidate(a=1, b=2) == 3\n"},
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKED)
def test_checked_programs(tmp_path, name):
    problem, layout = only(write(tmp_path / "a.jsonl", CHECKED[name]))
    assert layout == name and "Add." in problem.question
    tests = program_tests(problem)
    assert tests.entry_point == "add"
    assert passes(tests, "def add(a, b):\n    return a + b")
    assert not passes(tests, "def add(a, b):\n    return a * b")


def test_the_function_of_mbpp_is_named_in_the_question(tmp_path):
    problem, _ = only(write(tmp_path / "a.jsonl", CHECKED["mbpp"]))
    assert "assert add(1, 2) == 3" in problem.question


CASES = (("1 2\n", "3\n"), ("4 5\n", "9\n"))
IO = {"inputs": [given for given, _ in CASES], "outputs": [wanted for _, wanted in CASES]}
PAIRS = [{"input": given, "output": wanted, "testtype": "stdin"} for given, wanted in CASES]
PACKED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(PAIRS[1:])))).decode()
RUN = {
    "apps": {"problem_id": 0, "question": "Q?", "solutions": json.dumps(["print(3)"]), "starter_code": "",
             "input_output": json.dumps(IO), "difficulty": "interview"},
    "livecodebench": {"question_title": "A", "question_content": "Q?", "starter_code": "",
                      "public_test_cases": json.dumps(PAIRS[:1]), "private_test_cases": PACKED,
                      "metadata": "{}"},
    "codecontests": {"name": "a", "description": "Q?",
                     "public_tests": {"input": IO["inputs"][:1], "output": IO["outputs"][:1]},
                     "private_tests": {"input": IO["inputs"][1:], "output": IO["outputs"][1:]},
                     "generated_tests": {"input": [], "output": []},
                     "solutions": {"language": [2, 3], "solution": ["int main", "print(3)"]}},
}  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", RUN)
def test_programs_with_inputs_and_outputs(tmp_path, name, ending):
    problem, layout = only(write(tmp_path / f"a.{ending}", RUN[name]))
    assert (layout, problem.question) == (name, "Q?")
    assert problem.solution == ("" if name == "livecodebench" else "print(3)")
    assert program_tests(problem).cases == CASES


def test_lines_of_apps_become_a_text_and_a_called_function_keeps_its_arguments(tmp_path):
    lines = {"inputs": [["1", "2"]], "outputs": [["3"]]}
    problem, _ = only(write(tmp_path / "a.jsonl", RUN["apps"] | {"input_output": json.dumps(lines)}))
    assert program_tests(problem).cases == (("1\n2\n", "3\n"),)
    called = {"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}
    problem, _ = only(write(tmp_path / "a.jsonl", RUN["apps"] | {"input_output": json.dumps(called)}))
    assert problem.columns["tests"] == called


def test_packed_tests_run_nothing():
    class Runs:
        def __reduce__(self):
            return (print, ("run",))

    cell = base64.b64encode(zlib.compress(pickle.dumps(Runs()))).decode()
    with pytest.raises(
        ValueError, match=r"expected packed JSON of tests, got a pickle of more than one text"
    ):
        unpacked(cell)
    with pytest.raises(ValueError, match="expected packed JSON of tests"):
        unpacked("no base 64!")


def test_every_layout_is_tried_here():
    assert {layout.name for layout in LAYOUTS} == {*MATH, *CHECKED, *RUN, "gpqa", "supergpqa"}


def test_names_and_columns_that_are_not_there(tmp_path):
    config = write(tmp_path / "a.jsonl", {"question": "Q?", "answer": 1})
    with pytest.raises(ValueError, match=r"\[data\] layout: expected auto or one of .*, got 'gsm9k'"):
        read_problems(replace(config, layout="gsm9k"))
    with pytest.raises(
        ValueError, match=r"layout: expected columns Question, Correct Answer, .* got columns 'question'"
    ):
        read_problems(replace(config, layout="gpqa"))
