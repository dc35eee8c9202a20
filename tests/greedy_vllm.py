"""Greedy completions of token prompts from a plain vLLM, as its users run it.

python greedy_vllm.py PROMPTS.json FOLDER [FOLDER ...]; prints {folder: [[token, ...], ...]} as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",  # else small helpers are compiled, for longer than all the rest takes
}


def main(prompts: list[list[int]], folders: list[str]) -> dict[str, list[list[int]]]:
    from transformers import AutoConfig
    from vllm import LLM, ModelRegistry, SamplingParams

    for folder in folders:
        (name,) = AutoConfig.from_pretrained(folder).architectures
        # a class is looked at here; a name would be in a second process
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, detokenize=False)
    found, engines = {}, []  # one that ends would take the process groups of the others along
    for folder in folders:
        # which files it loads is vLLM's own choice; so would the type be, and that is bfloat16
        engine = LLM(
            folder, dtype="float32", enforce_eager=True, block_size=32, max_model_len=128,
            kv_cache_memory_bytes=8 << 20, enable_chunked_prefill=False,
        )  # fmt: skip
        engines.append(engine)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = engine.generate(asked, params, use_tqdm=False)
        found[folder] = [list(output.outputs[0].token_ids) for output in outputs]
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])))
