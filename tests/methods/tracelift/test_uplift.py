"""The uplift reward with computed executors: rewards worked by hand."""

from types import SimpleNamespace

import pytest
from executors import PLAIN, Reader, math_executor
from places import SHARED_DATA

from fastrl.config import DataConfig, ExecutorConfig, ProgramConfig, UpliftConfig
from fastrl.data import load_problems, reward_row
from fastrl.grading import AnswerGrader
from fastrl.grading.programs.runner import Outcome, ProgramReport, ProgramRunner
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.program_verifier import CodeVerifier
from fastrl.methods.tracelift.uplift import UpliftReward, rows_of

CLOSE = pytest.approx
HUMANEVAL = SHARED_DATA / "humaneval.jsonl.gz"
needs_real_files = pytest.mark.skipif(not HUMANEVAL.is_file(), reason=f"no {HUMANEVAL}")


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=1, extraction="last_number") as shared:
        yield shared


class Judge:
    """Half the trace's first digit is its quality, a tenth each."""

    def __init__(self):
        self.asked = []

    def score(self, task, problems, traces, tests=None):
        self.asked.append((task, list(problems), list(traces), tests))
        return [SimpleNamespace(total=int(trace[:1] or 0) / 10) for trace in traces]


def helps(read, j):
    """With a trace of "8 good" runs 0, 1, 2 are right and 3 is not; "5 bad": none; else the first two."""
    if "good" in read:
        return "7" if j < 3 else "1"
    return "1" if "bad" in read else ("7" if j < 2 else "1")


def call(reward, completions, questions=None, solution=None, step=0, **columns):
    questions = questions or ["q"] * len(completions)
    logs, metrics = {}, {}
    rewards = reward(
        prompts=[[{"role": "user", "content": f"plan {q}"}] for q in questions],
        completions=completions,
        completion_ids=[[1]] * len(completions),
        question=questions,
        solution=solution or ["7"] * len(completions),
        trainer_state=SimpleNamespace(global_step=step),
        log_extra=logs.__setitem__,
        log_metric=metrics.__setitem__,
        **columns,
    )
    return rewards, logs, metrics


TEXTS = ["<reasoning>8 good</reasoning>", "5 bad, the answer is 7", ""]


def math(grader, scorer=None, write=helps, **options):
    config = UpliftConfig(**{"baseline_repeats": 4, **options})
    return UpliftReward(math_executor(write, grader), config, scorer or Judge(), seed=3)


# alone 2 of 4 runs are right. good: e2e 1, repeats 2/3; bad: 0, 0; empty, asked as without a trace: 1, 1/3
@pytest.mark.parametrize(
    ("form", "rewards"),
    [
        ("product", [0.5 + 0.4 * (2 / 3 - 1 / 2), 0.25 * -0.5, 0.5]),
        ("quality", [0.5 + 0.4, 0.25, 0.5]),
        ("uplift", [0.5 + 0.5 / 6, -0.25, 0.5 - 0.5 / 6]),
        ("sum", [0.5 + 0.25 * (0.8 + 1 / 6), 0.25 * (0.5 - 0.5), 0.5 + 0.25 * -1 / 6]),
        ("execution", [1.0, 0.0, 1.0]),
    ],
)
def test_math_by_hand(grader, form, rewards):
    judge = Judge()
    found, logs, metrics = call(math(grader, judge, form=form), TEXTS)
    assert found == CLOSE(rewards)
    judged = form in ("product", "quality", "sum")
    traces = ["8 good", "5 bad, the answer is 7", ""]
    assert judge.asked == ([("math", ["q"] * 3, traces, None)] if judged else [])
    assert logs["trace"] == traces
    assert logs["executor_answer"] == ["7", "1", "7"]
    assert logs["executor_verdict"] == ["correct", "wrong", "correct"]
    assert logs["s_with"] == CLOSE([2 / 3, 0, 1 / 3]) and logs["s_base"] == [0.5] * 3
    assert logs["quality"] == ([0.8, 0.5, 0.0] if judged else [0.0] * 3)
    assert logs["leak"] == [False, True, False]
    expected = {
        "uplift/e2e": 2 / 3, "uplift/with": 1 / 3, "uplift/without": 0.5, "uplift/uplift": -1 / 6,
        "uplift/leak": 1 / 3, "uplift/empty_trace": 1 / 3, "uplift/unfinished": 0.0, "uplift/cached": 0.0,
        "uplift/no_answer": 0.0, "uplift/unreadable": 0.0, "uplift/timeout": 0.0, "uplift/error": 0.0,
        "uplift/unevaluated": 0.0,
    }  # fmt: skip
    assert metrics == CLOSE(expected | ({"uplift/quality": 1.3 / 3} if judged else {}))


def test_a_leak_is_counted_or_costs_all(grader):
    helped = lambda read, j: "7"
    for leak, reward in (("count", 0.5), ("zero", 0.0)):
        found, _, metrics = call(math(grader, write=helped, leak=leak), ["5 is \\boxed{7}", "5 is 7"])
        assert found == [reward, 0.5] and metrics["uplift/leak"] == 0.5


def test_conversational_completions_and_another_tag(grader):
    texts = [[{"role": "assistant", "content": "so <plan>8 good</plan> bad"}]]
    found, logs, _ = call(math(grader, trace_tag="plan"), texts)
    assert logs["trace"] == ["8 good"] and found == CLOSE([0.5 + 0.4 / 6])


def test_a_cached_baseline_runs_once_and_depends_only_on_seed_and_question(grader):
    reward = math(grader)
    engine = reward.executor.engine
    _, _, first = call(reward, TEXTS, ["q", "q", "r"])
    alone = {
        (read, samples): seed for read, samples, seed in engine.reads() if samples == 4 and len(read) < 20
    }
    asked = [(read, samples) for read, samples, _ in engine.reads()]
    assert asked.count(("<user>q\n<assistant>", 4)) == 1
    assert asked.count(("<user>r\n<assistant>", 4)) == 2  # an empty trace, and the baseline
    assert len(engine.calls) == 1 and first["uplift/cached"] == 0.0
    _, _, second = call(reward, TEXTS, ["q", "s", "q"], step=1)
    assert second["uplift/cached"] == CLOSE(2 / 3)
    again = math(grader)
    call(again, TEXTS[:1], ["q"], step=5, rollout_ids=[99])
    (seed,) = [s for read, _, s in again.executor.engine.reads() if read == "<user>q\n<assistant>"]
    assert seed == alone["<user>q\n<assistant>", 4]
    assert seed not in [s for read, _, s in engine.reads() if read != "<user>q\n<assistant>"]


def test_a_resampled_baseline_runs_for_every_trace(grader):
    reward = math(grader, baseline="resampled", baseline_repeats=3)
    engine = reward.executor.engine
    for step in (0, 1):
        _, _, metrics = call(reward, TEXTS[:2], step=step, rollout_ids=[4, 5])
        assert metrics["uplift/cached"] == 0.0
    seeds = [[seed for _, n, seed in engine.reads(step) if n == 3] for step in (0, 1)]
    assert [len(own) for own in seeds] == [2, 2] and len({*seeds[0], *seeds[1]}) == 4


def test_draws_with_a_trace_follow_step_and_rollout(grader):
    reward = math(grader)
    seeds = []
    for step, ids in ((0, [7, 8]), (0, [8, 7]), (1, [7, 8]), (0, None)):
        call(reward, TEXTS[:2], step=step, rollout_ids=ids)
        seeds.append(
            [seed for read, _, seed in reward.executor.engine.reads() if "good" in read or "bad" in read]
        )
    assert seeds[1] == seeds[0][::-1]
    assert len({*seeds[0], *seeds[2], *seeds[3]}) == 6


def test_missing_reward_model_and_gold_answers_are_refused(grader):
    with pytest.raises(
        ValueError, match=r"\[uplift\] reward_model: expected one, since form is sum, got none"
    ):
        UpliftReward(math_executor(helps, grader), UpliftConfig(form="sum"), None, seed=0)
    UpliftReward(math_executor(helps, grader), UpliftConfig(form="uplift"), None, seed=0)
    with pytest.raises(ValueError, match="gold answer: expected text or a number, got None"):
        call(math(grader), ["a"], solution=[None])
    assert call(math(grader), [], [], [])[0] == []
    assert math(grader).__name__ == "uplift"


def test_rows_take_lists_of_the_batchs_length():
    assert rows_of({"a": [1, 2], "b": "xy", "c": None, "d": [1]}, 2) == [{"a": 1}, {"a": 2}]


TESTS = [{"stdin": "3", "stdout": "6"}, {"stdin": "4", "stdout": "8"}]
PROGRAMS = {
    "right": "print(int(input()) * 2)",
    "half": "print(6)",
    "breaks": "int(input())\nraise SystemExit(3)",
    "half, then breaks": "n = int(input())\nprint(6)\nassert n == 3",
    "no program": "let me see",
}


@pytest.fixture(scope="module")
def runner():
    config = ProgramConfig(num_workers=1, run_unsandboxed_code=True, timeout_s=60.0)
    with ProgramRunner(config) as shared:
        yield shared


def code(runner, write, **options):
    config = UpliftConfig(**{"baseline_repeats": 3, **options}, executor=ExecutorConfig(**PLAIN, task="code"))
    executor = Executor(Reader(write), config.executor, CodeVerifier(runner))
    return UpliftReward(executor, config, Judge(), seed=3)


# the trace names the primary run's program and how many of the repeats are right; alone, one of three is
@pytest.mark.parametrize(
    ("trace", "product", "execution", "verdict"),
    [
        ("5 right 2", 1.0, 1.0, "passed"),  # the bonus is cut off
        ("5 right 0", 0.9, 1.0, "passed"),
        ("5 half 2", 0.7, 0.6, "wrong_answer"),
        ("5 half 1", 0.65, 0.6, "wrong_answer"),  # a tie at 1/3 is worth a half
        ("5 half 0", 0.5, 0.6, "wrong_answer"),
        ("5 breaks 0", 0.0, 0.05, "runtime_error"),
        ("5 half, then breaks 2", 0.55, 0.45, "runtime_error"),
        ("5 no program 3", 0.1, 0.0, "compile_error"),
    ],
)
def test_code_by_hand(runner, trace, product, execution, verdict):
    name, num_right = trace[2:-2], int(trace[-1])

    def write(read, j):
        if "5" not in read:
            return PROGRAMS["right" if j == 0 else "half"]
        program = PROGRAMS[name] if j == 0 else PROGRAMS["right" if j <= num_right else "half"]
        return f"```python\n{program}\n```"

    for form, reward in (("product", product), ("execution", execution)):
        found, logs, metrics = call(code(runner, write, form=form), [trace], tests=[TESTS], solution=["-"])
        assert found == CLOSE([reward])
        assert logs["executor_verdict"] == [verdict] and logs["s_base"] == CLOSE([1 / 3])
        assert logs["s_with"] == CLOSE([num_right / 3])
        assert metrics[f"uplift/{verdict}"] >= 0.25 and metrics["uplift/sandbox_error"] == 0
    assert {"uplift/coefficient", "uplift/pass_rate", "uplift/timeout"} <= set(metrics)


def test_code_tests_go_to_the_judge_and_a_program_in_the_trace_is_a_leak(runner):
    judge = Judge()
    reward = code(runner, lambda read, j: PROGRAMS["right"], leak="zero")
    reward.scorer = judge
    traces = ["3 double it", "3 so\nprint(int(input()) * 2)"]
    found, logs, _ = call(reward, traces, tests=[TESTS, TESTS[:1]], solution=["-", "-"])
    assert found == [1.0, 0.0] and logs["leak"] == [False, True]
    ((task, _, asked, tests),) = judge.asked
    assert (task, asked) == ("code", traces)
    assert tests == ["input:\n3\noutput:\n6\n\ninput:\n4\noutput:\n8", "input:\n3\noutput:\n6"]


def test_a_function_of_humaneval_without_its_reserved_column(runner):
    question = 'def double(x):\n    """Twice x."""\n'
    row = {"test": ["def check(f):\n    assert f(3) == 6\n"], "entry_point": ["double"]}
    found, _, _ = call(code(runner, lambda read, j: "    return 2 * x\n"), ["4"], [question], ["-"], **row)
    assert found == [1.0]


@needs_real_files
def test_humaneval_as_problems(runner):
    config = DataConfig(path=str(HUMANEVAL), solution_column="canonical_solution", limit=4)
    verifier, problems = CodeVerifier(runner), load_problems(config)
    rows = [reward_row(problem) for problem in problems]
    references = [verifier.reference(row) for row in rows]
    solutions = [problem.columns["canonical_solution"] for problem in problems]
    whole = [f"```python\n{row['question']}{text}```" for row, text in zip(rows, solutions, strict=True)]
    for answers in (solutions, [f"```python\n{text}\n```" for text in solutions], whole):
        checked = verifier.check(list(zip(answers, references, strict=True)))
        assert [each.label for each in checked] == ["passed"] * 4
    assert not any(each.success for each in verifier.check([("    return 0", r) for r in references]))


class Broken:
    """A runner of which so many of a batch's programs fail for reasons of its own."""

    def __init__(self, share):
        self.share = share

    def run(self, jobs):
        outcomes = [
            Outcome.SANDBOX_ERROR if i < self.share * len(jobs) else Outcome.PASSED for i in range(len(jobs))
        ]
        return [ProgramReport(o, 2 * (o is Outcome.PASSED), 2, "no fork") for o in outcomes]


def test_a_broken_sandbox_earns_nothing_and_is_an_error_above_one_half():
    write = lambda read, j: "print(1)"
    # 4 with the trace, 3 without, in this order: 3 of 7 fail
    found, logs, metrics = call(code(Broken(3 / 7), write), ["1 t"], tests=[TESTS], solution=["-"])
    assert found == CLOSE([0.0])  # 0, and the sign is -1: 1 of 3 against 3 of 3
    assert metrics["uplift/sandbox_error"] == 0.75 and logs["s_base"] == [1.0]
    with pytest.raises(RuntimeError, match=r"\[executor\] program: expected .* got 4 failures of 7: no fork"):
        call(code(Broken(4 / 7), write), ["1 t"], tests=[TESTS], solution=["-"])
