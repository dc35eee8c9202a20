"""200 hostile inputs through every path that model text takes: nothing uncaught."""

import pytest

from bench.fuzz_text import failures
from bench.text_paths import PATHS


@pytest.mark.parametrize("name", list(PATHS))
def test_hostile_text_raises_nothing(name):
    assert failures(PATHS[name], 200, seed=0, longest=1000) == []


def test_what_a_path_raises_is_found():
    def fragile(text: str) -> None:
        if "\\boxed{" in text:
            raise KeyError("box")

    found = failures(fragile, 50, seed=0)
    assert found and {each["error"] for each in found} == {"KeyError: 'box'"}
