"""Stop strings: found anywhere in the text, at a cost per token that does not grow with its length."""

from copy import deepcopy

import numpy as np
import pytest
from transformers import AddedToken

from fastrl.engine.requests import with_special_stops
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.types import SamplingParams


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0

    def __len__(self):
        return len(self.tokenizer)

    def batch_decode(self, ids):
        return self.tokenizer.batch_decode(ids)

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **options)


def first_stop(tokenizer, ids, stop):
    """Where the rule ends the tokens, given one by one; their number where it doesn't."""
    rule = StopRule(Vocabulary(tokenizer, len(tokenizer)), (), SamplingParams(stop=stop))
    tokens = np.asarray([ids], dtype=np.int32)
    zero = np.zeros(1, dtype=np.int64)
    for place in range(len(ids)):
        new = tokens[:, place : place + 1].astype(np.int64)
        if rule.first_stop(new, tokens, zero, zero + place)[0] == 0:
            return place
    return len(ids)


def first_in_text(tokenizer, ids, stop):
    """The definition: the first token after which the whole text has a string."""
    texts = [tokenizer.decode(ids[: n + 1], skip_special_tokens=True) for n in range(len(ids))]
    return next((n for n, text in enumerate(texts) if any(s in text for s in stop)), len(ids))


@pytest.mark.parametrize("stop", [("\n\n",), ("🙂",), ("é ",), ("ab", "long stop string"), (" end",)])
def test_the_end_of_the_text_is_enough(bpe, byte, stop):
    for tokenizer in (bpe, byte):
        for text in ("a\nb\n\nc", "x🙂y" * 3, "é é  é", "aab a long stop string", "the end end",
                     "a" * 90 + stop[0]):  # fmt: skip
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert first_stop(tokenizer, ids, stop) == first_in_text(tokenizer, ids, stop)


def test_special_tokens_within_a_stop_string_do_not_hide_it(byte):
    end = byte.eos_token_id
    ids = [*byte.encode("x" * 50 + "\n", add_special_tokens=False), *[end] * 300, byte.encode("\n")[-1]]
    assert first_stop(byte, ids, ("\n\n",)) == first_in_text(byte, ids, ("\n\n",)) == len(ids) - 1


@pytest.mark.parametrize("count", [500, 2000])
def test_tokens_decoded_per_token_do_not_grow(byte, count):
    counting = Counting(byte)
    ids = byte.encode("ab", add_special_tokens=False) * (count // 2)
    assert first_stop(counting, ids, ("\n\n",)) == count
    assert counting.decoded <= 40 * count


def test_a_special_token_is_a_stop_token(byte):
    byte = deepcopy(byte)  # the other tests' too
    byte.add_special_tokens({"additional_special_tokens": [AddedToken("<tool>", special=True)]})
    tool = byte.convert_tokens_to_ids("<tool>")
    sampling = SamplingParams(stop=("<tool>", "!"), stop_token_ids=(3,))
    found = with_special_stops(byte, sampling)
    assert (found.stop, found.stop_token_ids) == (("!",), (3, tool))
    plain = SamplingParams(stop=("tool",))
    assert with_special_stops(byte, plain) is plain
    with pytest.raises(ValueError, match=r"\[sampling\] stop: .*special token '<tool>' without other text"):
        with_special_stops(byte, SamplingParams(stop=("\n<tool>",)))
