"""Two-stage evaluation and the executor's baseline, by hand over a scripted engine."""

import pytest
from jsonl import read_jsonl
from scripted import ScriptedEngine

from fastrl.config import ExecutorConfig, ProgramConfig
from fastrl.data import Problem
from fastrl.grading import AnswerGrader
from fastrl.grading.programs.runner import ProgramRunner
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.program_verifier import CodeVerifier
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.methods.tracelift.verifiers import MathVerifier
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

WORDS = {"system": "", "prompt": "{question}|", "prompt_with_trace": "{question}|{trace}", "begin": ""}
SAMPLING = SamplingParams(max_new_tokens=30)


def problem(index, question, solution="7", **columns):
    messages = [{"role": "user", "content": f"Plan {question}"}]
    return Problem(index=index, messages=messages, question=question, solution=solution, columns=columns)


def read(question, prefix):
    """What the executor was asked, without the template's own tokens."""
    return (question + prefix).replace("<assistant>", "")


def planner():
    """Two good traces and two bad ones of "easy"; of "hard" one gives the answer away, one never ends."""

    def write(question, prefix, sample, seed):
        if question == "Plan easy":
            return "<reasoning>good</reasoning>" if sample < 2 else "<reasoning>bad"
        return ["#### 7", "good", None, "bad"][sample]

    return ScriptedEngine(write)


def executor(grader, alone=1):
    """Right with a good trace; alone in `alone` of its samples, and only on what is easy."""

    def write(question, prefix, sample, seed):
        asked, _, trace = read(question, prefix).partition("|")
        if not trace:
            return "7" if asked == "easy" and sample < alone else "1"
        return None if trace.startswith(".") else ("7" if trace == "good" else "1")

    config = ExecutorConfig(**WORDS, max_new_tokens=9)
    return Executor(ScriptedEngine(write), config, MathVerifier(grader))


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=1, extraction="last_number") as shared:
        yield shared


def test_by_hand(grader, tmp_path):
    problems = [problem(0, "easy"), problem(1, "hard")]
    completions = sample_traces(planner(), problems, num_samples=4, sampling=SAMPLING, seed=3)
    reader = executor(grader)
    path = tmp_path / "out/completions.jsonl"
    result = two_stage(reader, problems, completions, trace_tag="reasoning", seed=3, path=path)
    # easy: 2 of 4, alone 1 of 4; hard: 1 of 4, alone none
    expected = {
        "num_problems": 2, "num_samples": 4,
        "two_stage_avg@4": 3 / 8, "two_stage_avg@4/low": 0.25, "two_stage_avg@4/high": 0.5,
        "executor_alone_avg@4": 1 / 8, "executor_alone_avg@4/low": 0, "executor_alone_avg@4/high": 0.25,
        "uplift": 0.25, "uplift/low": 0.25, "uplift/high": 0.25,
        "leak": 1 / 8, "trace_unfinished": 1 / 8, "answer_unfinished": 1 / 8,
        "trace_length": (2 * 28 + 2 * 15 + 7 + 5 + 30 + 4) / 8,
        "no_answer": 1 / 8, "unreadable": 0, "unevaluated": 0, "timeout": 0, "error": 0,
    }  # fmt: skip
    assert result.metrics == pytest.approx(expected)
    assert result.problems[0].traces == ["good", "good", "bad", "bad"]
    asked = [(read(question, prefix), seed) for question, prefix, _, seed in reader.engine.asked]
    assert [text for text, _ in asked] == [
        "easy|good", "easy|good", "easy|bad", "easy|bad", "easy|",
        "hard|#### 7", "hard|good", "hard|" + "." * 30, "hard|bad", "hard|",
    ]  # fmt: skip
    assert asked[4][1] == seed_of(3, "alone", 0) and asked[6][1] == seed_of(3, "two_stage", 1, 1)
    rows = read_jsonl(path)
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(2) for s in range(4)]
    assert rows[4] == {
        "problem": 1, "sample": 0, "solution": "7", "completion": "#### 7", "trace": "#### 7", "leak": True,
        "executor_answer": "1", "verdict": "wrong", "pass_rate": 0.0, "executor_alone": 0.0,
    }  # fmt: skip


def test_the_executors_baseline_is_the_same_before_and_after(grader):
    problems = [problem(0, "easy"), problem(1, "hard")]
    reader = executor(grader, alone=3)
    found = []
    for traces in ("good", "bad"):
        completions = sample_traces(
            ScriptedEngine(lambda *asked, text=traces: text),
            problems,
            num_samples=4,
            sampling=SAMPLING,
            seed=3,
        )
        found.append(two_stage(reader, problems, completions, trace_tag="reasoning", seed=3).metrics)
    assert [each["two_stage_avg@4"] for each in found] == [1, 0]
    assert [each["executor_alone_avg@4"] for each in found] == [3 / 8, 3 / 8]
    reads = [(read(question, prefix), seed) for question, prefix, _, seed in reader.engine.asked]
    assert [text for text, _ in reads if text.endswith("|")] == ["easy|", "hard|"]  # once
    again = executor(grader, alone=3)
    two_stage(again, problems[1:], completions[1:], trace_tag="reasoning", seed=3)
    assert {(read(q, prefix), seed) for q, prefix, _, seed in again.engine.asked} <= set(reads)


def test_code_has_pass_rates(grader):
    tests = [{"stdin": "1", "stdout": "2"}, {"stdin": "2", "stdout": "4"}]
    programs = {"double": "print(int(input()) * 2)", "two": "print(2)", "": "print("}
    write = lambda question, prefix, sample, seed: programs[read(question, prefix).partition("|")[2]]
    config = ExecutorConfig(**WORDS, task="code", max_new_tokens=40)
    with ProgramRunner(ProgramConfig(num_workers=1, run_unsandboxed_code=True, timeout_s=60.0)) as runner:
        coder = Executor(ScriptedEngine(write), config, CodeVerifier(runner))
        problems = [problem(0, "q", "-", tests=tests)]
        says = lambda question, prefix, sample, seed: ["double", "two"][sample]
        completions = sample_traces(ScriptedEngine(says), problems, num_samples=2, sampling=SAMPLING, seed=0)
        metrics = two_stage(coder, problems, completions, trace_tag="reasoning", seed=0).metrics
    assert (metrics["passed"], metrics["wrong_answer"], metrics["compile_error"]) == (0.5, 0.5, 0)
    assert metrics["two_stage_avg@2"] == 0.5 and metrics["two_stage_pass_rate"] == 0.75
    assert metrics["executor_alone_avg@2"] == metrics["executor_alone_pass_rate"] == 0


def test_counts_must_agree(grader):
    problems = [problem(0, "easy"), problem(1, "hard")]
    completions = sample_traces(planner(), problems, num_samples=2, sampling=SAMPLING, seed=3)
    for wrong in (completions[:1], [completions[0], completions[1][:1]], [[], []], []):
        with pytest.raises(ValueError, match=r"\[two_stage\] completions: expected equally many"):
            two_stage(executor(grader), problems, wrong, trace_tag="reasoning", seed=3)
