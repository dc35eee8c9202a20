"""lm-eval on an exported checkpoint gives fastrl eval's number, greedily on a local file."""

from __future__ import annotations

import pytest
import torch
from jsonl import write_jsonl

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
from checkpoints import byte_tokenizer
from transformers import AutoModelForCausalLM

from fastrl.cli.eval import EvalOptions, run_eval
from fastrl.config import AnswerConfig, DataConfig, ModelConfig
from fastrl.grading import extract_answer, normalize_answer
from fastrl.policy.model import Policy

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """A tiny model that has learnt half of the answers, as a run saves it."""
    folder = tmp_path_factory.mktemp("exported")
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), torch.device("cpu"))
    tokenizer, model = byte_tokenizer(), policy.model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.set_attn_implementation("sdpa")
    texts = [f"<user>{n}+1?<assistant>\\boxed{{{n + 1 if n % 2 else 0}}}<eos>" for n in range(8)]
    rows = [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in texts]
    for _ in range(60):
        optimizer.zero_grad()
        sum(model(input_ids=row, labels=row).loss for row in rows).backward()
        optimizer.step()
    policy.save(folder)
    return folder


def test_the_same_number(exported, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask

    data = tmp_path / "test.jsonl"
    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(8)]
    write_jsonl(data, rows)
    ours = run_eval(
        str(exported),
        EvalOptions(
            data=DataConfig(path=str(data)), num_samples=1, temperature=0.0, max_new_tokens=NEW_TOKENS,
            device="cpu", dtype="float32", answer=AnswerConfig(workers=1),
        ),
    )  # fmt: skip

    def right(doc, results):
        stated = extract_answer(results[0])
        return {"acc": float(stated is not None and normalize_answer(stated) == doc["answer"])}

    task = ConfigurableTask(
        config={
            "task": "sums",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "process_results": right,
            "generation_kwargs": {"until": ["<eos>"], "do_sample": False, "max_gen_toks": NEW_TOKENS},
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    )
    arguments = {"pretrained": str(exported), "dtype": "float32"}
    theirs = simple_evaluate(
        model="hf", model_args=arguments, tasks=[task], apply_chat_template=True, batch_size=1,
        bootstrap_iters=0, device="cpu",
    )  # fmt: skip
    accuracy = theirs["results"]["sums"]["acc,none"]
    assert accuracy == pytest.approx(ours["metrics"]["avg@1"])
    assert 0 < accuracy < 1, "both could say anything of a model that knows all or nothing"
    assert AutoModelForCausalLM.from_pretrained(exported).config.model_type == "qwen3"
