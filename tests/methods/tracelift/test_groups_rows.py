"""Files of groups: written groups are read back equal; bad rows are refused with their place."""

import json

import pytest
from jsonl import write_jsonl

from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.trace_groups import Group, Trace, read_groups, to_row, write_groups


def trace(task="math", score=10.0, **fields):
    return Trace(
        **{
            "text": "a\nb „x“",
            "scores": dict.fromkeys(DIMENSIONS[task], score),
            "total": score / 10,
            **fields,
        }
    )


def group(**fields):
    flawed = trace(score=2.5, negative_kind="slip", place=(0, 0), label="bad", reason="off by one")
    return Group(
        **{
            "problem_id": "p0", "task": "math", "problem": "1+1?", "reference_solution": "1+1=2",
            "answer": "2", "positive_pool": (trace(),), "negative_bank": (flawed, trace(score=0.0)), **fields,
        }
    )  # fmt: skip


GROUPS = [
    group(),
    group(problem_id="p1", columns={"level": 3, "names": ["x"], "none": None}),
    group(
        problem_id="p2", task="code", positive_pool=(trace("code"),), tests="assert f(1) == 2",
        negative_bank=(trace("code", 1.0, place=(2, 5)),), columns={"level": "three"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("groups", [GROUPS, GROUPS[:1]], ids=["ragged", "no columns, no tests"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_read_back_equal(tmp_path, ending, groups):
    path = tmp_path / f"a.{ending}"
    write_groups(path, groups)
    assert read_groups(str(path)) == groups
    assert read_groups(str(path), limit=1) == groups[:1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[data\] path: expected an ending among .jsonl, .parquet"):
        write_groups(tmp_path / "a.csv", GROUPS)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("answer",), None, "row 2: expected answer, got columns"),
        (("task",), "art", "row 2: task: expected math or code, got 'art'"),
        (("negative_bank", 1, "total"), 1.5, r"row 2, negative_bank\[1\]: total: expected 0 to 1, got 1.5"),
        (("positive_pool", 0, "scores", "step_coherence"), -1, "step_coherence: expected 0 to 10, got -1"),
        (("positive_pool", 0, "scores"), {"style": 1}, "scores: expected problem_understanding, "),
        (("positive_pool", 0, "text"), 3, r"positive_pool\[0\]: expected a trace with text"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_group(tmp_path, place, value, message):
    row = json.loads(json.dumps(to_row(GROUPS[0])))
    inside = row
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    path = tmp_path / "a.jsonl"
    write_jsonl(path, (to_row(GROUPS[0]), row))
    with pytest.raises(ValueError, match=message):
        read_groups(str(path))
