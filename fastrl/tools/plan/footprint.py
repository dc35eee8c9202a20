"""Memory of a model, computed from its configuration with fake tensors that have shapes but no memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from fastrl.check.model import check_reachable
from fastrl.config import AdapterConfig, CheckpointConfig, refuse
from fastrl.policy.lora import layers_to_adapt
from fastrl.policy.model import without_dropout
from fastrl.policy.shard import decoder_layers
from fastrl.policy.source import model_source

OUTLINE = "fastrl_outline"


class Footprint:
    """Bytes of a model's weights, optimizer states, KV cache and activations; reads only its config.json.

    Args:
        section: the model's section in the configuration, for errors.
    Raises: ValueError, FileNotFoundError: there is no such model.
    """

    def __init__(self, section: str, model: CheckpointConfig) -> None:
        self.model, self.config = model, read_config(section, model)
        self._peaks: dict[tuple[int, torch.dtype, bool, bool], int | None] = {}
        self._mode = FakeTensorMode()
        with self._mode:
            self._outline = self._make()
        self.shapes = [tuple(parameter.shape) for parameter in self._outline.parameters()]
        """Shapes of all parameters; tied ones count once."""
        self.sizes = [prod(shape) for shape in self.shapes]

    @property
    def num_parameters(self) -> int:
        return sum(self.sizes)

    @property
    def vocab(self) -> int:
        return int(self._outline.get_output_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self._outline.get_output_embeddings().weight.shape[1])

    def weights(self, dtype: torch.dtype) -> int:
        return self.num_parameters * dtype.itemsize

    @property
    def backbone_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all parameters without the language head, unless it is tied to the embedding."""
        return [tuple(parameter.shape) for parameter in self._outline.base_model.parameters()]

    def backbone(self, dtype: torch.dtype) -> int:
        """Return the bytes of the weights without the language head, unless it is tied to the embedding."""
        return sum(map(prod, self.backbone_shapes)) * dtype.itemsize

    @property
    def layers(self) -> list[int]:
        """Numbers of parameters of the layers that FSDP2 gathers as units."""
        return [sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(self._outline)]

    def trained(self, lora: AdapterConfig) -> list[int]:
        """Return the sizes of the trained tensors."""
        return [prod(shape) for shape in self.trained_shapes(lora)]

    def trained_shapes(self, lora: AdapterConfig) -> list[tuple[int, ...]]:
        """Return the shapes of all parameters, or of A and B of every adapted layer."""
        if not lora.rank:
            return self.shapes
        found: list[tuple[int, ...]] = []
        for layer in layers_to_adapt(self._outline, lora.target_modules).values():
            out, width = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1]
            found += [(lora.rank, width), (out, lora.rank)]
        return found

    def adam(self, lora: AdapterConfig | None = None) -> int:
        """Return the bytes of AdamW's states: two float32 moments per weight, a float32 step per tensor."""
        sizes = self.trained(lora or AdapterConfig())
        return 8 * sum(sizes) + 4 * len(sizes)

    def kv_per_token(self, dtype: torch.dtype) -> int:
        """Return 2 (keys, values) x layers x key-value heads x head size x itemsize."""
        text = self.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(2 * text.num_hidden_layers * heads * size * dtype.itemsize)

    def activations(
        self, num_tokens: int, dtype: torch.dtype, checkpointing: bool, sharded: bool = False
    ) -> int | None:
        """Return the peak bytes of a forward and backward pass, without weights and gradients.

        Both passes run on fake tensors. Attention keeps query, key, value, output and one float32 per row and
        head, as fused kernels do. With bfloat16 the cast weights count, unless the model is sharded: then
        layers are gathered in bfloat16.

        Returns: None if shapes depend on values, as in a mixture of experts.
        """
        key = num_tokens, dtype, checkpointing, sharded
        if key not in self._peaks:
            self._peaks[key] = self._peak(*key)
        return self._peaks[key]

    def _peak(self, num_tokens: int, dtype: torch.dtype, checkpointing: bool, sharded: bool) -> int | None:
        with self._mode:
            model = self._make(dtype) if sharded and dtype != torch.float32 else self._outline
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        else:
            model.gradient_checkpointing_disable()
        with self._mode:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            ids = torch.zeros(1, num_tokens, dtype=torch.long)
            known = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers(), ids]
            try:
                with LiveBytes(known) as live:
                    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32 and not sharded):
                        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                    hidden.backward(torch.empty_like(hidden))
            except (DataDependentOutputException, DynamicOutputShapeException):
                return None
        return int(live.most)

    def _make(self, dtype: torch.dtype = torch.float32) -> Any:
        make: Any = AutoModelForCausalLM.from_config
        model = make(
            self.config,
            dtype=dtype,
            attn_implementation=OUTLINE,
            experts_implementation="eager",  # the others read values, which fake tensors don't have
            trust_remote_code=self.model.trust_remote_code,
        )
        without_dropout(model)
        return model.train()


def read_config(section: str, model: CheckpointConfig) -> Any:
    if not model.path:
        refuse(section, "path", "a model folder or hub name", "")
    source = model_source(model.path, section)
    if not Path(source).is_dir():
        check_reachable(section, source)
    elif not (Path(source) / "config.json").is_file():
        refuse(section, "path", "a folder with config.json", model.path)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"[{section}] path: expected a model folder or hub name, got {model.path!r}: {error}"
        ) from error


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors created in the block, until they are freed.

    Args:
        known: existing tensors, not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        weakref.finalize(storage, self._gone, size)
        self.now += size
        self.most = max(self.most, self.now)

    def _gone(self, size: int) -> None:
        self.now -= size


class _Kept(torch.autograd.Function):
    """Attention that computes nothing, but saves the tensors that a fused kernel saves for backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Kept.apply(query.to(value.dtype), key.to(value.dtype), value)  # type: ignore[no-untyped-call]
    return out, None


# no mask function is registered for this name, so that transformers builds no mask
AttentionInterface.register(OUTLINE, _attend)
