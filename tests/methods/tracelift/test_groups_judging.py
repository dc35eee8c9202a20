"""Writing and judging by models: prompts, parsed answers, retries, and the file of answers."""

import json
from collections import Counter

import pytest
from checkpoints import byte_tokenizer

from fastrl.config import WriterConfig
from fastrl.methods.tracelift.groups.asking import BATCH, AnswerFile, Request, ask
from fastrl.methods.tracelift.groups.drafts import LABELS, Draft, UnusableError, by_rule
from fastrl.methods.tracelift.groups.judge import MEANING, judge_prompt, read_judgment
from fastrl.methods.tracelift.groups.seeds import Seed
from fastrl.methods.tracelift.groups.taxonomy import TAXONOMY
from fastrl.methods.tracelift.groups.written import (
    changed_place,
    read_flawed,
    writing_prompt,
    writing_requests,
)
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.types import Completion

GOOD = "First 2 + 3 = 5 apples are there. Then 5 * 4 = 20 slices are cut from them."
JUDGMENT = {
    "problem_understanding": 9, "solution_strategy": 8.5, "step_coherence": 7, "calculation_correctness": 0,
    "answer_support": 10, "overall": 3.5, "label": "weak", "reason": " A slip in step 2. ",
}  # fmt: skip


class Scripted:
    """write(prompt, seed) -> text; notes what it was asked."""

    def __init__(self, write):
        self.tokenizer = byte_tokenizer()
        self.write, self.asked, self.asleep = write, [], False

    def sleep(self, level=1):
        self.asleep = True

    def generate(self, prompts, sampling, *, seeds, n=1):
        out = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            text = self.tokenizer.decode(prompt, skip_special_tokens=True)
            self.asked.append((text, seed, sampling))
            out.append(
                [Completion(token_ids=[], logprobs=[], finish_reason="stop", text=self.write(text, seed))]
            )
        return out


def number(text):
    if not text.isdigit():
        raise UnusableError("no number")
    return int(text)


def cause_of(read, *arguments):
    with pytest.raises(UnusableError) as caught:
        read(*arguments)
    return str(caught.value)


def test_a_judgment_is_read():
    judgment = read_judgment(json.dumps(JUDGMENT), "math")
    assert list(judgment.scores.items()) == [(name, float(JUDGMENT[name])) for name in DIMENSIONS["math"]]
    assert (judgment.total, judgment.label, judgment.reason) == (0.35, "weak", "A slip in step 2.")
    assert read_judgment(f"\n```json\n{json.dumps(JUDGMENT, indent=1)}\n```\n", "math") == judgment


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"overall": 10.5}, "a score that is no number from 0 to 10"),
        ({"overall": "3"}, "a score that is no number from 0 to 10"),
        ({"answer_support": -0.1}, "a score that is no number from 0 to 10"),
        ({"answer_support": True}, "a score that is no number from 0 to 10"),
        ({"answer_support": float("nan")}, "a score that is no number from 0 to 10"),
        ({"answer_support": None}, "a score that is no number from 0 to 10"),
        ({"label": "Weak"}, "another label"),
        ({"label": ["weak"]}, "another label"),
        ({"reason": " "}, "no short reason"),
        ({"reason": "because " * 100}, "no short reason"),
        ({"reason": 3}, "no short reason"),
        ({"style": 3}, "other fields than asked for"),
    ],
)  # fmt: skip
def test_judgments_that_are_refused(change, cause):
    assert cause_of(read_judgment, json.dumps(JUDGMENT | change), "math") == cause


def test_answers_that_are_no_judgment():
    text = json.dumps(JUDGMENT)
    for broken in (
        "",
        "weak",
        text[:-1],
        f"Here it is: {text}",
        f"{text} {text}",
        text[:-1] + ', "overall": 9}',
    ):
        assert cause_of(read_judgment, broken, "math") == "not JSON"
    short = {name: value for name, value in JUDGMENT.items() if name != "reason"}
    for other in (json.dumps([JUDGMENT]), "3", json.dumps(short)):
        assert cause_of(read_judgment, other, "math") == "other fields than asked for"
    assert cause_of(read_judgment, text, "code") == "other fields than asked for"


@pytest.mark.parametrize("task", ["math", "code"])
def test_the_judges_prompt_has_every_field(task):
    prompt = judge_prompt(task, "PROBLEM", "REFERENCE", "TRACE")
    for part in (
        "PROBLEM",
        "REFERENCE",
        "TRACE",
        *DIMENSIONS[task],
        "overall",
        '"label"',
        '"reason"',
        *LABELS,
    ):
        assert part in prompt
    assert all(f"{name}: {MEANING[name]}" in prompt for name in DIMENSIONS[task])


@pytest.mark.parametrize("task", ["math", "code"])
def test_every_kind_has_a_prompt_and_hurts_a_dimension(task):
    prompts = {writing_prompt(task, kind, "PROBLEM", "TRACE") for kind in TAXONOMY[task]}
    assert len(prompts) == len(TAXONOMY[task]) >= 8
    assert all("PROBLEM" in prompt and "TRACE" in prompt and "<reasoning>" in prompt for prompt in prompts)
    assert {kind.dimension for kind in TAXONOMY[task].values()} == set(DIMENSIONS[task])


@pytest.mark.parametrize(
    ("flawed", "place"),
    [
        ("First 2 + 3 = 6 apples are there. Then 5 * 4 = 20 slices are cut from them.", "6"),
        ("First 2 + 3 = 5 apples are there.", ""),
        ("Then 5 * 4 = 20 slices are cut from them.", ""),
        ("First 2 + 3 = 55 apples are there. Then 5 * 4 = 20 slices are cut from them.", "5"),
        (GOOD.replace("= 5", "= 6").replace("5 *", "6 *"), "6 apples are there. Then 6"),
    ],
)  # fmt: skip
def test_the_changed_place(flawed, place):
    draft = read_flawed(f"\n<reasoning>\n{flawed}\n</reasoning>", "slip", GOOD)
    assert (draft.text, draft.negative_kind, draft.judgment) == (flawed, "slip", None)
    start, end = draft.place
    assert flawed[start:end] == place
    assert GOOD.startswith(flawed[:start]) and GOOD.endswith(flawed[end:])


def test_the_changed_place_of_edges():
    assert changed_place("abc", "abc") == (3, 3)
    assert changed_place("aa", "aaa") == (2, 2)  # prefix first, and the end does not reach into it
    assert changed_place("aaa", "aa") == (2, 3)
    assert changed_place("xbc", "abc") == (0, 1)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("First 2 + 3 = 6.", "no reasoning in tags"),
        ("Sure! <reasoning>First 2 + 3 = 6.</reasoning>", "no reasoning in tags"),
        ("<reasoning>a</reasoning> or <reasoning>b</reasoning>", "no reasoning in tags"),
        ("<reasoning>cut off", "no reasoning in tags"),
        ("<reasoning> \n</reasoning>", "empty reasoning"),
        (f"<reasoning>{GOOD.replace(' ', '  ')}</reasoning>", "nothing changed"),
        ("<reasoning>Twenty, as everybody can see at once.</reasoning>", "rewritten from end to end"),
    ],
)
def test_written_traces_that_are_refused(text, cause):
    assert cause_of(read_flawed, text, "slip", GOOD) == cause


def test_kinds_are_requested_in_turn():
    seed = Seed(
        problem_id="p", problem="P", reference_solution="R", answer="1", tests=None, columns={}, row={},
        positive=Draft(text=GOOD, judgment=by_rule("math", {})),
    )  # fmt: skip
    requests = writing_requests(seed, "math", 11, run_seed=0)
    kinds = [request.key.split("/") for request in requests]
    assert {kind for _, kind, _ in kinds[:9]} == set(TAXONOMY["math"])
    assert [variant for *_, variant in kinds] == ["0"] * 9 + ["1"] * 2
    assert [kind for _, kind, _ in kinds[9:]] == [kind for _, kind, _ in kinds[:2]]
    assert [r.key for r in requests] != [r.key for r in writing_requests(seed, "math", 11, run_seed=1)]


def test_an_unreadable_reply_is_retried_with_another_seed(tmp_path):
    tries = Counter()

    def write(prompt, seed):
        tries[prompt] += 1
        # a: at once; b: at the third try; c: never
        return {"a": "7", "b": "8" if tries["b"] == 3 else "?", "c": "-"}[prompt]

    engine = Scripted(write)
    config = WriterConfig(temperature=0.0, retries=2, max_new_tokens=9)
    requests = [Request(key, key, number) for key in "abc"]
    answers = AnswerFile(tmp_path / "answers.jsonl")
    found, causes = ask(lambda: engine, config, requests, answers, seed=0)
    assert found == {"a": 7, "b": 8}
    assert causes == {"no number": 2 + 3, "given up": 1}
    assert tries == {"a": 1, "b": 3, "c": 3} and engine.asleep
    # all is in the file now: no model is needed
    assert ask(None, config, requests, AnswerFile(answers.path), seed=0) == (found, causes)
    assert len({seed for _, seed, _ in engine.asked}) == 7
    # a greedy model would repeat itself
    assert [sampling.temperature for _, _, sampling in engine.asked] == [0.0] * 3 + [0.7] * 4
    assert {sampling.max_new_tokens for _, _, sampling in engine.asked} == {9}


def test_a_kill_loses_at_most_a_batch(tmp_path):
    calls = Counter()

    def write(prompt, seed):
        calls[prompt] += 1
        if prompt == f"{BATCH + 3}" and calls[prompt] == 1:
            raise KeyboardInterrupt
        return str(seed)

    requests = [Request(f"{k}", f"{k}", number) for k in range(BATCH + 5)]
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(lambda: Scripted(write), WriterConfig(), requests, AnswerFile(path), seed=0)
    with path.open("a") as file:
        file.write('{"key": "64", "att')  # torn by the kill
    found, causes = ask(lambda: Scripted(write), WriterConfig(), requests, AnswerFile(path), seed=0)
    assert not causes and len(found) == BATCH + 5
    assert all(calls[f"{k}"] == 1 for k in range(BATCH)) and calls[f"{BATCH}"] == 2
    straight, _ = ask(
        lambda: Scripted(lambda _, seed: str(seed)),
        WriterConfig(),
        requests,
        AnswerFile(tmp_path / "b"),
        seed=0,
    )
    assert found == straight
    assert len(path.read_text().splitlines()) == BATCH + 5
