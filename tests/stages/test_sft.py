"""The SFT stage: its gradient against Hugging Face's float64 forward, its order, repeatability."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from jsonl import read_jsonl, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.data.conversations import read_conversations
from fastrl.policy.model import Policy
from fastrl.runtime.run import Run
from fastrl.stages.sft import accumulate, entropy_too_high, run_sft
from fastrl.tiny.world.models import Shape, initialise
from fastrl.training.learner import batch_indices
from fastrl.types import TrainSequence

CPU = torch.device("cpu")
QWEN = Shape(family="qwen3", hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=48)
LLAMA = Shape(family="llama", hidden=32, layers=2, heads=4, kv_heads=4, head_dim=8, intermediate=48)
ROWS = [{"prompt": f"{k}+{k}", "completion": f"{k}+{k}={2 * k % 10}"} for k in range(6)]
SEQUENCES = [
    TrainSequence([3, 20, 21, 4, 22, 23, 1], [False] * 4 + [True] * 3),
    TrainSequence([3, 24, 4, 25, 1], [False, False, False, True, False]),
    TrainSequence([5, 6], [True, True]),  # the first token is never predicted
    TrainSequence(list(range(3, 20)), [k % 3 == 0 for k in range(17)]),
]


@pytest.fixture(scope="module", params=[QWEN, LLAMA], ids=["qwen3", "llama"])
def checkpoint(request, tmp_path_factory):
    return initialise(request.param, tmp_path_factory.mktemp("start"), seed=0)


def config_of(checkpoint, tmp_path, **train):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, ROWS)
    return SftConfig(
        run=RunConfig(dir=str(tmp_path / "run"), seed=7, device="cpu", save_every=2),
        model=ModelConfig(path=str(checkpoint)),
        data=DataConfig(path=str(file)),
        train=TrainConfig(**{"num_steps": 4, "learning_rate": 1e-2, **train}),
        batch_size=4,
    )


def gradients(policy, budget):
    policy.model.zero_grad()
    loss, entropy = accumulate(policy, SEQUENCES, budget)
    return float(loss), float(entropy), {n: p.grad.clone() for n, p in policy.model.named_parameters()}


def test_loss_and_gradient_against_float64(checkpoint):
    """One sequence at a time through Hugging Face's forward in float64, padded nowhere."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    surprise = torch.zeros((), dtype=torch.float64)
    count = 0
    for sequence in SEQUENCES:
        ids = torch.tensor([sequence.token_ids])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        for place in range(1, len(sequence.token_ids)):
            if sequence.loss_mask[place]:
                total -= logprobs[place - 1, ids[0, place]]
                surprise -= (logprobs[place - 1].exp() * logprobs[place - 1]).sum()
                count += 1
    assert count == 3 + 1 + 1 + 5
    mean = total.detach() / count
    (total / count).backward()
    loss, entropy, found = gradients(Policy.load(ModelConfig(path=str(checkpoint)), CPU), 1 << 20)
    assert loss == pytest.approx(float(mean), rel=1e-5)
    assert entropy == pytest.approx(float(surprise.detach() / count), rel=1e-5)
    for name, parameter in model.named_parameters():
        error = float((found[name] - parameter.grad).abs().max() / parameter.grad.abs().max())
        assert error < 1e-5, f"{name}: {error}"


def test_uneven_microbatches_give_the_single_batch_gradient(checkpoint):
    policy = Policy.load(ModelConfig(path=str(checkpoint)), CPU)
    loss, _, whole = gradients(policy, 1 << 20)
    for budget in (1, 8, 20):
        part_loss, _, parts = gradients(policy, budget)
        assert part_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in whole.items():
            error = float((parts[name] - gradient).abs().max() / gradient.abs().max())
            assert error < 2e-6, f"{name} at {budget} tokens: {error}"


def test_weights_of_tokens(checkpoint):
    """Half the weight on one sequence's tokens: the mean that a calculator gives from the sequences' own."""
    policy = Policy.load(ModelConfig(path=str(checkpoint)), CPU)
    first, second = SEQUENCES[0], SEQUENCES[1]
    with torch.no_grad():
        alone = [float(accumulate(policy, [each], 1 << 20)[0]) for each in (first, second)]
    half = replace(first, weights=[0.5] * len(first.token_ids))
    loss, _ = accumulate(policy, [half, second], 1 << 20)
    assert float(loss) == pytest.approx((1.5 * alone[0] + 1.0 * alone[1]) / 2.5, rel=1e-5)


def test_the_base_models_nll_is_logged_and_falling_entropy_never_ends_a_run(checkpoint, tmp_path, terminal):
    config = replace(config_of(checkpoint, tmp_path, num_steps=40), max_entropy_rise=0.0)
    folder = run_sft(config)
    assert "step 40 of 40" in terminal.text()
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["step"] == 0 and set(lines[0]) >= {"base/nll", "base/entropy"}
    policy = Policy.load(config.model, CPU)
    whole = read_conversations(config.data.path, policy.tokenizer)
    with torch.no_grad():
        nll, entropy = accumulate(policy, whole, 1 << 20)
    assert (lines[0]["base/nll"], lines[0]["base/entropy"]) == pytest.approx((float(nll), float(entropy)))
    # a model that learns the rows by heart grows surer of them: it is never stopped for growing unsure
    assert folder.name == "step-000040"


def test_a_run_ended_by_entropy_is_not_resumed(checkpoint, tmp_path):
    config = replace(config_of(checkpoint, tmp_path, num_steps=40), max_entropy_rise=0.5)
    run = Run.start(config)
    run.log(0, {"base/nll": 1.0, "base/entropy": 0.1})  # as if the starting model had been sure
    shutil.rmtree(run.checkpoints)
    run_sft(config)
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["step"] == 40  # it is measured anew where nothing was saved
    text = run.metrics_file.read_text().splitlines()
    text[0] = json.dumps({"step": 0, "base/nll": 1.0, "base/entropy": 1e-9})
    run.metrics_file.write_text("\n".join(text) + "\n")
    assert entropy_too_high(run, config) and not entropy_too_high(run, replace(config, max_entropy_rise=None))
    longer = replace(config, train=replace(config.train, num_steps=60))
    assert run_sft(longer).name == "step-000040"


def test_it_learns_and_writes_a_hugging_face_folder(checkpoint, tmp_path, capsys):
    config = config_of(checkpoint, tmp_path, num_steps=60)
    template = "{# own #}" + AutoTokenizer.from_pretrained(checkpoint).chat_template
    (tmp_path / "own.jinja").write_text(template)
    data = replace(config.data, chat_template=str(tmp_path / "own.jinja"))
    folder = run_sft(replace(config, run=replace(config.run, save_every=0), data=data))
    assert "step 60/60 | entropy" in capsys.readouterr().err
    assert [path.name for path in folder.parent.iterdir()] == ["step-000060"]
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[0]["loss"] > 3
    assert lines[-1]["loss"] < 0.05
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == template
    for row in ROWS:
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        out = model.generate(**prompt, do_sample=False, max_new_tokens=12)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(out, skip_special_tokens=True) == row["completion"]
        assert out[-1] == tokenizer.eos_token_id


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_same_bits_twice_and_after_an_interruption(checkpoint, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    straight = config_of(checkpoint, tmp_path / "a")
    again = config_of(checkpoint, tmp_path / "b")
    again = replace(again, data=straight.data)
    first = run_sft(straight)
    stopped = run_sft(replace(again, train=replace(again.train, num_steps=2)))
    assert weights(stopped) != weights(first)
    resumed = run_sft(again)
    assert weights(resumed) == weights(first)
    a, b = (
        [json.loads(line) for line in (tmp_path / name / "run" / "metrics.jsonl").open()] for name in "ab"
    )
    assert [(line["step"], line["loss"]) for line in a] == [(line["step"], line["loss"]) for line in b]
    assert run_sft(again) == resumed  # nothing is left to do


def test_every_row_once_an_epoch_in_an_order_of_its_own(checkpoint, tmp_path):
    config = config_of(checkpoint, tmp_path)
    drawn = [index for step in range(9) for index in batch_indices(config, 6, step)]
    epochs = [drawn[start : start + 6] for start in range(0, 36, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = replace(config, run=replace(config.run, seed=8))
    assert drawn != [index for step in range(9) for index in batch_indices(other, 6, step)]
    # a batch larger than the file holds every row, some of them twice
    assert sorted(set(batch_indices(replace(config, batch_size=8), 6, 0))) == list(range(6))


def test_a_conversation_that_does_not_fit_is_refused(checkpoint, tmp_path):
    config = config_of(checkpoint, tmp_path)
    with open(config.data.path, "a") as file:
        file.write(json.dumps({"prompt": "1", "completion": "7" * 1100}) + "\n")
    with pytest.raises(ValueError, match=r"\[data\] path: expected conversations of at most 1024 tokens"):
        run_sft(config)
