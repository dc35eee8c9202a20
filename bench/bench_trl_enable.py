"""Time one update of TRL's GRPOTrainer unchanged, with enable(), and of FastGRPOTrainer, on the same batch.

    python -m bench.bench_trl_enable

The batch is 2 groups of 8 random completions of ragged length for a random Qwen3; with the mask "realistic"
the rewards of one group are equal. Time is that of loss and backward of the whole batch; variants take turns.
Peak memory is that of one such update in a fresh process, gradients included. The last line is JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from bench.harness import ROOT, compare, finish
from bench.memory import extra_bytes_cpu, extra_bytes_cuda
from fastrl.integrations.trl import FastGRPOTrainer, enable

GROUPS, GROUP = 2, 8
ON_GPU = torch.cuda.is_available()
VARIANTS = ("trl", "trl_enabled", "fast")
SIZES = ("prompt", "longest", "vocab", "width", "layers")


def batch(prompt: int, longest: int, vocab: int, mask: str) -> dict[str, torch.Tensor]:
    """Return a batch as TRL passes it to the loss; with the mask realistic group 0 has zero advantages."""
    torch.manual_seed(0)
    rows = GROUPS * GROUP
    lengths = torch.randint(longest // 4, longest + 1, (rows,))
    completed = (torch.arange(longest) < lengths[:, None]).long()
    advantages = torch.randn(GROUPS, GROUP)
    advantages -= advantages.mean(1, keepdim=True)
    if mask == "realistic":
        advantages[0] = 0
    made = {
        "prompt_ids": torch.randint(3, vocab, (GROUPS, prompt)).repeat_interleave(GROUP, 0),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": torch.randint(3, vocab, (rows, longest)) * completed,
        "completion_mask": completed,
        "advantages": advantages.flatten(),
        "num_items_in_batch": completed.sum(),
    }
    return {name: value.to("cuda" if ON_GPU else "cpu") for name, value in made.items()}


def trainer(kind: type[GRPOTrainer], folder: str, vocab: int, width: int, layers: int) -> GRPOTrainer:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=width // 4, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    made = kind(
        Qwen3ForCausalLM(config),
        lambda completions, **kwargs: [0.0] * len(completions),
        GRPOConfig(
            output_dir=folder, use_cpu=not ON_GPU, bf16=ON_GPU, report_to=[], gradient_checkpointing=False,
            per_device_train_batch_size=GROUPS * GROUP, num_generations=GROUP, disable_tqdm=True,
        ),
        Dataset.from_dict({"prompt": ["a"] * 4}),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        ),
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def update(variant: str, made: GRPOTrainer, inputs: dict[str, torch.Tensor]) -> float:
    """Compute loss and gradients, and keep the gradients."""
    made.model.zero_grad()
    with enable() if variant == "trl_enabled" else nullcontext():
        loss = made._compute_loss(made.model, inputs)
        loss.backward()
    return float(loss)


def updates(
    options: argparse.Namespace, folder: str, inputs: Any, names: Any
) -> dict[str, Callable[[], float]]:
    def variant_update(variant: str) -> Callable[[], float]:
        kind = FastGRPOTrainer if variant == "fast" else GRPOTrainer
        made = trainer(kind, folder, options.vocab, options.width, options.layers)
        return lambda: update(variant, made, inputs)

    return {name: variant_update(name) for name in names}


def extra_bytes(run: Callable[[], float], warm_up: Callable[[], float]) -> int:
    def call() -> tuple[torch.Tensor, ...]:
        run()
        return ()

    warm_up()
    return extra_bytes_cuda(call) if ON_GPU else extra_bytes_cpu(call)


def fresh_process_bytes(options: argparse.Namespace, mask: str, variant: str) -> int:
    flags = [part for name in (*SIZES, "threads") for part in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, "-m", "bench.bench_trl_enable", *flags, "--memory-of", variant, "--mask", mask]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=64, help="tokens per prompt")
    parser.add_argument("--longest", type=int, default=64, help="maximum tokens per completion")
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--memory-of", choices=VARIANTS, help="only print the bytes of one update of this variant"
    )
    parser.add_argument("--mask", choices=("dense", "realistic"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.memory_of:
            inputs = batch(options.prompt, options.longest, options.vocab, options.mask)
            few = batch(2, 4, options.vocab, options.mask)
            (run,) = updates(options, folder, inputs, [options.memory_of]).values()
            (warm_up,) = updates(options, folder, few, [options.memory_of]).values()
            print(extra_bytes(run, warm_up))
            return
        for mask in ("dense", "realistic"):
            inputs = batch(options.prompt, options.longest, options.vocab, mask)
            runs = updates(options, folder, inputs, VARIANTS)
            losses = {name: run() for name, run in runs.items()}
            times = compare(runs, options.rounds, "cuda" if ON_GPU else "cpu", warm_ups=0)
            for name, row in times.items():
                extra = fresh_process_bytes(options, mask, name)
                print(f"{mask:10s} {name:12s} {row['median_ms']:9.1f} ms  {extra / 2**20:8.0f} MiB")
                more = {"mask": mask, "variant": name, "loss": losses[name], "extra_bytes": extra}
                results.append({**more, **row})
    sizes = {name: getattr(options, name) for name in SIZES}
    finish("trl_enable", [sizes | result for result in results], options.out)


if __name__ == "__main__":
    main()
