"""Chains: hand-worked values, exact parsing, and splits that no seed can mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.data.splits import split_of
from fastrl.tiny.world.task import Chain, ChainConfig, Step, draw_chains

terms = st.tuples(st.sampled_from("+-*"), st.integers(0, 9))


def test_steps_by_hand():
    # 7+5 = 12 -> 2; 2*3 = 6; 6-8 = -2 -> 8: left to right, where precedence would give 7+15-8 = 14 -> 4.
    chain = Chain.parse("7+5*3-8")
    assert chain.steps == (Step(7, "+", 5, 2), Step(2, "*", 3, 6), Step(6, "-", 8, 8))
    assert chain.answer == 8


def test_two_digits_carry_by_hand():
    # 47+85 = 132 -> 32; 32*12 = 384 -> 84; 84-90 = -6 -> 94
    assert [step.result for step in Chain.parse("47+85*12-90%100").steps] == [32, 84, 94]


def test_distractors_are_not_done():
    plain, distracted = Chain.parse("7+5*3"), Chain.parse("7[*9]+5[-2][+1]*3")
    assert distracted.steps == plain.steps
    assert distracted.distractors == ((0, "*", 9), (1, "-", 2), (1, "+", 1))


@given(st.integers(0, 9), st.lists(terms, min_size=1, max_size=8))
def test_parse_is_the_inverse_of_expression(start, chosen):
    chain = Chain(start=start, terms=tuple(chosen))
    assert Chain.parse(chain.expression) == chain


@pytest.mark.parametrize(
    "text", ["", "7", "7+", "+5", "7+5=2", "7 + 5", "7/5", "07+5", "7+5%10", "7+[*5]3", "7[+5]"]
)
def test_what_is_no_chain_is_refused(text):
    with pytest.raises(ValueError, match=r"\[chain\] expression"):
        Chain.parse(text)


@pytest.mark.parametrize(
    "config",
    [
        ChainConfig(),
        ChainConfig(modulus=100),
        ChainConfig(num_distractors=2),
        ChainConfig(distinct_operands=False),
    ],
)
def test_draws_are_seeded_different_and_on_their_side(config):
    train = draw_chains(config, 300, seed=3, split="train")
    test = draw_chains(config, 300, seed=3, split="test")
    again = draw_chains(config, 300, seed=3, split="train")
    other = draw_chains(config, 300, seed=4, split="train")
    assert train == again
    assert train != other
    for chains, split in ((train, "train"), (test, "test"), (other, "train")):
        expressions = {chain.expression for chain in chains}
        assert len(expressions) == 300
        assert {split_of(expression) for expression in expressions} == {split}
        assert all(Chain.parse(chain.expression) == chain for chain in chains)
    assert {len(chain.terms) for chain in train} == {3, 4, 5, 6}


def test_operands_differ_if_required():
    for chain in draw_chains(ChainConfig(), 200, seed=0, split="train"):
        numbers = [chain.start, *(operand for _, operand in chain.terms)]
        assert len(set(numbers)) == len(numbers)
    repeated = draw_chains(ChainConfig(distinct_operands=False), 200, seed=0, split="train")
    assert any(len({operand for _, operand in chain.terms}) < len(chain.terms) for chain in repeated)


def test_a_space_too_small_is_an_error():
    config = ChainConfig(min_operations=1, max_operations=1)
    assert len(draw_chains(config, 200, seed=0, split="train")) == 200
    with pytest.raises(ValueError, match=r"\[chain\] count"):
        draw_chains(config, 400, seed=0, split="train")


@pytest.mark.parametrize(
    "options, field",
    [
        ({"min_operations": 0}, "min_operations"),
        ({"min_operations": 7}, "min_operations"),
        ({"modulus": 7}, "modulus"),
        ({"num_distractors": -1}, "num_distractors"),
        ({"max_operations": 10}, "max_operations"),
    ],
)
def test_bad_options_are_refused(options, field):
    with pytest.raises(ValueError, match=rf"\[chain\] {field}"):
        ChainConfig(**options)
