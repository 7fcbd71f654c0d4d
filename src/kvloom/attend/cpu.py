"""attend on the CPU: binds a plan's arrays to the C++ kernels, which do the work.

A plan is bound once, when its first layer runs; further calls with the same plan pass a handful of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom import _kernels
from kvloom.arrays import Bytes, Floats
from kvloom.attend.observe import Asked, Reduce, Tally
from kvloom.attend.plan import ByHead, Contiguous, Group, LayerPlan, Part, Plan
from kvloom.errors import ConfigError, InternalError
from kvloom.kernels import choose_isa
from kvloom.memory.arena import GRAIN_BYTES
from kvloom.memory.format import PageFormat

_REDUCTIONS = {Reduce.SUM: 0, Reduce.MAX: 1}
"""As ``enum class Reduce`` of attend.h."""

_NO_WINDOW = 2**31
"""Wider than any context."""

LANES = 16
"""Head dims must be multiples of this."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundPlan:
    """A plan and its description for the kernels. Holding the plan keeps its arrays alive."""

    plan: Plan
    rows: _kernels.Rows
    groups: tuple[_kernels.Group, ...]
    work_plans: dict[tuple[int, int, int, int], _kernels.WorkPlan]
    """By group, read, layer slot (0 when one serves all layers) and query heads: made when first asked for."""

    def work_plan(self, group: int, read: int, slot: int, num_heads: int, threads: int) -> _kernels.WorkPlan:
        bound = self.groups[group]
        key = (group, read, _kernels.work_plan_slot(bound, read, slot), num_heads)
        if key not in self.work_plans:
            self.work_plans[key] = _kernels.make_work_plan(self.rows, bound, read, key[2], num_heads, threads)
        return self.work_plans[key]


@dataclass(frozen=True, slots=True, eq=False)
class BoundObserver:
    """The probes of a step and their description for the kernels. Holding the probes keeps their arrays alive."""

    asked: Sequence[Asked]
    kernel: _kernels.Observer


class CpuAttend:
    """Implements ``attend.base.Attend``.

    Parameters
    ----------
    memory:
        The arena's bytes: one contiguous uint8 tensor on the CPU, aligned to the arena's grain.
    threads:
        Maximum number of cores to use. Results do not depend on it.
    isa:
        One of ``kernels.isas()``; None takes the best (or KVLOOM_ISA). Results do not depend on it.
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
        self._observer: BoundObserver | None = None
        self._seen: tuple[tuple[LayerPlan, ...], list[list[int]]] = (), []
        self._kinds: dict[tuple[object, ...], _kernels.PageKind] = {}

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        """See ``Attend.write``."""
        layer_plan = plan.layers[layer]
        if not layer_plan.owns:
            raise InternalError(f"layer {layer} does not own KV")
        for writes in plan.groups[layer_plan.group].writes:
            fmt = writes.format
            _check(k_TKD, "k_TKD", np.float32, (plan.num_rows, fmt.heads, fmt.k_dim))
            _check(v_TKD, "v_TKD", np.float32, (plan.num_rows, fmt.heads, fmt.v_dim))
        group = self.bind(plan).groups[layer_plan.group]
        keys, values = k_TKD.ctypes.data, v_TKD.ctypes.data
        _kernels.write(group, layer_plan.slot, plan.num_rows, keys, values, self.threads, self.isa)

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        """See ``Attend.attend``."""
        layer_plan, bound = plan.layers[layer], self.bind(plan)
        parts = plan.groups[layer_plan.group].parts
        num_rows, num_heads, _ = q_THD.shape
        v_dim = parts[0].format.v_dim
        out_THD = np.empty((num_rows, num_heads, v_dim), np.float32)
        lse_TH = np.empty((num_rows, num_heads), np.float32)
        for part in parts:
            _check(q_THD, "q_THD", np.float32, (plan.num_rows, num_heads, part.format.k_dim))
            if num_heads % part.heads or part.format.v_dim != v_dim:
                raise InternalError(f"layer {layer}: {num_heads} query heads do not fit {part.format}")
        for index in range(bound.groups[layer_plan.group].reads):
            _kernels.attend(
                bound.rows,
                bound.groups[layer_plan.group],
                index,
                bound.work_plan(layer_plan.group, index, layer_plan.slot, num_heads, self.threads),
                layer_plan.slot,
                layer_plan.scale,
                q_THD.ctypes.data,
                out_THD.ctypes.data,
                lse_TH.ctypes.data,
                index > 0,
                self.threads,
                self.isa,
            )
        return out_THD, lse_TH

    def observe(self, q_THD: Floats, lse_TH: Floats, plan: Plan, layer: int, asked: Sequence[Asked]) -> None:
        """See ``Attend.observe``."""
        layer_plan, bound = plan.layers[layer], self.bind(plan)
        num_heads = q_THD.shape[1]
        _check(q_THD, "q_THD", np.float32, (plan.num_rows, num_heads, q_THD.shape[2]))
        _check(lse_TH, "lse_TH", np.float32, (plan.num_rows, num_heads))
        if self._observer is None or self._observer.asked is not asked:
            self._observer = self.bind_observer(plan, asked)
        try:
            _kernels.observe(
                self._observer.kernel,
                bound.rows,
                bound.groups[layer_plan.group],
                layer,
                layer_plan.slot,
                layer_plan.scale,
                num_heads,
                q_THD.ctypes.data,
                lse_TH.ctypes.data,
                self.threads,
                self.isa,
            )
        except ValueError as error:
            raise InternalError(f"probes do not match layer {layer}: {error}") from None

    def bind_observer(self, plan: Plan, asked: Sequence[Asked]) -> BoundObserver:
        """The kernels' description of a step's probes, for callers that run them without Python in between."""
        observer, rows = _kernels.Observer(), self.bind(plan).rows
        for one in asked:
            probe = one.probe
            if isinstance(probe, Tally):
                observer.add_tally(
                    rows,
                    one.sequence,
                    one.rows_R,
                    probe.layers,
                    _REDUCTIONS[probe.observation.reduce],
                    probe.observation.columns.start,
                    probe.running_LNS,
                    probe.counted_L,
                )
            else:
                observer.add_record(rows, one.sequence, one.rows_R, probe.layers, one.places_R, probe.queries_LRHD)
        return BoundObserver(asked, observer)

    def kv_bytes(self, plan: Plan, layer: int, num_heads: int) -> int:
        """Bytes of keys and values that ``attend`` reads for ``layer``, given its number of query heads.

        Pages that several sequences share count once where their rows are served together.
        """
        bound, place = self.bind(plan), plan.layers[layer]
        reads = range(bound.groups[place.group].reads)
        return sum(bound.work_plan(place.group, n, place.slot, num_heads, self.threads).kv_bytes for n in reads)

    def bind(self, plan: Plan) -> BoundPlan:
        """The kernels' description of ``plan``, for callers that run them without Python in between."""
        if self._last is None or self._last.plan is not plan:
            self._check_slots(plan)
            try:
                rows = _kernels.bind_rows(plan.positions_T, plan.seq_rows_B1)
                groups = tuple([self._bind_group(rows, group) for group in plan.groups])
            except (TypeError, ValueError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise InternalError(f"the plan is broken: {error}") from None
            self._last = BoundPlan(plan, rows, groups, {})
        return self._last

    def _bind_group(self, rows: _kernels.Rows, group: Group) -> _kernels.Group:
        turned, rotations = group.rotations, None
        if turned is not None:
            rotations = _kernels.bind_rotations(turned.shifts_U, turned.cos_UR, turned.sin_UR)
        parts = [self._bind_part(rows, part, group.window, rotations) for part in group.parts]
        writes = []
        for one in group.writes:
            kind = self._kind(one.format, None, group.window)
            writes.append(_kernels.bind_writes(rows, kind, one.row_pages_T, one.row_slots_T))
        seams = [(seam.lists, seam.table, seam.stops_B) for seam in group.seams]
        return _kernels.bind_group(rows, parts, writes, seams)

    def _bind_part(
        self, rows: _kernels.Rows, part: Part, window: int | None, rotations: _kernels.Rotations | None
    ) -> _kernels.Part:
        lists = part.lists
        kind = self._kind(part.format, (lists.slots, lists.heads) if isinstance(lists, ByHead) else None, window)
        starts_P = part.entries.starts_P if isinstance(part.entries, Contiguous) else None
        return _kernels.bind_part(
            rows, kind, part.page_ids_P, lists.bounds_L1, starts_P, part.masks_P, part.turns_L, rotations
        )

    def _kind(self, fmt: PageFormat, by_head: tuple[int, int] | None, window: int | None) -> _kernels.PageKind:
        """The kernels' description of a page format and its readers: an engine has one or two, for all of its plans."""
        key = fmt, by_head, window
        known = self._kinds.get(key)
        if known is not None:
            return known
        if fmt.k_dim % LANES or fmt.v_dim % LANES:
            raise ConfigError(f"head dims must be multiples of {LANES}, got {fmt.k_dim} and {fmt.v_dim}")
        shape = len(fmt.layers), fmt.heads
        slots, heads = by_head or shape
        if ((slots, heads) != shape and fmt.layers) or (not fmt.layers and by_head is None):
            raise InternalError(f"{slots} layers of {heads} heads do not read {fmt}")
        made = _kernels.page_kind(
            memory=self._address,
            memory_bytes=self._bytes,
            codec=fmt.codec,
            lists=0 if by_head is None else 1,
            entries=1 if fmt.labelled else 0,
            slots=slots,
            heads=heads,
            k_dim=fmt.k_dim,
            v_dim=fmt.v_dim,
            k_bytes=fmt.k_bytes,
            v_bytes=fmt.v_bytes,
            window=_NO_WINDOW if window is None else window,
            slot_bytes=fmt.cell_offset(1, 0),
            head_bytes=fmt.cell_offset(0, 1),
            page_bytes=fmt.page_bytes,
        )
        self._kinds[key] = made
        return made

    def _check_slots(self, plan: Plan) -> None:
        """Once for all plans of an engine: their layers and the slots of their parts are the same."""
        slots = [_slots(group) for group in plan.groups]
        if (plan.layers, slots) == self._seen:
            return
        for number, layer in enumerate(plan.layers):
            if not (0 <= layer.group < len(slots) and 0 <= layer.slot < min(slots[layer.group])):
                raise InternalError(f"layer {number}: slot {layer.slot} of group {layer.group}, of {slots} slots")
            if layer.owns and not plan.groups[layer.group].writes:
                raise InternalError(f"layer {number} has no place for its own KV")
        self._seen = plan.layers, slots


def _slots(group: Group) -> list[int]:
    """How many layer slots each part, and each write target, has."""
    return [part.slots for part in group.parts] + [len(one.format.layers) for one in group.writes]


def _check(array: npt.NDArray[Any], name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    if array.dtype == dtype and array.shape == shape and array.flags.c_contiguous:
        return
    raise InternalError(
        f"{name} must be contiguous {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}, "
        f"strides {array.strides}"
    )
