"""The papers' recipes at full size: the papers' own numbers, and what follows from them."""

from __future__ import annotations

import pytest

from fastrl.config.load import load_config

WEAK = ("weak-scarce", "weak-noise", "weak-majority", "weak-selfcertainty", "weak-2x2")


@pytest.mark.parametrize("name", WEAK)
def test_weak_keeps_every_checkpoint_in_which_the_saturation_step_may_fall(name):
    stages = [stage for stage in load_config(name).stages.values() if stage.stage == "rl"]
    assert len(stages) == (4 if name == "weak-2x2" else 1)
    for rl in stages:
        assert (rl.run.save_every, rl.run.keep_last, rl.eval.every) == (50, 0, 25)
