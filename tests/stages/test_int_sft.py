"""SFT on interventions (prefix + intervention, no wrong step, no end token), and InT as one command."""

import json
from dataclasses import replace

import pytest
import yaml
from intervention_world import PROBLEMS, hard_set_config, intervene_config, problem_rows, write_rows
from places import SHARED_DATA
from transformers import AutoTokenizer

from fastrl.check.intervene import check_hard_set
from fastrl.config import DataConfig, HardSetConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.config.load import from_dict, load_config, to_yaml
from fastrl.data import load_problems, render_prompt
from fastrl.data.conversations import read_conversations
from fastrl.runtime.run import read_metrics
from fastrl.stages.hard_set import run_hard_set
from fastrl.stages.intervene import run_intervene
from fastrl.stages.sft import run_sft
from fastrl.train import run_recipe

IMO = SHARED_DATA / "imo_answerbench_v2.csv"
TAUGHT = [("2+3+4", "", "2+3=5"), ("1+6+2+5", "1+6=7\n", "7+2=9")]


@pytest.fixture(scope="module")
def taught(fixed_model, tmp_path_factory):
    """sft.jsonl of an intervene stage."""
    folder = tmp_path_factory.mktemp("taught")
    hard = run_hard_set(hard_set_config(fixed_model, folder)) / "hard.jsonl"
    return run_intervene(intervene_config(fixed_model, folder, hard)) / "sft.jsonl"


def tokens(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_sft_reads_prefix_and_intervention_and_nothing_else(fixed_model, taught, weight):
    tokenizer = AutoTokenizer.from_pretrained(fixed_model)
    sequences = read_conversations(str(taught), tokenizer, prefix_weight=weight)
    assert len(sequences) == len(TAUGHT)
    for sequence, (question, prefix, step) in zip(sequences, TAUGHT, strict=True):
        prompt = render_prompt(tokenizer, [{"role": "user", "content": question}])
        before, after = tokens(tokenizer, prefix), tokens(tokenizer, step)
        assert sequence.token_ids == [*prompt, *before, *after]
        assert sequence.weights == [0.0] * len(prompt) + [weight] * len(before) + [1.0] * len(after)
        assert sequence.loss_mask == [value > 0 for value in sequence.weights]
        assert tokenizer.eos_token_id not in sequence.token_ids
        wrong = PROBLEMS[question][1].split("\n")[len(prefix.splitlines())]
        assert wrong not in tokenizer.decode(sequence.token_ids[len(prompt) :])


def test_sft_on_interventions_raises_only_their_likelihood(fixed_model, taught, tmp_path):
    config = SftConfig(
        run=RunConfig(dir=str(tmp_path / "sft"), device="cpu", save_every=0),
        model=ModelConfig(path=str(fixed_model)),
        data=DataConfig(path=str(taught)),
        train=TrainConfig(num_steps=6, learning_rate=1e-3),
        batch_size=2,
        max_entropy_rise=50.0,
    )
    run_sft(config)
    first, *lines = read_metrics(tmp_path / "sft" / "metrics.jsonl")
    assert first["base/nll"] == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert first["base/entropy"] == pytest.approx(lines[0]["entropy"], rel=1e-5)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[0]["num_tokens"] == 4 + 5 + 4  # 2 +3 = 5; 1 +6 = 7 \n; 7 +2 = 9


def tiny_pipeline(fixed_model, folder, data, num_steps):
    """The recipe int-tiny for the model that has its answers by heart."""
    text = to_yaml(load_config("int-tiny")).replace("tiny-world/solver", str(fixed_model))
    recipe = yaml.safe_load(text.replace("tiny-world/int-train.jsonl", data))
    greedy = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 48}
    recipe["run"] = {"dir": str(folder), "seed": 3, "device": "cpu"}
    recipe["hard_set"] |= {"num_samples": 2, "sampling": greedy, "chunk_size": 2}
    recipe["intervene"] |= {"num_continuations": 2, "continuation": greedy, "chunk_size": 2}
    recipe["intervene"]["proposal"] |= {
        "temperature": 0.0, "verify_tokens": 48, "between_steps": " ",
        "verify_template": "{question};{reference};{steps}",
    }  # fmt: skip
    recipe["sft"] |= {"batch_size": 2, "max_entropy_rise": None}
    recipe["sft"]["train"] |= {"num_steps": 3}
    recipe["rl"]["rollout"] |= {"num_prompts": 2, "group_size": 2, "max_new_tokens": 24}
    recipe["rl"]["train"] |= {"num_steps": num_steps}
    recipe["rl"]["eval"] |= {"path": None}
    return from_dict(recipe)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_int_is_one_command_and_resumes_between_stages(fixed_model, tmp_path):
    data = write_rows(tmp_path / "problems.jsonl", problem_rows())
    whole = run_recipe(tiny_pipeline(fixed_model, tmp_path / "whole", data, num_steps=2))
    parts = {path.name for path in (tmp_path / "whole").iterdir()}
    assert parts == {"pipeline.yaml", "hard_set", "intervene", "sft", "rl"}
    read = [json.loads(line) for line in (tmp_path / "whole/intervene/sft.jsonl").open()]
    assert [(row["question"], row["prefix"], row["completion"], row["end"]) for row in read] == [
        (*row, False)
        for row in (*TAUGHT, ("8+3", "", "8+3=1"))  # leak stated: that is no statement
    ]
    cut = tiny_pipeline(fixed_model, tmp_path / "cut", data, num_steps=1)
    run_recipe(cut)
    last = run_recipe(replace(cut, rl=replace(cut.rl, train=replace(cut.rl.train, num_steps=2))))
    assert last.name == whole.name == "step-000002"
    assert weights(last) == weights(whole)
    trained = load_problems(DataConfig(path=str(tmp_path / "whole/hard_set/hard.jsonl")))
    assert [each.question for each in trained] == ["2+3+4", "1+6+2+5", "8+3", "3+3+1", "5+2+2"]


def test_the_recipes_hand_on_what_int_needs():
    for name in ("int", "int-tiny"):
        recipe = load_config(name)
        assert list(recipe.stages) == ["hard_set", "intervene", "sft", "rl"]
        assert recipe.hard_set.model == recipe.intervene.model
        assert recipe.sft.model.path == recipe.hard_set.model.path
        assert recipe.intervene.data.path == recipe.rl.data.path == "@hard_set/hard.jsonl"
        assert (recipe.sft.data.path, recipe.rl.model.path) == ("@intervene/sft.jsonl", "@sft")
        assert recipe.sft.prefix_weight == 1.0 and recipe.sft.max_entropy_rise is not None
        assert (recipe.rl.reward.functions, recipe.rl.reward.scale) == (("answer",), "none")
    paper = load_config("int")
    assert (paper.hard_set.num_samples, paper.hard_set.max_correct, paper.hard_set.keep_attempts) == (
        64,
        0,
        4,
    )
    assert (paper.intervene.proposal.form, paper.intervene.num_continuations) == ("full", 32)
    assert (paper.rl.rollout.num_prompts, paper.rl.rollout.group_size, paper.rl.train.num_steps) == (
        32,
        8,
        400,
    )
    assert paper.rl.train.updates_per_epoch == 2 and paper.rl.loss.kl_coef == 0.0


@pytest.mark.skipif(not IMO.is_file(), reason=f"no benchmark file {IMO}")
def test_imo_answerbench_is_for_evaluation():
    problems = load_problems(DataConfig(path=str(IMO)))
    assert len(problems) == 400
    assert (problems[0].solution, problems[0].columns["Problem ID"]) == ("3", "imo-bench-algebra-001")
    assert problems[0].question.startswith("For a given positive integer $N$, Henry writes")
    config = HardSetConfig(data=DataConfig(path=str(IMO)))
    with pytest.raises(
        ValueError, match=r"\[hard_set\] reference_column: .* got columns Problem ID, Problem"
    ):
        check_hard_set(config)
