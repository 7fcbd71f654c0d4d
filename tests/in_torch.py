"""The operators and backends of kvloom for tensors instead of arrays, sharing their memory: what tests speak."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kvloom.attend import cpu, reference
from kvloom.attend.plan import Plan
from kvloom.codec import BLOCK_TOKENS, Stream
from kvloom.memory.format import PageFormat
from kvloom.model import ops
from kvloom.model.weight import Weight


def _in_torch(operator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(operator)
    def call(*args: Any, **keywords: Any) -> Any:
        result = operator(*(x.numpy() if isinstance(x, torch.Tensor) else x for x in args), **keywords)
        return None if result is None else torch.from_numpy(result)

    return call


linear = _in_torch(ops.linear)
rms_norm = _in_torch(ops.rms_norm)
add_rms_norm = _in_torch(ops.add_rms_norm)
rope = _in_torch(ops.rope)
silu_mul = _in_torch(ops.silu_mul)
gelu_tanh_mul = _in_torch(ops.gelu_tanh_mul)


def dequantized(weight: Weight) -> torch.Tensor:
    return torch.from_numpy(weight.dequantize())


def stored(stream: Stream, x: torch.Tensor) -> torch.Tensor:
    """What vectors mean once they are stored, block by block."""
    x_SD = x.reshape(-1, x.shape[-1]).numpy()
    room = -len(x_SD) % BLOCK_TOKENS
    x_NSD = np.pad(x_SD, ((0, room), (0, 0))).reshape(-1, BLOCK_TOKENS, x_SD.shape[-1])
    found_NSD = stream.decode(stream.encode(x_NSD), x_SD.shape[-1])
    return torch.from_numpy(found_NSD.reshape(-1, x_SD.shape[-1])[: len(x_SD)]).reshape(x.shape)


def rounded_keys(fmt: PageFormat, keys: torch.Tensor) -> torch.Tensor:
    """What keys mean once a page holds them, float32."""
    return stored(fmt.numbers.keys, keys)


def rounded_values(fmt: PageFormat, values: torch.Tensor) -> torch.Tensor:
    """The same of values."""
    return stored(fmt.numbers.values, values)


def met_queries(fmt: PageFormat, queries: torch.Tensor) -> torch.Tensor:
    """Queries as they meet keys."""
    return torch.from_numpy(fmt.numbers.keys.met(queries.numpy()))


class CpuAttend(cpu.CpuAttend):
    """``write`` and ``attend`` for tensors."""

    def __init__(self, memory: torch.Tensor, threads: int, isa: str | None = None) -> None:
        super().__init__(memory.numpy(), threads, isa)

    def write(self, k_TKD: torch.Tensor, v_TKD: torch.Tensor, plan: Plan, layer: int) -> None:
        super().write(k_TKD.numpy(), v_TKD.numpy(), plan, layer)

    def attend(self, q_THD: torch.Tensor, plan: Plan, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        out_THD, lse_TH = super().attend(q_THD.numpy(), plan, layer)
        return torch.from_numpy(out_THD), torch.from_numpy(lse_TH)


class ReferenceAttend:
    """``attend.reference.ReferenceAttend`` for tensors."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._backend = reference.ReferenceAttend(memory.numpy())

    def write(self, k_TKD: torch.Tensor, v_TKD: torch.Tensor, plan: Plan, layer: int) -> None:
        self._backend.write(k_TKD.numpy(), v_TKD.numpy(), plan, layer)

    def attend(self, q_THD: torch.Tensor, plan: Plan, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        out_THD, lse_TH = self._backend.attend(q_THD.numpy(), plan, layer)
        return torch.from_numpy(out_THD), torch.from_numpy(lse_TH)


TensorAttend = CpuAttend | ReferenceAttend
