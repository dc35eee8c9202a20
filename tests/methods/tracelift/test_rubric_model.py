"""The reward model: its loss by hand, its gradient against Hugging Face's float64 forward, its folders."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from fastrl.config import LoraConfig, ModelConfig, RubricLossConfig
from fastrl.methods.tracelift.rubric_input import Rubric, encode_traces
from fastrl.methods.tracelift.rubric_loss import Judgments, rubric_loss
from fastrl.methods.tracelift.rubric_model import RubricModel, read_to_the_end
from fastrl.methods.tracelift.rubric_policy import HEADS, RUBRIC
from fastrl.policy import lora

CPU = torch.device("cpu")
RUBRIC_400 = Rubric("math", 400)
NO_LORA = LoraConfig(rank=0)
PROBLEMS = ["Tom has 3 apples."] * 3 + ["2 + 2 * 5 = ?"] * 3
TRACES = ["3 - 1 = 2", "3 + 1 = 4, so 4", "3 - 1 = 1", "2 * 5 = 10, 12", "4 * 5", ""]
GOLD = [1.0, 0.25, 0.5, 0.9, 0.0, 0.1]
LEVELS = torch.tensor([[4, 4, 4, 4, 4], [0, 1, 2, 3, 4], [3, 3, 1, 1, 0], [4, 4, 3, 4, 4], [0] * 5, [2] * 5])
CONFIG = RubricLossConfig(num_negatives=2)


def started(path, attention="auto", share=True, rank=0, seed=0, dropout=0.0):
    """A model whose heads, and adapters where it has some, say something."""
    model = RubricModel.start(
        ModelConfig(path=str(path), attention=attention, share_prefixes=share), RUBRIC_400,
        LoraConfig(rank=rank, dropout=dropout), CPU, seed,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.network.heads.weight.normal_(0, 0.3, generator=draw)
        model.network.heads.bias.normal_(0, 0.3, generator=draw)
        for name, weight in model.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=draw)
    return model


def inputs_of(model, problems=PROBLEMS, traces=TRACES):
    return [each.token_ids for each in encode_traces(model.tokenizer, model.rubric, problems, traces)]


def test_the_loss_by_hand():
    """Two groups of one positive and two negatives, but for the logits of one trace all zeros."""
    levels = torch.zeros(6, 5, 5, dtype=torch.float64)
    levels[3] = torch.tensor([1.0, 1, 2, 4, 2], dtype=torch.float64).log()
    totals = torch.zeros(6, dtype=torch.float64)
    totals[3] = math.log(3)  # sigmoid 0.75
    judged = Judgments(levels, totals)
    # 0 * 0.1 + 1 * 0.1 + 2 * 0.2 + 3 * 0.4 + 4 * 0.2 = 2.5; 0.5 * 2.5 / 4 + 0.5 * 0.75 = 0.6875
    assert judged.dimensions[3].tolist() == pytest.approx([2.5] * 5)
    assert judged.scores.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.6875, 0.5, 0.5])
    out = rubric_loss(judged, LEVELS, torch.tensor(GOLD, dtype=torch.float64), CONFIG, num_groups=2)
    # levels 4, 4, 3, 4, 4 have probabilities 0.2, 0.2, 0.4, 0.2, 0.2; everywhere else each level has 1/5
    dimension = (29 * math.log(5) - math.log(0.4)) / 6
    # halves of squares of 0.5 - (1, 0.25, 0.5), 0.75 - 0.9, 0.5 - (0, 0.1)
    total = 0.5 * (0.25 + 0.0625 + 0 + 0.0225 + 0.25 + 0.16) / 6
    ranking = (2 * math.log(2) + 2 * math.log(1 + math.exp(-0.1875))) / 4
    assert float(out.dimension) == pytest.approx(dimension, abs=1e-12)
    assert float(out.total) == pytest.approx(total, abs=1e-12)
    assert float(out.ranking) == pytest.approx(ranking, abs=1e-12)
    assert float(out.loss) == pytest.approx(dimension + 0.5 * total + 0.7 * ranking, abs=1e-12)
    assert float(out.pairs_right) == 0.5


def test_the_loss_gradient_is_that_of_finite_differences():
    draw = torch.Generator().manual_seed(0)
    levels = torch.randn(6, 5, 5, dtype=torch.float64, generator=draw).requires_grad_()
    totals = torch.randn(6, dtype=torch.float64, generator=draw).requires_grad_()

    def loss(levels, totals):
        gold = torch.tensor(GOLD, dtype=torch.float64)
        return rubric_loss(Judgments(levels, totals), LEVELS, gold, CONFIG, num_groups=3).loss

    assert torch.autograd.gradcheck(loss, (levels, totals), atol=1e-8)


def oracle(path, model):
    """Hugging Face's forward in float64, one trace at a time, and the paper's formulas written out."""
    backbone = AutoModel.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()
    weight = model.network.heads.weight.detach().double().requires_grad_()
    bias = model.network.heads.bias.detach().double().requires_grad_()
    scores, loss = [], torch.zeros((), dtype=torch.float64)
    for place, ids in enumerate(inputs_of(model)):
        out = weight @ backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] + bias
        chances = [out[5 * k : 5 * k + 5].softmax(0) for k in range(5)]
        dims = [sum(c * chance[c] for c in range(5)) for chance in chances]
        total = torch.sigmoid(out[25])
        scores.append(0.5 * sum(0.2 * dim for dim in dims) / 4 + 0.5 * total)
        for k in range(5):
            loss = loss - chances[k][LEVELS[place, k]].log() / 6
        loss = loss + 0.5 * F.huber_loss(total, torch.tensor(GOLD[place], dtype=torch.float64)) / 6
    for first in (0, 3):
        for other in (1, 2):
            loss = loss - 0.7 * torch.log(torch.sigmoid(scores[first] - scores[first + other])) / 4
    loss.backward()
    gradients = {f"base_model.{n}": p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return torch.stack(scores).detach(), gradients | {"heads.weight": weight.grad, "heads.bias": bias.grad}


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "gpt2"])
def test_scores_and_gradients_are_those_of_one_by_one(checkpoints, family):
    wanted, gradients = oracle(checkpoints[family], started(checkpoints[family]))
    for attention, share in (("prefix", True), ("prefix", False), ("sdpa", True)):
        model = started(checkpoints[family], attention, share)
        assert model.policy.share_prefixes == (attention == "prefix" and share)
        judged = model(inputs_of(model))
        assert judged.scores.tolist() == pytest.approx(wanted.tolist(), abs=2e-6)
        assert float(wanted.max() - wanted.min()) > 1e-3
        rubric_loss(judged, LEVELS, torch.tensor(GOLD), CONFIG, num_groups=2).loss.backward()
        for name, parameter in model.network.named_parameters():
            error = float((parameter.grad - gradients[name]).abs().max())
            assert error < 1e-5 * max(1.0, float(gradients[name].abs().max())), f"{name}: {error}"


def test_a_new_head_scores_one_half_and_the_shared_prefix_is_computed_once(checkpoints):
    model = RubricModel.start(ModelConfig(path=str(checkpoints["qwen3"])), RUBRIC_400, NO_LORA, CPU, 0)
    inputs = inputs_of(model)
    assert model(inputs).scores.tolist() == [0.5] * 6
    batch = model.policy.pack([read_to_the_end(ids) for ids in inputs])
    assert batch.num_tokens < 0.6 * sum(map(len, inputs))


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_adapters_are_merged_when_saved_and_the_model_stays_as_it_is(checkpoints, tmp_path, family):
    model = started(checkpoints[family], rank=3)
    trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
    linear = {"qwen3": 2 * 7, "gpt2": 2 * 4}[family]
    assert len(trained) == 2 * linear + 2
    assert all("lora_" in name or name.startswith("heads.") for name in trained)
    inputs = inputs_of(model)
    before = model.judge(inputs, 10_000)
    plain = started(checkpoints[family]).judge(inputs, 10_000)
    assert float((before.scores - plain.scores).abs().max()) > 1e-3
    weights = {name: p.clone() for name, p in model.network.state_dict().items()}
    model.save(tmp_path)
    assert all(torch.equal(p, weights[name]) for name, p in model.network.state_dict().items())
    loaded = RubricModel.load(tmp_path, CPU, torch.float32)
    assert not any("lora" in name for name, _ in loaded.network.named_parameters())
    assert float((loaded.judge(inputs, 10_000).scores - before.scores).abs().max()) < 1e-6
    again = RubricModel.start(
        ModelConfig(path=str(checkpoints[family])),
        RUBRIC_400,
        LoraConfig(rank=3, dropout=0.0),
        CPU,
        0,
        tmp_path,
    )
    assert all(torch.equal(p, weights[name]) for name, p in again.network.state_dict().items())
    with pytest.raises(ValueError, match=r"\[lora\] rank: expected the saved adapters' layers and rank"):
        RubricModel.start(
            ModelConfig(path=str(checkpoints[family])), RUBRIC_400, LoraConfig(rank=2), CPU, 0, tmp_path
        )


def test_the_same_seed_starts_the_same_adapters(checkpoints):
    a, b, c = (
        lora.adapter_weights(started(checkpoints["llama"], rank=2, seed=seed).network) for seed in (1, 1, 2)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2"])
def test_a_saved_folder_is_hugging_faces(checkpoints, tmp_path, family):
    model = started(checkpoints[family])
    inputs = inputs_of(model)
    wanted = model.judge(inputs, 10_000)
    model.save(tmp_path)
    assert not (tmp_path / lora.FOLDER).exists()
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    loaded = RubricModel.load(tmp_path, CPU, torch.float32)
    assert loaded.rubric == RUBRIC_400
    assert torch.equal(loaded.judge(inputs, 10_000).scores, wanted.scores)
    assert not any(p.requires_grad for p in loaded.network.parameters())
    # its own sdpa leaves out Gemma 2's soft-cap
    backbone = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    hidden = backbone(input_ids=torch.tensor([inputs[1]])).last_hidden_state[0, -1]
    out = model.network.heads(hidden).detach()
    logits = model(inputs)
    assert out[:25].tolist() == pytest.approx(logits.level_logits[1].flatten().tolist(), abs=1e-5)
    assert float(out[25]) == pytest.approx(logits.total_logits[1].item(), abs=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).decode(inputs[1]).endswith("so 4\n</reasoning>")
    about = json.loads((tmp_path / RUBRIC).read_text())
    assert (about["task"], about["pooling"], about["max_tokens"]) == ("math", "last_token", 400)


def test_bfloat16_serves_about_the_same(checkpoints, tmp_path):
    model = started(checkpoints["qwen3"])
    model.save(tmp_path)
    loaded = RubricModel.load(tmp_path, CPU, torch.bfloat16)
    assert next(loaded.network.base_model.parameters()).dtype == torch.bfloat16
    inputs = inputs_of(model)
    wanted, found = (each.judge(inputs, 10_000).scores for each in (model, loaded))
    assert 0 < float((wanted - found).abs().max()) < 0.03


def test_what_is_no_reward_model_is_refused(checkpoints, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\[rubric_model\] folder: expected one with rubric\.json"):
        RubricModel.load(checkpoints["qwen3"], CPU, torch.float32)
    with pytest.raises(ValueError, match=r"\[rubric_model\] dtype: expected float32 or bfloat16"):
        RubricModel.load(checkpoints["qwen3"], CPU, torch.float64)
    started(checkpoints["qwen3"]).save(tmp_path)
    about = json.loads((tmp_path / RUBRIC).read_text())
    for change, name in (
        (("format", 2), "format"),
        (("task", "poetry"), "task"),
        (("pooling", "mean"), "pooling"),
    ):
        (tmp_path / RUBRIC).write_text(json.dumps({**about, change[0]: change[1]}))
        with pytest.raises(ValueError, match=rf"\[rubric_model\] {name}: expected"):
            RubricModel.load(tmp_path, CPU, torch.float32)
    (tmp_path / RUBRIC).write_text(json.dumps(about))
    (tmp_path / HEADS).unlink()
    with pytest.raises(FileNotFoundError):
        RubricModel.load(tmp_path, CPU, torch.float32)


def test_backbones_that_do_not_fit_are_refused(checkpoints, tmp_path):
    model = ModelConfig(path=str(checkpoints["qwen3"]))
    with pytest.raises(ValueError, match=r"\[reward_model\] max_tokens: expected <= 512, .* got 513"):
        RubricModel.start(model, Rubric("math", 513), NO_LORA, CPU, 0)
    backbone = AutoModel.from_pretrained(checkpoints["qwen3"])
    weights = {name: weight for name, weight in backbone.state_dict().items() if name != "norm.weight"}
    backbone.save_pretrained(tmp_path / "holed", state_dict=weights)
    with pytest.raises(ValueError, match=r"\[model\] path: expected weights with norm\.weight"):
        RubricModel.start(ModelConfig(path=str(tmp_path / "holed")), RUBRIC_400, NO_LORA, CPU, 0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=50, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\[model\] path: expected a decoder, got BertModel"):
        RubricModel.start(ModelConfig(path=str(tmp_path), attention="sdpa"), RUBRIC_400, NO_LORA, CPU, 0)


def test_adapters_without_peft_are_refused(checkpoints, monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\[lora\] rank: expected 0 if peft is not installed .* got 3"):
        started(checkpoints["qwen3"], rank=3)
    started(checkpoints["qwen3"])
