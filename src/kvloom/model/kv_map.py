"""Which layer owns which KV, and what each layer group keeps.

Every layer names the layer whose KV it reads (``owner``): usually itself. Architectures that share KV across layers
(CLA, YOCO, Gemma 3n) name another, and nothing outside this file needs to know.

Layers may be cut into bands, each with layer groups of its own, so that the KV of a band can lie elsewhere, or not be
there yet, while that of another is computed. LayerKV (arXiv 2410.00428) interleaves the layers that stay on the device
with those that leave it, so that a decoding step hides the way back of one layer behind the computation of the one
before. No step of this engine reads KV from a tier, so nothing is to be hidden there; but a prompt goes through the
layers in order, and a page of layers that are far apart would be complete only after the last of them, when all KV of
the prompt is there at once. So a band is a contiguous range: it is complete, and can leave, before the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from kvloom.errors import ConfigError


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
    """Owning layers of a band that keep the same span of positions in the same shape, and so share page tables."""

    name: str
    layers: tuple[int, ...]
    heads: int
    k_dim: int
    v_dim: int
    window: int | None


_Shape = tuple[int | None, int, int, int]
"""(window, heads, k_dim, v_dim)"""


def _group_name(shape: _Shape, windows: list[int | None]) -> str:
    """By window; by shape too where several shapes have that window: names are unique in a band."""
    window, heads, k_dim, v_dim = shape
    name = "full" if window is None else f"window{window}"
    return name if windows.count(window) == 1 else f"{name}-{heads}x{k_dim}+{v_dim}"


@dataclass(frozen=True)
class KvMap:
    """Per layer, in order. ``groups`` follows: full attention first, then windows from wide to narrow; of each, band
    after band.
    """

    layers: tuple[LayerKv, ...]
    num_bands: int = 1

    @cached_property
    def bands(self) -> tuple[range, ...]:
        """Contiguous, as even as possible; all layers together."""
        count, layers = self.num_bands, len(self.layers)
        stops = [layers * (n + 1) // count for n in range(count)]
        return tuple(range(start, stop) for start, stop in zip([0, *stops], stops, strict=False))

    def in_bands(self, count: int) -> KvMap:
        """The same layers in so many bands. Raises ConfigError where there are fewer layers, or where a layer reads the
        KV of another band: that would have to stay.
        """
        if count == self.num_bands:
            return self
        cut = replace(self, num_bands=count)
        apart = any(kv.owner not in band for band in cut.bands for kv in self.layers[band.start : band.stop])
        if not all(cut.bands) or apart:
            raise ConfigError(
                f"{len(self.layers)} layers cannot be cut into {count} bands", hint="fewer bands; 1 cuts nothing"
            )
        return cut

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
            LayerGroup(_group_name(shape, windows) + suffix, layers, heads, k_dim, v_dim, window)
            for shape in order
            for window, heads, k_dim, v_dim in [shape]
            for suffix, layers in self._in_bands(shapes[shape])
        )

    def _in_bands(self, layers: list[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """These layers by band, and what the band adds to the name of a layer group."""
        for number, band in enumerate(self.bands):
            if inside := tuple(layer for layer in layers if layer in band):
                yield "" if self.num_bands == 1 else f".{number}", inside

    def place(self, layer: int) -> tuple[int, int]:
        """(group index, slot of the owning layer inside the group) that ``layer`` reads."""
        owner = self.layers[layer].owner
        for index, group in enumerate(self.groups):
            if owner in group.layers:
                return index, group.layers.index(owner)
        raise AssertionError(f"layer {layer}: owner {owner} is in no group")
