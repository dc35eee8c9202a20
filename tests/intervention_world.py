"""Seven problems and a tiny model that knows them by heart: wrong attempts, checks, continuations."""

import json
from pathlib import Path

from jsonl import write_jsonl

from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    HardSetConfig,
    InterveneConfig,
    ModelConfig,
    ProposalConfig,
    RunConfig,
    SamplingConfig,
    SftConfig,
    StepsConfig,
    TrainConfig,
)
from fastrl.stages.sft import run_sft
from fastrl.tiny.world.models import Shape, initialise

SHAPE = Shape(family="qwen3", hidden=64, layers=2, heads=4, kv_heads=4, head_dim=16, intermediate=128)
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=48)
# question: gold answer, attempt, reference, (location, content) of its check, how it goes on from that
PROBLEMS = {
    "2+3+4": ("9", "2+3=6\n6+4=0\n\\boxed{0}", "2+3=5\n5+4=9", (1, "2+3=5"), "\n5+4=9\n\\boxed{9}"),
    "4+4": ("8", "4+4=8\n\\boxed{8}", "4+4=8 in one step", None, None),
    "1+6+2+5": (
        "4", "1+6=7\n7+2=8\n8+5=3\n\\boxed{3}", "1+6=7\n7+2=9\n9+5=4", (2, "7+2=9"), "\n9+5=4\n\\boxed{4}"
    ),
    "8+3": ("1", "8+3=2\n\\boxed{2}", "8+3=11, so 1", (1, "8+3=1"), "\n\\boxed{1}"),
    "9+9": ("8", "9+9=7\n\\boxed{7}", "", None, None),
    "3+3+1": ("7", "3+3=7\n7+1=8\n\\boxed{8}", "3+3=6\n6+1=7", (9, "3+3=6"), None),
    "5+2+2": ("9", "5+2=8\n8+2=0\n\\boxed{0}", "5+2=7\n7+2=9", (1, "5+2=6"), "\n6+2=8\n\\boxed{8}"),
}  # fmt: skip
CHECKED = [question for question, row in PROBLEMS.items() if row[3] is not None]
TERSE = ProposalConfig(
    form="short",
    verify_template="{question};{reference};{steps}",
    step_template="{number}:{step}",
    between_steps=" ",
    num_samples=2,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    verify_tokens=48,
)


def write_rows(path: Path, rows) -> str:
    write_jsonl(path, rows)
    return str(path)


def problem_rows():
    return [
        {"prompt": question, "answer": gold, "reference": reference}
        for question, (gold, _, reference, _, _) in PROBLEMS.items()
    ]


def lessons():
    """Conversations that say what the model does."""
    for question, (_, attempt, reference, check, onward) in PROBLEMS.items():
        yield {"prompt": question, "completion": attempt}
        if check is None:
            continue
        steps = " ".join(f"{number}:{step}" for number, step in enumerate(attempt.split("\n"), 1))
        answer = json.dumps({"location": check[0], "content": check[1]})
        yield {"prompt": f"{question};{reference};{steps}", "completion": answer}
        if onward is not None:
            before = "".join(f"{step}\n" for step in attempt.split("\n")[: check[0] - 1])
            begun = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": before + check[1]},
            ]
            yield {"prompt": begun, "completion": onward}


def learned_model(folder: Path) -> Path:
    config = SftConfig(
        run=RunConfig(dir=str(folder / "sft"), device="cpu", save_every=0),
        model=ModelConfig(path=str(initialise(SHAPE, folder / "start", seed=0))),
        data=DataConfig(path=write_rows(folder / "lessons.jsonl", lessons())),
        train=TrainConfig(num_steps=120, learning_rate=4e-3, lr_scheduler_type="cosine", warmup_steps=10),
        batch_size=17,
    )
    return run_sft(config)


def hard_set_config(model: Path, folder: Path, **options) -> HardSetConfig:
    return HardSetConfig(
        run=RunConfig(dir=str(folder / "hard"), seed=3, device="cpu"),
        model=CheckpointConfig(path=str(model)),
        data=DataConfig(path=write_rows(folder / "problems.jsonl", problem_rows())),
        engine=EngineConfig(max_batch_tokens=4096),
        num_samples=4,
        sampling=GREEDY,
        chunk_size=2,
        **options,
    )


def intervene_config(model: Path, folder: Path, hard: Path, **options) -> InterveneConfig:
    options = {"filter": "gain", "select": "best", "proposal": TERSE, **options}
    return InterveneConfig(
        run=RunConfig(dir=str(folder / "intervene"), seed=3, device="cpu"),
        model=CheckpointConfig(path=str(model)),
        data=DataConfig(path=str(hard)),
        engine=EngineConfig(max_batch_tokens=4096),
        steps=StepsConfig(min_chars=1, min_steps=2),
        num_continuations=4,
        continuation=GREEDY,
        chunk_size=2,
        **options,
    )
