"""Cuts of rollouts: the distribution of tau, positions by hand, whole characters, no answer in a prefix."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.rewards import cuts
from fastrl.rewards.cuts import BROKEN, Cutter, draw_tau

EOS = 1


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_tau_is_uniform_above_zero_up_to_one():
    taus = [draw_tau(7, "tau", step, "row", row, 0) for step in range(100) for row in range(200)]
    assert all(0 < tau <= 1 for tau in taus)
    bins = [0] * 20
    for tau in taus:
        bins[math.ceil(tau * 20) - 1] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in bins) < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(sum(taus) / len(taus) - 0.5) < 4 * math.sqrt(1 / 12 / len(taus))


@pytest.mark.parametrize(
    ("seed", "tau"), [(0, 2.0**-53), (2**63 - 1, 1.0), (2**62, 0.5 + 2.0**-53), (1023, 2.0**-53)]
)
def test_tau_is_never_zero_and_can_be_one(monkeypatch, seed, tau):
    monkeypatch.setattr(cuts, "seed_of", lambda *path: seed)
    assert draw_tau(0) == tau


@pytest.mark.parametrize(
    ("tau", "position"),
    [(2.0**-53, 0), (0.05, 0), (0.125, 1), (0.25, 2), (0.5, 5), (0.75, 7), (0.99, 9), (1.0, 10)],
)
def test_cut_positions(byte, bpe, tau, position):
    (cut,) = Cutter(byte, bpe, strip_answer=False).cut([*ids(byte, "abcdefghij"), EOS], [tau])
    assert (cut.tau, cut.position, cut.text) == (tau, position, "abcdefghij"[:position])
    assert bpe.decode(cut.receiver_ids) == cut.text
    assert not cut.has_answer


def test_the_end_token_does_not_count(byte):
    cutter = Cutter(byte, byte, strip_answer=False)
    assert cutter.cut([*ids(byte, "abcd"), EOS], [0.5, 1.0]) == cutter.cut(ids(byte, "abcd"), [0.5, 1.0])
    assert [cut.position for cut in cutter.cut([EOS], [1.0])] == [0]
    assert [cut.position for cut in cutter.cut([], [1.0])] == [0]


def test_a_run_of_broken_bytes_is_left_out_with_few_decodes(byte):
    cutter, decoded = Cutter(byte, byte, strip_answer=False), []
    (middle,) = ids(byte, "界")[1:2]  # no character begins with it
    text = cutter._text
    cutter._text = lambda token_ids: decoded.append(len(token_ids)) or text(token_ids)
    (cut,) = cutter.cut([*ids(byte, "ab"), *[middle] * 5000], [1.0])
    assert (cut.text, cut.position) == ("ab", 2)
    assert len(decoded) < 40


# a (1 byte) 🙂 (4) b (1) 界 (3)
WHOLE = ["", "a", "a", "a", "a", "a🙂", "a🙂b", "a🙂b", "a🙂b", "a🙂b界"]
STEPPED_BACK = [0, 1, 1, 1, 1, 5, 6, 6, 6, 9]


@pytest.mark.parametrize("kept", range(10))
def test_no_broken_character_for_another_tokenizer(byte, bpe, spaced, kept):
    for receiver in (bpe, spaced):
        (cut,) = Cutter(byte, receiver, strip_answer=False).cut(ids(byte, WHOLE[-1]), [kept / 9 + 1e-9])
        assert (cut.position, cut.text) == (kept, WHOLE[kept])
        assert receiver.decode([*ids(receiver, "x"), *cut.receiver_ids]) == "x" + WHOLE[kept]


@pytest.mark.parametrize("kept", range(10))
def test_the_same_vocabulary_keeps_its_ids(byte, kept):
    token_ids = ids(byte, WHOLE[-1])
    (cut,) = Cutter(byte, byte_again(byte), strip_answer=False).cut(token_ids, [kept / 9 + 1e-9])
    assert (cut.position, cut.text) == (STEPPED_BACK[kept], WHOLE[kept])
    assert cut.receiver_ids == token_ids[: STEPPED_BACK[kept]]


def byte_again(byte):
    from checkpoints import byte_tokenizer

    return byte_tokenizer()


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("3+4=7 so \\boxed{7}", "3+4=7 so "),
        ("so 7</think> 7", "so 7"),
        ("the final answer is 7", "the "),
        ("well, the answer is 7", "well, the "),
        ("7 #### 7", "7 "),
        ("\\boxed{7}", ""),
        ("just 7", "just 7"),
    ],
)
def test_strip_answer(byte, bpe, text, most):
    for policy in (byte, bpe):
        cutter = Cutter(policy, byte, strip_answer=True)
        token_ids = ids(policy, text)
        for kept in range(len(token_ids) + 1):
            (cut,) = cutter.cut(token_ids, [min(1.0, kept / len(token_ids) + 1e-9)])
            uncut = policy.decode(token_ids[:kept])
            assert most.startswith(cut.text)
            assert not cut.has_answer
            # the clamp takes nothing from a prefix that ends before the marker
            assert cut.text == uncut or len(uncut) > len(most)
        following = len(cut.text) + len(policy.decode(token_ids[cut.position : cut.position + 1]))
        assert cut.text == text or following > len(most)


def test_a_prefix_with_its_answer_is_marked(byte):
    cutter = Cutter(byte, byte, strip_answer=False)
    (before, after) = cutter.cut(ids(byte, "so \\boxed{7}"), [0.5, 1.0])
    assert (before.text, before.has_answer) == ("so \\bo", False)
    assert after.has_answer


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.sampled_from("ab 1\\{}\n.界世🙂é\u0301ß"), max_size=24),
    tau=st.floats(2.0**-53, 1.0),
    strip=st.booleans(),
)
def test_every_cut_is_a_whole_prefix(byte, bpe, text, tau, strip):
    for policy, receiver in ((byte, bpe), (bpe, byte), (bpe, bpe)):
        (cut,) = Cutter(policy, receiver, strip_answer=strip).cut([*ids(policy, text), EOS], [tau])
        assert text.startswith(cut.text)
        assert BROKEN not in cut.text
        assert receiver.decode(cut.receiver_ids) == cut.text
