"""Evaluation of a planner with the real executor; and refusals."""

from dataclasses import replace

import pytest
from jsonl import write_jsonl
from small_world import CONFIG

from fastrl.config import EvalConfig, RlConfig, RolloutConfig, UpliftConfig
from fastrl.config.executor import ExecutorConfig
from fastrl.tiny.tracelift.assess import assess_lift
from fastrl.tiny.tracelift.task import PROMPT, PROMPT_WITH_TRACE
from fastrl.tiny.world.models import initialise
from fastrl.tiny.world.task import Chain

EXECUTOR = ExecutorConfig(
    system="", prompt=PROMPT, prompt_with_trace=PROMPT_WITH_TRACE, begin="", max_new_tokens=4
)


def test_assessment_of_real_models(tmp_path):
    problems = ["7+5*3-2", "1+2", "3*3-4"]
    rows = [{"prompt": e, "solution": str(Chain.parse(e).answer), "expression": e} for e in problems]
    write_jsonl(tmp_path / "test.jsonl", rows)
    planner = initialise(CONFIG.generator.shape, tmp_path / "planner", seed=0)
    executors = {
        name: initialise(CONFIG.receiver.shape, tmp_path / name, seed=seed)
        for seed, name in enumerate(("executor", "held_out_executor"))
    }
    recipe = RlConfig(
        rollout=RolloutConfig(max_new_tokens=8),
        uplift=UpliftConfig(executor=EXECUTOR),
        eval=EvalConfig(path=str(tmp_path / "test.jsonl")),
    )
    numbers = assess_lift(planner, executors, recipe, num_samples=2)
    for name in executors:
        for label in ("two_stage", "alone"):
            low, middle, high = (numbers[f"{label}/{name}{end}"] for end in ("/low", "", "/high"))
            assert 0 <= low <= middle <= high <= 1
        difference = numbers[f"two_stage/{name}"] - numbers[f"alone/{name}"]
        assert numbers[f"uplift/{name}"] == pytest.approx(difference, abs=1e-12)
    assert numbers["trace/leak"] == 0 and numbers["trace/style/mixed"] > 0  # what random weights write
    assert assess_lift(planner, executors, recipe, num_samples=2) == numbers
    with pytest.raises(ValueError, match=r"\[assess_lift\] recipe: expected one with eval.path, got none"):
        assess_lift(planner, executors, replace(recipe, eval=EvalConfig()))
