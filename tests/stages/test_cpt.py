"""Continual pre-training: loss across document boundaries in float64, epochs, resume, adapters."""

import json
from dataclasses import replace

import pytest
import torch
from jsonl import write_jsonl
from tiny_rl import curve
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.check import check_config
from fastrl.config import (
    AdapterConfig,
    CptConfig,
    DataConfig,
    ModelConfig,
    RewardModelConfig,
    RunConfig,
    SftConfig,
    TextConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.data.texts import TextRows, encode_documents
from fastrl.policy.lora import FOLDER
from fastrl.policy.model import Policy
from fastrl.stages.cpt import perplexity, rows_of_step, with_steps
from fastrl.stages.sft import accumulate
from fastrl.train import run_stage

CPU = torch.device("cpu")
DOCUMENTS = ["abcabc", "b", "the cat sat on the mat and the rat", "xyzzy", "cababcab"]
LORA = AdapterConfig(rank=2, alpha=4.0)


@pytest.fixture
def config(tmp_path, checkpoints):
    """Without a chat template, as base checkpoints come."""
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(checkpoints["llama"]).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["llama"])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    (tmp_path / "held_out.txt").write_text("the bat sat on the rat")
    return CptConfig(
        run=RunConfig(dir=str(tmp_path / "run"), seed=3, device="cpu", save_every=2),
        model=ModelConfig(path=str(base)),
        data=TextConfig(path=str(file)),
        train=TrainConfig(num_steps=5, learning_rate=1e-2, lr_scheduler_type="cosine", warmup_steps=1),
        seq_len=16,
        batch_size=2,
        held_out=str(tmp_path / "held_out.txt"),
        held_out_every=2,
    )


def alone(model, tokens):
    """log p of every token of a document but its first, given its own tokens alone."""
    logprobs = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(tokens)[1:, None])[:, 0]


@pytest.mark.parametrize("attention", ["prefix", "sdpa"])
def test_packed_tokens_have_the_log_probs_of_their_document_by_itself(config, attention):
    """Packed behind another document, in float32, against the document by itself, in float64."""
    policy = Policy.load(replace(config.model, attention=attention), CPU)
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float64)
    documents = list(encode_documents(DOCUMENTS, policy.tokenizer))
    rows = TextRows(documents, 1000)
    assert len(rows) == 1 and len(rows[0]) == len(DOCUMENTS)
    packed = policy.logprobs(policy.pack(rows[0]), temperature=1.0)
    expected = torch.cat([alone(model, tokens) for tokens in documents])
    torch.testing.assert_close(packed.double(), expected.detach(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_loss_and_gradient_of_cut_documents_in_float64(config, budget):
    """Pieces one by one through Hugging Face's forward; their count worked by hand: tokens less documents."""
    policy = Policy.load(config.model, CPU)
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float64)
    documents = list(encode_documents(DOCUMENTS, policy.tokenizer))
    rows = TextRows(documents, 7)
    pieces = [piece for row in range(len(rows)) for piece in rows[row]]
    assert len(pieces) > len(documents)
    logprobs = torch.cat([alone(model, list(piece.token_ids)) for piece in pieces])
    assert len(logprobs) == sum(len(text) for text in DOCUMENTS)  # a byte a token, and one end each
    (-logprobs.mean()).backward()
    loss, _ = accumulate(policy, pieces, budget)
    assert float(loss) == pytest.approx(-logprobs.mean().item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        found = dict(policy.model.named_parameters())[name].grad
        assert float((found - parameter.grad).abs().max() / parameter.grad.abs().max()) < 1e-5, name


def test_epochs_take_every_row_once_and_end_with_what_is_left(config):
    once = with_steps(replace(config, epochs=3), num_rows=5)
    assert once.train.num_steps == 8  # 15 rows, 2 a step
    drawn = [rows_of_step(once, 5, step) for step in range(8)]
    assert [len(rows) for rows in drawn] == [2] * 7 + [1]
    flat = [row for rows in drawn for row in rows]
    assert [sorted(flat[start : start + 5]) for start in (0, 5, 10)] == [list(range(5))] * 3
    assert with_steps(config, num_rows=5) is config
    assert [len(rows_of_step(config, 5, step)) for step in range(8)] == [2] * 8


def test_a_run_learns_and_measures_held_out_text(config, tmp_path, capsys):
    last = run_stage(replace(config, epochs=6))
    assert "step 12/12 | entropy" in capsys.readouterr().err
    lines = curve(tmp_path / "run")
    rows = TextRows(encode_documents(DOCUMENTS, AutoTokenizer.from_pretrained(last)), 16)
    assert rows.num_trained == 54 and len(rows) == 4
    assert [line["step"] for line in lines] == list(range(13)) and last.name == "step-000012"
    assert sum(line["num_tokens"] for line in lines[1:]) == 6 * 54
    measured = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in measured] == [0, 2, 4, 6, 8, 10, 12]
    assert {line["eval/num_tokens"] for line in measured} == {22}  # 22 bytes, the first given, and the end
    assert measured[-1]["eval/loss"] < measured[0]["eval/loss"] - 1
    for line in lines[1:]:
        assert line["perplexity"] == pytest.approx(2.718281828 ** line["loss"], rel=1e-5)
    policy = Policy.load(ModelConfig(path=str(last)), CPU)
    held_out = TextRows(encode_documents(["the bat sat on the rat"], policy.tokenizer), 16)
    pieces = [*held_out[0], *held_out[1]]
    assert [len(piece.token_ids) for piece in pieces] == [16, 8]  # 23 tokens, the 16th read once more
    with torch.no_grad():
        assert measured[-1]["eval/loss"] == pytest.approx(float(accumulate(policy, pieces, 99)[0]))
    AutoModelForCausalLM.from_pretrained(last)


def test_perplexity_is_infinite_where_exp_is():
    assert perplexity(0.0) == 1.0 and perplexity(1000.0) == float("inf")


@pytest.mark.parametrize("lora", [AdapterConfig(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", ["cpt", "sft"])
def test_going_on_is_bit_for_bit(config, tmp_path, stage, lora, terminal):
    if stage == "sft":
        file = tmp_path / "rows.jsonl"
        rows = [{"prompt": text[:2], "completion": text[2:] or "?"} for text in DOCUMENTS]
        write_jsonl(file, rows)
        config = SftConfig(
            run=config.run,
            model=config.model,
            data=DataConfig(path=str(file)),
            train=config.train,
            batch_size=2,
        )
    config = replace(config, model=replace(config.model, lora=lora))
    falling = run_stage(replace(config, run=replace(config.run, dir=str(tmp_path / "falling"))))
    config = replace(config, train=replace(config.train, lr_scheduler_type="constant"))
    parts = replace(config, run=replace(config.run, dir=str(tmp_path / "parts")))
    begun = run_stage(replace(parts, train=replace(parts.train, num_steps=3)))
    assert begun.name == "step-000003"
    with pytest.raises(ValueError, match=r"train\.lr_scheduler_type differ"):
        run_stage(replace(parts, train=replace(parts.train, lr_scheduler_type="cosine")))
    straight = run_stage(replace(config, run=replace(config.run, dir=str(tmp_path / "constant"))))
    resumed = run_stage(parts)
    assert "step 5 of 5" in terminal.text()
    files = sorted(path.relative_to(straight) for path in straight.rglob("*") if path.is_file())
    for name in files:
        if name.name == "README.md":  # the card names the run
            continue
        assert (straight / name).read_bytes() == (resumed / name).read_bytes(), name
    assert curve(tmp_path / "constant")[-2:] == curve(tmp_path / "parts")[-2:]
    weights = "model.safetensors"
    assert (falling / weights).read_bytes() != (straight / weights).read_bytes()
    assert (straight / FOLDER).is_dir() == bool(lora.rank)


def refused(config):
    with pytest.raises(ValueError) as caught:
        check_config(config)
    return str(caught.value)


def test_what_can_not_run_is_refused_before_a_model_is_loaded(config, tmp_path, checkpoints):
    check_config(config)
    assert refused(replace(config, seq_len=513)) == (
        "[cpt] seq_len: expected <= 512, the model's context length, got 513"
    )
    message = refused(replace(config, data=replace(config.data, text_column="body")))
    assert message.startswith("[data] text_column: expected one of text, the columns of")
    assert refused(replace(config, held_out=None)).startswith("[cpt] held_out_every: expected 0, since")
    with pytest.raises(FileNotFoundError):
        check_config(replace(config, held_out="none.txt"))
    endless = tmp_path / "endless"
    AutoModelForCausalLM.from_pretrained(checkpoints["gpt2"]).save_pretrained(endless)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.eos_token = None
    tokenizer.save_pretrained(endless)
    assert "a tokenizer with an end token" in refused(replace(config, model=ModelConfig(path=str(endless))))
    for wrong in (
        {"seq_len": 1},
        {"batch_size": 0},
        {"epochs": 0},
        {"held_out_every": -1},
    ):
        with pytest.raises(ValueError, match=rf"\[cpt\] {next(iter(wrong))}: expected"):
            replace(config, **wrong)


def test_adapters_are_refused_where_they_can_not_be(config, checkpoints, monkeypatch):
    with pytest.raises(ValueError, match=r"\[lora\] rank: expected >= 0, got -1"):
        AdapterConfig(rank=-1)
    with pytest.raises(ValueError, match=r"\[lora\] alpha: expected > 0"):
        AdapterConfig(alpha=0.0)
    unknown = replace(config.model, lora=replace(LORA, target_modules=("q_proj", "query")))
    assert refused(replace(config, model=unknown)) == (
        "[model.lora] target_modules: expected names among down_proj, gate_proj, k_proj, o_proj, q_proj, "
        "up_proj, v_proj, got 'query'"
    )
    head = replace(config.model, lora=replace(LORA, target_modules=("lm_head",)))
    assert "got 'lm_head'" in refused(replace(config, model=head))
    adapted = replace(config.model, lora=LORA)
    with pytest.raises(ValueError, match=r"\[transfer\] receiver: expected a CheckpointConfig, since this"):
        TransferConfig(receiver=adapted)
    with pytest.raises(
        ValueError, match=r"\[reward_model\] model: expected a BackboneConfig, since adapters"
    ):
        RewardModelConfig(run=config.run, model=adapted)
    monkeypatch.setattr("fastrl.policy.lora.find_spec", lambda name: None)
    assert refused(replace(config, model=adapted)).startswith("[model.lora] rank: expected 0 if peft is not")
