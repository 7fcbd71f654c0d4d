"""attend on the CPU: binds a plan's arrays to the C++ kernels, which do the work.

A plan is looked at once, when its first layer runs; further calls of the same plan pass a handful of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.arrays import Bytes, Floats
from kvloom.attend.plan import DensePart, LayerPlan, Part, Plan, RaggedPart
from kvloom.errors import ConfigError, InternalError
from kvloom.kernels import choose_isa
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat

_NUMBERS = {"float32": 0, "float16": 1, "bfloat16": 2, "int16": 3}
"""Codec name -> enum class Number of attend.h."""

_NO_WINDOW = 2**31
"""Wider than any position is far."""

LANES = 16
"""Head dims must be multiples of this."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundPlan:
    """A plan and what the kernels know of it. Holding the plan keeps its arrays alive."""

    plan: Plan
    rows: _kernels.Rows
    parts: tuple[_kernels.Part, ...]
    schedules: dict[tuple[int, int, int], _kernels.Schedule]
    """By part, layer slot (0 when all layers read the same pages) and query heads: made when first asked for."""

    def schedule(self, index: int, slot: int, num_heads: int, threads: int) -> _kernels.Schedule:
        key = (index, slot if isinstance(self.plan.parts[index], RaggedPart) else 0, num_heads)
        if key not in self.schedules:
            self.schedules[key] = _kernels.make_schedule(self.rows, self.parts[index], key[1], num_heads, threads)
        return self.schedules[key]


class CpuAttend:
    """Keeps the contract of ``attend.base.Attend``.

    Parameters
    ----------
    memory:
        The arena's bytes: one contiguous uint8 tensor on the CPU, aligned to the arena's grain.
    threads:
        Cores to use at most. The answer does not depend on it.
    isa:
        One of ``kernels.isas()``; None takes the best (or KVLOOM_ISA). The answer does not depend on it.
    """

    def __init__(self, memory: Bytes, threads: int, isa: str | None = None) -> None:
        _check(memory, "memory", np.uint8, (memory.size,))
        if memory.ctypes.data % GRAIN_BYTES:
            raise InternalError(f"the arena must start at a multiple of {GRAIN_BYTES} bytes")
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.memory = memory
        self.threads = threads
        self.isa = choose_isa(isa)
        self._address, self._bytes = memory.ctypes.data, memory.nbytes
        self._last: BoundPlan | None = None
        self._seen: tuple[tuple[LayerPlan, ...], list[PageFormat]] = (), []
        self._kinds: dict[tuple[PageFormat, int | None, int, bool], _kernels.PartKind] = {}

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        """See ``Attend.write``."""
        target = plan.layers[layer].writes
        if target is None:
            raise InternalError(f"layer {layer} does not own KV")
        index, slot = target
        fmt = plan.parts[index].format
        _check(k_TKD, "k_TKD", np.float32, (plan.num_rows, fmt.heads, fmt.k_dim))
        _check(v_TKD, "v_TKD", np.float32, (plan.num_rows, fmt.heads, fmt.v_dim))
        bound = self.bind(plan)
        keys, values = k_TKD.ctypes.data, v_TKD.ctypes.data
        _kernels.write(bound.rows, bound.parts[index], slot, keys, values, self.threads, self.isa)

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        """See ``Attend.attend``."""
        layer_plan = plan.layers[layer]
        num_rows, num_heads, _ = q_THD.shape
        v_dim = plan.parts[layer_plan.reads[0][0]].format.v_dim
        out_THD = np.empty((num_rows, num_heads, v_dim), np.float32)
        lse_TH = np.empty((num_rows, num_heads), np.float32)
        bound = self.bind(plan)
        for order, (index, slot) in enumerate(layer_plan.reads):
            part = plan.parts[index]
            _check(q_THD, "q_THD", np.float32, (plan.num_rows, num_heads, part.format.k_dim))
            if num_heads % _heads(part) or part.format.v_dim != v_dim:
                raise InternalError(f"layer {layer}: {num_heads} query heads do not fit {part.format}")
            _kernels.attend(
                bound.rows,
                bound.parts[index],
                bound.schedule(index, slot, num_heads, self.threads),
                slot,
                layer_plan.scale,
                q_THD.ctypes.data,
                out_THD.ctypes.data,
                lse_TH.ctypes.data,
                order > 0,
                self.threads,
                self.isa,
            )
        return out_THD, lse_TH

    def kv_bytes(self, plan: Plan, layer: int, num_heads: int) -> int:
        """Bytes of keys and values that ``attend`` reads for ``layer``, given its number of query heads.

        Pages that several sequences share count once where their rows are served together.
        """
        bound = self.bind(plan)
        reads = plan.layers[layer].reads
        return sum(bound.schedule(index, slot, num_heads, self.threads).kv_bytes for index, slot in reads)

    def bind(self, plan: Plan) -> BoundPlan:
        """What the kernels know of ``plan``, for callers who run them without Python in between."""
        if self._last is None or self._last.plan is not plan:
            self._check_slots(plan)
            try:
                rows = _kernels.bind_rows(plan.positions_T, plan.seq_rows_B1)
                parts = tuple(self._bind_part(rows, part) for part in plan.parts)
            except ConfigError:
                raise
            except (TypeError, ValueError) as error:
                raise InternalError(f"the plan is broken: {error}") from None
            self._last = BoundPlan(plan, rows, parts, {})
        return self._last

    def _bind_part(self, rows: _kernels.Rows, part: Part) -> _kernels.Part:
        kind = self._kind(part)
        if isinstance(part, RaggedPart):
            return _kernels.bind_part(rows, kind, part.page_ids_P, part.page_counts_P, part.cell_pages_C1)
        read = part.page_ids_P, part.page_starts_P, part.seq_pages_B1
        return _kernels.bind_written_part(rows, kind, *read, part.row_pages_T, part.row_slots_T)

    def _kind(self, part: Part) -> _kernels.PartKind:
        """What the kernels know of a page format: an engine has one or two, for all of its plans."""
        fmt, ragged = part.format, isinstance(part, RaggedPart)
        key = fmt, part.window, _heads(part), ragged
        known = self._kinds.get(key)
        if known is not None:
            return known
        if fmt.k_dim % LANES or fmt.v_dim % LANES:
            raise ConfigError(f"head dims must be multiples of {LANES}, got {fmt.k_dim} and {fmt.v_dim}")
        made = _kernels.part_kind(
            memory=self._address,
            memory_bytes=self._bytes,
            number=_NUMBERS[fmt.codec],
            ragged=ragged,
            heads=_heads(part),
            k_dim=fmt.k_dim,
            v_dim=fmt.v_dim,
            window=_NO_WINDOW if part.window is None else part.window,
            cell_bytes=fmt.cell_bytes,
            page_bytes=fmt.page_bytes,
        )
        self._kinds[key] = made
        return made

    def _check_slots(self, plan: Plan) -> None:
        """Once for all plans of an engine: their layers and page formats are the same."""
        seen = plan.layers, [part.format for part in plan.parts if isinstance(part, DensePart)]
        if len(seen[1]) < len(plan.parts) or seen != self._seen:
            _check_slots(plan)
            self._seen = seen


def _heads(part: Part) -> int:
    return part.heads if isinstance(part, RaggedPart) else part.format.heads


def _check_slots(plan: Plan) -> None:
    for number, layer in enumerate(plan.layers):
        for index, slot in (*layer.reads, *([layer.writes] if layer.writes else [])):
            part = plan.parts[index]
            slots = len(part.format.layers)
            if isinstance(part, RaggedPart):
                slots = (part.cell_pages_C1.size - 1) // max(1, plan.num_seqs * part.heads)
            if not 0 <= slot < slots:
                raise InternalError(f"layer {number}: slot {slot} of part {index}, which has {slots}")
        if layer.writes is not None and not isinstance(plan.parts[layer.writes[0]], DensePart):
            raise InternalError(f"layer {number} writes to a part that is read only")


def _check(array: npt.NDArray[Any], name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    if array.dtype == dtype and array.shape == shape and array.flags.c_contiguous:
        return
    raise InternalError(
        f"{name} must be contiguous {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}, "
        f"strides {array.strides}"
    )
