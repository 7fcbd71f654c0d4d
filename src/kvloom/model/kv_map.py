"""Which layer owns which KV, and what each layer group keeps.

Every layer names the layer whose KV it reads (``owner``): usually itself. Architectures that share KV across layers
(CLA, YOCO, Gemma 3n) name another, and nothing outside this file needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class LayerKv:
    """One layer's view of KV. ``window``: a row sees only the last ``window`` positions, itself included."""

    owner: int
    heads: int
    k_dim: int
    v_dim: int
    scale: float
    window: int | None = None


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Owning layers that keep the same span of positions in the same shape, and therefore share page tables."""

    name: str
    layers: tuple[int, ...]
    heads: int
    k_dim: int
    v_dim: int
    window: int | None


_Shape = tuple[int | None, int, int, int]
"""(window, heads, k_dim, v_dim)"""


def _group_name(shape: _Shape, windows: list[int | None]) -> str:
    """By window; by shape too where several groups have that window: names are unique."""
    window, heads, k_dim, v_dim = shape
    name = "full" if window is None else f"window{window}"
    return name if windows.count(window) == 1 else f"{name}-{heads}x{k_dim}+{v_dim}"


@dataclass(frozen=True)
class KvMap:
    """Per layer, in order. ``groups`` follows: full attention first, then windows from wide to narrow."""

    layers: tuple[LayerKv, ...]

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            owner = self.layers[layer.owner]
            assert owner.owner == layer.owner <= index, f"layer {index}: {layer.owner} does not own KV"
            assert owner.window == layer.window, f"layer {index} and its owner keep different windows"

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        shapes: dict[_Shape, list[int]] = {}
        for index, kv in enumerate(self.layers):
            if kv.owner == index:
                shapes.setdefault((kv.window, kv.heads, kv.k_dim, kv.v_dim), []).append(index)
        order = sorted(shapes, key=lambda shape: (shape[0] is not None, -(shape[0] or 0), shape[1:]))
        windows = [shape[0] for shape in order]
        return tuple(
            LayerGroup(_group_name(shape, windows), tuple(shapes[shape]), heads, k_dim, v_dim, window)
            for shape in order
            for window, heads, k_dim, v_dim in [shape]
        )

    def place(self, layer: int) -> tuple[int, int]:
        """(group index, slot of the owning layer inside the group) that ``layer`` reads."""
        owner = self.layers[layer].owner
        for index, group in enumerate(self.groups):
            if owner in group.layers:
                return index, group.layers.index(owner)
        raise AssertionError(f"layer {layer}: owner {owner} is in no group")
