"""Splits: a text's hash decides; draws are seeded, different, and begin alike."""

import pytest

from fastrl.data.splits import draw_different, split_of


def draw(count, split="train", seed=1, highest=999):
    return draw_different(
        lambda random: random.randint(0, highest), str, count, seed=seed, split=split, section="numbers"
    )


def test_a_text_stays_on_its_side():
    # blake2b with a digest of 4 bytes: of the numbers below 40 these have one that 8 divides
    assert [number for number in range(40) if split_of(str(number)) == "test"] == [3, 11, 17, 22, 24, 25]


def test_draws_are_different_seeded_and_begin_alike():
    assert len(set(draw(50))) == 50 and draw(50)[:20] == draw(20) != draw(20, seed=2)
    assert {split_of(str(number)) for number in draw(50, "test")} == {"test"}


def test_a_space_too_small_is_an_error():
    with pytest.raises(ValueError, match=r"\[numbers\] count: expected at most the 6 that were found, got 7"):
        draw(7, "test", highest=39)
