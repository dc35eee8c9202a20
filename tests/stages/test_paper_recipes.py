"""The papers' recipes at full size: the papers' own numbers, and what follows from them."""

from __future__ import annotations

from math import ceil

import pytest

from fastrl.config.load import load_config
from fastrl.data.prompts import plain_text
from fastrl.methods.interventions.problems import hard_problem
from fastrl.methods.tracelift.executor_prompts import ExecutorPrompts

WEAK = ("weak-scarce", "weak-noise", "weak-majority", "weak-selfcertainty", "weak-2x2")


@pytest.mark.parametrize("name", WEAK)
def test_weak_keeps_every_checkpoint_in_which_the_saturation_step_may_fall(name):
    stages = [stage for stage in load_config(name).stages.values() if stage.stage == "rl"]
    assert len(stages) == (4 if name == "weak-2x2" else 1)
    for rl in stages:
        assert (rl.run.save_every, rl.run.keep_last, rl.eval.every) == (50, 0, 25)


@pytest.mark.parametrize(("task", "num_groups", "num_steps"), [("math", 2690, 63), ("code", 2198, 51)])
def test_tracelifts_reward_model_sees_the_papers_groups_three_times(task, num_groups, num_steps):
    config = load_config(f"tracelift-{task}").reward_model
    assert config.train.num_steps == num_steps == 3 * num_groups // config.groups_per_step
    assert config.train.warmup_steps == ceil(0.03 * num_steps) == 2


@pytest.mark.parametrize("task", ["math", "code"])
def test_tracelift_runs_the_executor_anew_three_times_with_and_without_each_trace(task):
    rl = load_config(f"tracelift-{task}").rl
    assert (rl.uplift.repeats, rl.uplift.baseline_repeats, rl.uplift.baseline) == (3, 3, "resampled")
    assert rl.eval.temperature == rl.rollout.temperature == 0.7 and rl.eval.top_p == rl.rollout.top_p
    assert rl.rollout.stop == ()


@pytest.mark.parametrize(
    ("task", "begin"), [("math", "Final answer:"), ("code", "```python\n")], ids=["math", "code"]
)
def test_tracelifts_base_models_read_raw_text_whose_last_line_begins_the_answer(task, begin):
    rl = load_config(f"tracelift-{task}").rl
    assert rl.data.chat_template == rl.uplift.executor.model.chat_template == "none"
    assert rl.data.prompt_template.endswith("\nReasoning:")
    prompts = ExecutorPrompts(rl.uplift.executor)
    text = plain_text(prompts.messages("What is 2+3?", "Add them.")) + prompts.begin
    assert text.startswith(prompts.system + "\nWhat is 2+3?") and "\nAdd them.\n" in text
    assert text.endswith(".\n" + begin)


def test_int_cuts_attempts_at_blank_lines_and_nowhere_else():
    texts = [
        "Ok.\n\n" + "a line\n" * 9 + "\nSo.",
        "\\[\nx\n\n= 1\n\\]\n\nHence $x = 1$.",
        "One. Two.\nThree.",
        "\n\n".join(f"step {number}" for number in range(600)),
    ]
    row = {
        "messages": [{"role": "user", "content": "q"}], "question": "q", "solution": "1", "reference": "r",
        "attempts": [{"text": text} for text in texts],
    }  # fmt: skip
    problem = hard_problem(0, row, load_config("int").intervene.steps)
    assert [list(steps) for steps in problem.attempts] == [
        [piece.strip() for piece in text.split("\n\n")] for text in texts
    ]


def test_int_trains_for_the_papers_steps():
    config = load_config("int")
    rows, epochs = 2213, 4  # rows that the authors' notebook writes
    assert config.sft.train.num_steps == epochs * rows // config.sft.batch_size == 138
    assert config.sft.train.warmup_steps == ceil(0.1 * 138)
    assert config.rl.rollout.num_prompts // config.rl.train.updates_per_epoch == 16  # Table 5's mini-batch
    assert (config.rl.train.num_steps, config.rl.eval.top_k) == (400, 20)


def test_weak_trains_for_the_papers_epochs_and_steps():
    noise, scarce = load_config("weak-noise").rl, load_config("weak-scarce")
    assert noise.train.num_steps == 15 * 2048 // noise.rollout.num_prompts
    assert scarce.rl.train.num_steps == 496 and scarce.subset.sizes == (8, 32, 64, 512, 2048)
    table = load_config("weak-2x2")
    sft, cpt = table.sft_base_thinking, table.cpt
    assert sft.train.num_steps == ceil(3 * 43_500 / sft.batch_size)
    assert sft.train.warmup_steps == sft.train.num_steps // 10
    assert cpt.train.num_steps * cpt.batch_size * cpt.seq_len == pytest.approx(2e9, rel=1e-3)
    assert cpt.train.warmup_steps == int(0.05 * cpt.train.num_steps)


def test_weak_pays_models_that_think_only_for_a_box_behind_a_closed_thought():
    stages = load_config("weak-2x2").stages
    graded = {name: stages[name].answer.extraction for name in stages if name.startswith(("subset", "rl"))}
    assert len(graded) == 8 and all(
        extraction == ("boxed_after_thought" if name.endswith("_thinking") else "whole_response")
        for name, extraction in graded.items()
    )
