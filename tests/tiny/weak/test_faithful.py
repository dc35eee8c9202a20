"""The tiny world's exact labels, strategies and wrong steps, on traces written by hand."""

from random import Random

import pytest

from fastrl.tiny.weak.faithful import aligned, spoil, strategy
from fastrl.tiny.world.task import ChainConfig, draw_chains
from fastrl.tiny.world.traces import work, write_trace

ROW = {"expression": "7+5*3-2", "solution": "4", "question": "7+5*3-2"}
PRIVATE = "HpFCtDGmCE\n"  # 7+5=2, *3=6, -2=4


@pytest.mark.parametrize(
    "response, label",
    [
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{4}", 1),
        ("7+5=2\n2*3=6\n6-2=5\n\\boxed{5}", 0.5),  # a slip that the answer follows
        ("7+5=3\n3*3=9\n9-2=7\n\\boxed{7}", 0.5),
        ("7+5=3\n2*3=6\n6-2=4\n\\boxed{4}", 0.5),  # a slip that is not used
        ("7+5*3=6\n6-2=4\n\\boxed{4}", 0.5),  # a leap
        (PRIVATE + "\\boxed{4}", 0.5),
        ("7+5=2\nso\n2*3=6\n6-2=4\n\\boxed{4}", 0.5),  # an unreadable line
        ("7+5=2\n2*3=6\n\\boxed{6}", 0.5),  # an operation left out
        ("7+5=2\n2*3=6\n6-2=4\n4+1=5\n\\boxed{5}", 0.5),  # one too many
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{5}", 0),  # right steps, another answer
        ("7+5=2\n2*3=6\n6-2=5\n\\boxed{4}", 0),  # the right answer, out of nowhere
        ("1+1=2\n2+2=4\n4+4=8\n\\boxed{4}", 0),
        ("7+5=2\n2*3=6\n\\boxed{4}", 0),
        ("\\boxed{4}", 0),
        ("so\n\\boxed{4}", 0),
        ("\\boxed{7}", 0),  # the value that the chain starts from is no step
        ("7+5=2\n2*3=6\n6-2=4", None),
        ("7+5=2\n\\boxed{4}\n", 0),  # empty lines say nothing
        ("", None),
    ],
)
def test_labels_by_hand(response, label):
    assert aligned(ROW, response) == label


@pytest.mark.parametrize(
    "response, name",
    [
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{4}", "explicit explicit explicit"),
        ("7+5*3=6\n6-2=4\n\\boxed{9}", "leap explicit"),
        (PRIVATE + "\\boxed{4}", "private private private"),
        ("7+5=2\nCtDG\nso\n", "explicit private unreadable"),
        ("\\boxed{4}", "none"),
        ("7+5=2\n\\boxed{2}\n1+1=2", "explicit"),
        ("ABpACAD\n12+13=25\n", "private explicit"),  # modulo 100
        ("", "none"),
    ],
)
def test_strategies_by_hand(response, name):
    assert strategy(response) == name


@pytest.mark.parametrize("style", ["explicit", "leap", "private"])
@pytest.mark.parametrize("modulus", [10, 100])
def test_a_corrupted_step_is_the_only_wrong_one(style, modulus):
    config = ChainConfig(modulus=modulus, distinct_operands=False)
    seen = set()
    for k, chain in enumerate(draw_chains(config, 40, seed=1, split="train")):
        text = work(chain, Random(k), style=style)
        steps = strategy(text).split()
        found = spoil(text, Random(k))
        assert text.startswith(found.kept) and len(found.kept) < len(text)
        assert found.spoilt != found.kept and spoil(text, Random(k)) == found
        place = len(strategy(found.kept).split()) - 1
        operations = 2 if steps[place] == "leap" else 1
        done = sum(2 if name == "leap" else 1 for name in steps[:place]) + operations
        # the beginning ends with the result of the step, which is right; then it is another of the modulus
        value = chain.steps[done - 1].result
        other = {write_trace(chain.steps[:done], style, modulus).rpartition("\n")[0]}
        assert found.kept in other if style != "leap" else found.kept.endswith(f"={value}")
        assert strategy(found.spoilt) == strategy(found.kept)
        seen.add(place)
    assert len(seen) >= 2  # not always the same step


def test_a_corrupted_value_is_uniform_over_the_others():
    values = [spoil("7+5=2\n\\boxed{2}", Random(k)).spoilt for k in range(400)]
    assert {text[:4] for text in values} == {"7+5="}
    counts = [sum(text == f"7+5={v}" for text in values) for v in range(10)]
    assert counts[2] == 0 and all(20 < count < 80 for v, count in enumerate(counts) if v != 2)
    letters = {spoil("HpFC", Random(k)).spoilt for k in range(200)}
    assert letters == {f"HpF{letter}" for letter in "ABDEFGHIJ"}
    wide = {spoil("ABpACAD", Random(k)).spoilt for k in range(2000)}
    assert len(wide) == 99 and "ABpACAD" not in wide


@pytest.mark.parametrize("text", ["", "\\boxed{4}", "so what\n\\boxed{4}", "\\boxed{4}\n7+5=2"])
def test_a_trace_without_a_step_stays(text):
    assert spoil(text, Random(0)) is None
