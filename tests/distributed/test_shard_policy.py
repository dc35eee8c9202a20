"""A sharded policy learns, scores, sends weights and is saved like an unsharded one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rank_processes import on_ranks
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fastrl.config import LoraConfig, ModelConfig, RlConfig, RolloutConfig, TrainConfig
from fastrl.kernels.config import LossConfig
from fastrl.policy.checkpoint import Saver, complete_checkpoints, latest_checkpoint, load_optimizer
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.policy.shard import Sharding
from fastrl.runtime.distributed import Ranks
from fastrl.training.update import accumulate_gradients, score_rollouts
from fastrl.types import Rollout

CPU = torch.device("cpu")
STEPS = 3
TRAIN = TrainConfig(tokens_per_microbatch=30, learning_rate=1e-3, shard=True)


@dataclass(frozen=True)
class Case:
    """What is trained, and which rank gets a rollout."""

    family: str = "llama"
    rank_of: tuple[int, ...] = (0, 1, 0, 1, 0, 1)
    flat: bool = False
    recomputed: bool = False
    lora: int = 0
    train: TrainConfig = TRAIN


CASES = {
    "tied": Case("qwen3"),
    "untied": Case(),
    "uneven": Case("mistral_window", rank_of=(0, 0, 0, 0, 0, 1)),
    "idle": Case(rank_of=(1, 1, 1, 1, 1, 1)),
    "flat": Case(flat=True),
    "recomputed": Case("qwen3", recomputed=True),
    "adapters": Case("qwen3", lora=3),
    "sharded-gradients": Case("gemma2", train=replace(TRAIN, shard_gradients=True)),
    "offload": Case(train=replace(TRAIN, offload=True)),
}
FOUR = {"tied": CASES["tied"], "adapters": CASES["adapters"]}


def rollouts(flat: bool) -> list[Rollout]:
    generator = torch.Generator().manual_seed(3)

    def draw(n: int) -> list[int]:
        return torch.randint(4, 260, (n,), generator=generator).tolist()

    out = []
    for i, advantage in enumerate((1.0, -0.5, 0.0, 2.0, -1.5, 0.25)):
        completion = draw(3 + 7 * i)
        noise = (torch.rand(len(completion), generator=generator) * 0.2 - 5.6).tolist()
        advantage = 0.0 if flat else advantage
        out.append(Rollout(draw(4 + i), completion, noise, "", "stop", group=i // 2, advantage=advantage))
    return out


def load(ranks: Ranks, case: Case, path: str, checkpoint: Path | None = None):
    model = ModelConfig(
        path=path, gradient_checkpointing=case.recomputed, lora=LoraConfig(rank=case.lora, alpha=6.0)
    )
    policy = Policy.load(model, CPU, checkpoint, seed=3, sharding=Sharding.of(case.train))
    return policy, make_optimizer(policy, case.train)


def learn(ranks: Ranks, case: Case, policy, optimizer, steps) -> list[float]:
    config = RlConfig(train=case.train, rollout=RolloutConfig(max_new_tokens=40), loss=LossConfig())
    placed = zip(rollouts(case.flat), case.rank_of, strict=True)
    todo = [rollout for rollout, rank in placed if rank % ranks.size == ranks.rank]
    nothing = [None] * len(todo)
    norms = []
    for step in steps:
        accumulate_gradients(policy, todo, range(len(todo)), nothing, nothing, config, ranks, {})
        norms.append(apply_gradients(policy, optimizer, case.train, step))
    return norms


def trained(ranks: Ranks, cases: dict[str, Case], paths: dict[str, str], folder: str) -> dict:
    """Of each case: gradient norms, weights as an engine gets them, log-probs; saved in `folder`."""
    found = {}
    for name, case in cases.items():
        policy, optimizer = load(ranks, case, paths[case.family])
        norms = learn(ranks, case, policy, optimizer, range(STEPS))
        weights = {key: tensor.clone() for key, tensor in policy.named_weights()}
        scored = score_rollouts(policy, rollouts(False)[: 1 + ranks.rank], RlConfig(train=case.train))
        with Saver(Path(folder) / name, keep_last=2, ranks=ranks) as saver:
            saver.save(policy, optimizer, {"step": STEPS, "draw": 7})
        held = sum(parameter.to_local().numel() for parameter in policy.parameters()) if ranks.size > 1 else 0
        found[name] = (norms, weights, scored[0], held)
    return found


@pytest.fixture(scope="module")
def paths(checkpoints) -> dict[str, str]:
    return {family: str(checkpoints[family]) for family in ("qwen3", "llama", "mistral_window", "gemma2")}


@pytest.fixture(scope="module")
def alone(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return trained(Ranks(), CASES, paths, str(folder)), folder


@pytest.fixture(scope="module")
def two(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return on_ranks(2, trained, folder / "found", CASES, paths, str(folder)), folder


@pytest.fixture(scope="module")
def four(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    return on_ranks(4, trained, folder / "found", FOUR, paths, str(folder)), folder


def check(name: str, alone, many) -> None:
    norms, weights, scored, _ = alone[0][name]
    for found in many[0]:
        rank_norms, rank_weights, rank_scored, _ = found[name]
        assert rank_norms == pytest.approx(norms, rel=2e-5)
        assert rank_weights.keys() == weights.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(rank_weights[key], weight, rtol=0, atol=2e-5)
        if scored is not None:
            torch.testing.assert_close(rank_scored, scored, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_learn_what_one_learns(alone, two, name):
    check(name, alone, two)


@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_learn_what_one_learns(alone, four, name):
    check(name, alone, four)


def test_every_rank_holds_only_its_part(alone, two, four):
    whole = sum(weight.numel() for weight in alone[0]["tied"][1].values())
    for many in (two, four):
        held = [found["tied"][3] for found in many[0]]
        assert sum(held) == whole and max(held) < 1.2 * whole / len(held)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_two_ranks_looks_like_one_of_one(alone, two, name):
    mine, theirs = (each[1] / name / f"step-{STEPS:06d}" for each in (alone, two))
    files = sorted(str(path.relative_to(mine)) for path in mine.rglob("*"))
    assert files == sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*"))
    for file in files:
        if file.endswith(".safetensors"):
            want, got = load_file(mine / file), load_file(theirs / file)
            assert want.keys() == got.keys()
            for key in want:
                torch.testing.assert_close(got[key], want[key], rtol=0, atol=2e-5)
        elif file.endswith(".json") and not file.endswith("state.json"):
            assert (mine / file).read_text() == (theirs / file).read_text(), file
    AutoModelForCausalLM.from_pretrained(theirs)


def resumed(ranks: Ranks, cases: dict[str, Case], paths: dict[str, str], folder: str) -> dict:
    """One more step after what `folder` holds."""
    found = {}
    for name, case in cases.items():
        checkpoint = latest_checkpoint(Path(folder) / name, ranks)
        policy, optimizer = load(ranks, case, paths[case.family], checkpoint)
        state = load_optimizer(checkpoint, policy, optimizer)
        norms = learn(ranks, case, policy, optimizer, [state["step"]])
        weights = {key: tensor.clone() for key, tensor in policy.named_weights()}
        found[name] = (norms, weights, None, state["draw"])
    return found


def test_a_checkpoint_of_four_ranks_resumes_on_two_and_one(paths, four, tmp_path):
    on_one = resumed(Ranks(), FOUR, paths, str(four[1]))
    for found in on_ranks(2, resumed, tmp_path / "found", FOUR, paths, str(four[1])):
        for name, (norms, weights, _, draw) in on_one.items():
            assert found[name][3] == draw == 7
            assert found[name][0] == pytest.approx(norms, rel=2e-5) and norms[0] > 0
            for key, weight in weights.items():
                torch.testing.assert_close(found[name][1][key], weight, rtol=0, atol=2e-5)


def saved_aside(ranks: Ranks, path: str, folder: str) -> list[str]:
    """Two checkpoints in the background, training in between; what is then on disk."""
    case = Case()
    policy, optimizer = load(ranks, case, path)
    with Saver(Path(folder), keep_last=1, ranks=ranks, background=True) as saver:
        for step, score in enumerate((0.5, 0.9, 0.4, 0.1), start=1):
            learn(ranks, case, policy, optimizer, [step - 1])
            before = {key: tensor.clone() for key, tensor in policy.named_weights()}
            saver.save(policy, optimizer, {"step": step, "draw": step, "score": score})
            learn(ranks, case, policy, optimizer, [step - 1])  # while it is written
            for key, tensor in load_file(waited(saver, Path(folder), step) / "model.safetensors").items():
                assert torch.equal(tensor, before[key]), key
    return [each.name for each in complete_checkpoints(Path(folder))]


def waited(saver: Saver, folder: Path, step: int) -> Path:
    saver.wait()
    return folder / f"step-{step:06d}"


def test_background_saves_write_the_steps_weights_and_keep_the_best(paths, tmp_path):
    kept = ["step-000002", "step-000004"]
    assert saved_aside(Ranks(), paths["llama"], str(tmp_path / "one")) == kept
    assert on_ranks(2, saved_aside, tmp_path / "found", paths["llama"], str(tmp_path / "two")) == [kept, kept]


def found_by(ranks: Ranks, folder: str) -> str | None:
    path = latest_checkpoint(Path(folder), ranks)
    return path and path.name


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "trainer_state/optimizer.safetensors"])
def test_damage_that_any_rank_sees_passes_a_checkpoint_over(paths, tmp_path, file):
    case = Case()
    policy, optimizer = load(Ranks(), case, paths["llama"])
    with Saver(tmp_path / "run", keep_last=2) as saver:
        for step in (1, 2):
            saver.save(policy, optimizer, {"step": step, "draw": step})
    harmed = tmp_path / "run/step-000002" / file
    data = bytearray(harmed.read_bytes())
    data[len(data) // 2] ^= 1
    harmed.write_bytes(data)
    assert on_ranks(2, found_by, tmp_path / "found", str(tmp_path / "run")) == ["step-000001"] * 2
