"""The prompts of proposals: turns, the guided solution, and what happens without room."""

import pytest
from checkpoints import byte_tokenizer

from fastrl.config import InterveneConfig, ProposalConfig, RunConfig
from fastrl.engine.protocol import EngineStats
from fastrl.methods.interventions.problems import HardProblem
from fastrl.methods.interventions.propose import Proposer
from fastrl.methods.interventions.segment import segment
from fastrl.types import Completion

SHOWN = "\n".join(f"line {k}" for k in range(3))


class Scripted:
    """Answers with the number of the request; keeps what it was asked."""

    max_model_len = 10**6

    def __init__(self):
        self.tokenizer = byte_tokenizer()
        self.calls = []

    def stats(self):
        return EngineStats()

    def continue_prefixes(self, trees, sampling):
        self.calls.append((trees, sampling))
        return [
            [
                [
                    Completion(
                        token_ids=[9], logprobs=[0.0], finish_reason="stop", text=f"S{t}.{b}.{j} " * 20
                    )
                    for j in range(branch.num_samples)
                ]
                for b, branch in enumerate(tree.branches)
            ]
            for t, tree in enumerate(trees)
        ]

    def read(self, call, tree, branch):
        asked = self.calls[call][0][tree]
        return self.tokenizer.decode([*asked.prompt_ids, *asked.branches[branch].token_ids])


def problem(index, *attempts):
    return HardProblem(
        index=index,
        messages=[{"role": "user", "content": f"q{index}"}],
        question=f"q{index} {{steps}}",
        solution="1",
        reference=f"r{index}",
        attempts=[segment(text, min_chars=1) for text in attempts],
    )


def proposer(room=10**5, seed=1, **options):
    engine = Scripted()
    config = InterveneConfig(run=RunConfig(seed=seed), proposal=ProposalConfig(**options))
    return engine, Proposer(engine, config, room)


def test_the_full_form_has_two_turns_and_one_solution_a_problem():
    engine, asks = proposer()
    budget = {}
    checks = asks.check([problem(3, SHOWN, "a\n\nb\n\nc"), problem(4, "x")], budget)
    assert [(check.problem.index, check.attempt) for check in checks] == [(3, 0), (3, 1), (4, 0)]
    (solve, _), (verify, sampling) = engine.calls
    assert [len(tree.branches) for tree in solve] == [1, 1]
    assert [branch.num_samples for tree in solve for branch in tree.branches] == [1, 1]
    assert [[branch.num_samples for branch in tree.branches] for tree in verify] == [[4, 4], [4]]
    assert [len(check.completions) for check in checks] == [4, 4, 4]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.8, 20)
    first, second = engine.read(1, 0, 0), engine.read(1, 0, 1)
    for text in (first, second):
        assert text.startswith("<user>") and text.endswith("<assistant>")
        assert text.count("<assistant>S0.0.0 ") == 1
        assert "q3 {steps}" in text and "r3" in text and "<intervention>" in text
    assert "**Substep 3:**\nline 2" in first and "**Substep 2:**\nb" in second
    assert "<assistant>S1.0.0 " in engine.read(1, 1, 0)
    assert verify[0].prompt_ids == engine.tokenizer.encode(first[: first.index("**Substep 1:**\n") + 15])
    assert set(budget) == {"solve", "verify"}


def test_seeds_depend_only_on_the_position():
    def seeds(problems, seed=1):
        engine, asks = proposer(seed=seed)
        asks.check(problems, {})
        return [[branch.seed for tree in call[0] for branch in tree.branches] for call in engine.calls]

    one, two = problem(3, SHOWN, "a"), problem(4, "x")
    both, alone = seeds([one, two]), seeds([two])
    assert [both[0][1:], both[1][2:]] == alone
    assert len({seed for call in both for seed in call}) == 5
    assert not set(both[0]) & set(seeds([one, two], seed=2)[0])


def test_the_short_form_is_one_turn():
    engine, asks = proposer(form="short")
    asks.check([problem(3, SHOWN)], {})
    assert len(engine.calls) == 1
    text = engine.read(0, 0, 0)
    assert text.count("<user>") == text.count("<assistant>") == 1
    assert all(part in text for part in ("q3 {steps}", "r3", "**Substep 1:**\nline 0", "JSON"))


def test_the_self_check_quotes_the_gold_answer():
    engine, asks = proposer()
    asks.check([problem(3, SHOWN)], {})
    text = engine.read(1, 0, 0)
    assert "Does it contain the final answer, 1?" in text and "{answer}" not in text
    engine, asks = proposer(verify_template="{answer}|{steps}")
    asks.check([problem(3, SHOWN)], {})
    assert "<user>1|**Substep 1:**" in engine.read(1, 0, 0)


def test_a_terse_template_is_taken_as_it_is():
    engine, asks = proposer(
        form="short", verify_template="{question}|{reference}|{steps}", step_template="{number}:{step}",
        between_steps=" ",
    )  # fmt: skip
    asks.check([problem(3, SHOWN)], {})
    assert engine.read(0, 0, 0) == "<user>q3 {steps}|r3|1:line 0 2:line 1 3:line 2<assistant>"


def test_a_long_conversation_loses_the_end_of_the_solution():
    templates = {"solve_template": "{question}{reference}", "verify_template": "{steps}"}
    engine, asks = proposer(**templates)
    asks.check([problem(3, "x")], {})
    whole = engine.calls[1][0][0].prompt_ids
    engine, asks = proposer(max_conversation_tokens=len(whole) - 7, **templates)
    (check,) = asks.check([problem(3, "x")], {})
    cut = engine.calls[1][0][0].prompt_ids
    assert check.solution_was_cut and len(cut) == len(whole) - 7
    before, after = engine.tokenizer.decode(whole), engine.tokenizer.decode(cut)
    solution = "S0.0.0 " * 20
    assert after == before.replace(solution, solution[:-7])


def test_a_conversation_that_is_too_long_even_so_is_named_as_such():
    templates = {"solve_template": "{question}{reference}", "verify_template": "{steps}"}
    engine, asks = proposer(room=100, verify_tokens=40, **templates)  # 60 are left for the conversation
    checks = asks.check([problem(3, "x" * 80, "y"), problem(4, "z" * 80), problem(5)], {})
    assert [check.completions is None for check in checks] == [True, False, True]
    assert [check.solution_was_cut for check in checks] == [False, True, False]
    assert len(engine.calls[1][0]) == 1  # one tree: the others have nothing to ask
    assert len(engine.calls[0][0]) == 2  # nobody solves a problem without an attempt
    assert max(len(tree.prompt_ids) for tree in engine.calls[1][0]) <= 60
    assert [branch.max_new_tokens for branch in engine.calls[1][0][0].branches] == [40]


def test_a_guided_solution_has_what_room_there_is():
    engine, asks = proposer(room=60, verify_tokens=5, solve_template="{question}{reference}")
    long = problem(3, "x")
    checks = asks.check([long, HardProblem(**{**fields(long), "index": 4, "reference": "r" * 70})], {})
    (tree,) = engine.calls[0][0]
    assert tree.branches[0].max_new_tokens == 60 - len(tree.prompt_ids)
    assert [check.completions is None for check in checks] == [True, True]


def fields(row):
    return {name: getattr(row, name) for name in HardProblem.__dataclass_fields__}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "short", "verify_template": "{question} {steps}"}, "verify_template.*{reference}"),
        ({"verify_template": "no place"}, r"\[proposal\] verify_template: expected text with {steps}"),
        ({"solve_template": "{question}"}, "solve_template.*{question} and {reference}"),
        ({"form": "short", "solve_template": "{question}{reference}"}, "solve_template: expected null"),
        ({"step_template": "{step}"}, "step_template.*{number} and {step}"),
        ({"top_p": 0.0}, "top_p"),
        ({"num_samples": 0}, "num_samples"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ProposalConfig(**options)
