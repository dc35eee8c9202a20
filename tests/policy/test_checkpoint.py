import json
import shutil

import pytest
import torch
from checkpoints import as_before
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import ModelConfig, TrainConfig
from fastrl.policy.checkpoint import (
    Saver,
    complete_checkpoints,
    damaged,
    latest_checkpoint,
    load_optimizer,
    remove_partial,
)
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.policy.packing import pack
from fastrl.types import TrainSequence

CPU = torch.device("cpu")
TRAIN = TrainConfig(
    num_steps=6, learning_rate=1e-2, lr_scheduler_type="cosine", warmup_steps=2, adam_beta1=0.8,
    adam_beta2=0.95, weight_decay=0.1, no_decay=("q_proj",),
)  # fmt: skip


def trained(path, steps):
    policy = Policy.load(ModelConfig(path=str(path)), CPU)
    optimizer = make_optimizer(policy, TRAIN)
    advance(policy, optimizer, 0, steps)
    return policy, optimizer


def advance(policy, optimizer, first, last):
    batch = pack([TrainSequence([5, 9, 12, 40], [False, True, True, True])], CPU)
    for step in range(first, last):
        torch.manual_seed(step)
        hidden = policy.hidden(batch)
        (hidden * torch.randn_like(hidden)).sum().backward()
        apply_gradients(policy, optimizer, TRAIN, step)


@pytest.mark.parametrize("layout", ["plain", "of 0.1"])
def test_going_on_from_a_checkpoint_is_bit_for_bit(checkpoints, tmp_path, layout):
    whole, _ = trained(checkpoints["qwen3"], 6)
    policy, optimizer = trained(checkpoints["qwen3"], 3)
    with Saver(tmp_path, keep_last=2) as saver:
        path = saver.save(policy, optimizer, {"step": 3, "draws": [48]}, card="about it")
    if layout != "plain":
        as_before(path)
    assert latest_checkpoint(tmp_path) == path

    again = Policy.load(ModelConfig(path=str(path)), CPU)
    optimizer = make_optimizer(again, TRAIN)
    state = load_optimizer(path, again, optimizer)
    assert state["step"] == 3 and state["draws"] == [48]
    advance(again, optimizer, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_step_without_a_gradient_is_the_same_after_going_on(checkpoints, tmp_path):
    """Moments move the weights on, also in a process that has seen no gradient yet."""
    policy, optimizer = trained(checkpoints["qwen3"], 2)
    with Saver(tmp_path, keep_last=1) as saver:
        path = saver.save(policy, optimizer, {"step": 2})
    again = Policy.load(ModelConfig(path=str(path)), CPU)
    resumed = make_optimizer(again, TRAIN)
    load_optimizer(path, again, resumed)
    before = [p.clone() for p in again.parameters()]
    for each, its in ((policy, optimizer), (again, resumed)):
        assert apply_gradients(each, its, TRAIN, 2) == 0.0
    assert not any(torch.equal(a, b) for a, b in zip(before, again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))


def test_keep_last_and_export(checkpoints, tmp_path):
    policy, optimizer = trained(checkpoints["llama"], 1)
    with Saver(tmp_path, keep_last=2) as saver:
        for step in (1, 2, 3):
            saver.save(policy, optimizer, {"step": step, "draws": [0]})
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "step-000003")


def test_keep_last_0_keeps_all(checkpoints, tmp_path):
    policy, optimizer = trained(checkpoints["llama"], 1)
    with Saver(tmp_path, keep_last=0) as saver:
        for step in (1, 2, 3):
            saver.save(policy, optimizer, {"step": step, "draws": [0]})
    assert [path.name for path in complete_checkpoints(tmp_path)] == [f"step-00000{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "state"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints, tmp_path, harm, caplog):
    policy, optimizer = trained(checkpoints["llama"], 1)
    with Saver(tmp_path, keep_last=2) as saver:
        for step in (1, 2):
            saver.save(policy, optimizer, {"step": step, "draws": [0]})
    weights = tmp_path / "step-000002/model.safetensors"
    data = bytearray(weights.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    elif harm == "truncate":
        weights.write_bytes(data[:-100])
    elif harm == "remove":
        (tmp_path / "step-000002/trainer_state/optimizer.safetensors").unlink()
    else:
        (tmp_path / "step-000002/trainer_state/state.json").write_text('{"step": 2, "fil')
    assert damaged(tmp_path / "step-000002")
    assert latest_checkpoint(tmp_path).name == "step-000001"
    assert "skipped" in caplog.text


def test_the_folder_itself_holds_only_the_model(checkpoints, tmp_path):
    policy, optimizer = trained(checkpoints["llama"], 1)
    with Saver(tmp_path, keep_last=1) as saver:
        path = saver.save(policy, optimizer, {"step": 1}, card="about it")
    assert {each.name for each in path.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "chat_template.jinja",
        "tokenizer.json", "tokenizer_config.json", "trainer_state",
    }  # fmt: skip
    inside = {each.name for each in (path / "trainer_state").iterdir()}
    assert inside == {"optimizer.safetensors", "state.json"}
    assert (path / "README.md").read_text() == "about it"
    assert len({each.stat().st_mode for each in path.rglob("*") if each.is_file()}) == 1  # the umask's


def test_a_card_may_be_edited(checkpoints, tmp_path):
    policy, optimizer = trained(checkpoints["llama"], 1)
    with Saver(tmp_path, keep_last=1) as saver:
        path = saver.save(policy, optimizer, {"step": 1}, card="about it")
    (path / "README.md").write_text("more about it")
    assert damaged(path) is None


@pytest.mark.parametrize("background", [False, True])
def test_two_ways_of_saving_leave_the_same_files(checkpoints, tmp_path, background):
    """As it lies on one rank, and tensor by tensor, as ranks and a background write it; from bfloat16."""
    start = tmp_path / "start"
    AutoModelForCausalLM.from_pretrained(checkpoints["llama"], dtype=torch.bfloat16).save_pretrained(start)
    AutoTokenizer.from_pretrained(checkpoints["llama"]).save_pretrained(start)
    policy, optimizer = trained(start, 1)
    with Saver(tmp_path, keep_last=1, background=background) as saver:
        path = saver.save(policy, optimizer, {"step": 1})
    config = json.loads((path / "config.json").read_text())
    assert config["dtype"] == "float32" and config["architectures"] == ["LlamaForCausalLM"]
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), policy.parameters(), strict=True))


def test_a_death_while_one_is_removed_leaves_no_part_of_it(checkpoints, tmp_path, monkeypatch):
    policy, optimizer = trained(checkpoints["llama"], 1)
    remove = shutil.rmtree

    def dies(path, *arguments, **options):
        if path.exists() and "dropped" in path.name:
            (path / "config.json").unlink()
            raise KeyboardInterrupt
        remove(path, *arguments, **options)

    with Saver(tmp_path, keep_last=1) as saver:
        saver.save(policy, optimizer, {"step": 1})
        monkeypatch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            saver.save(policy, optimizer, {"step": 2})
    monkeypatch.undo()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-000002"]
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    partial = tmp_path / ".step-000005.partial"
    (partial / "trainer_state").mkdir(parents=True)
    (partial / "trainer_state/state.json").write_text(json.dumps({"step": 5, "files": {}}))
    assert latest_checkpoint(tmp_path) is None


def test_a_bad_gradient_changes_nothing(checkpoints):
    policy, optimizer = trained(checkpoints["llama"], 1)
    before = [p.clone() for p in policy.parameters()]
    next(iter(policy.parameters())).grad.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="gradient norm is nan at step 4"):
        apply_gradients(policy, optimizer, TRAIN, 4)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
