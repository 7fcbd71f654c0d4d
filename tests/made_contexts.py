"""Contexts and scores out of thin air, for methods of compression."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Candidates, Counts, LayerContext, Measured, Origin, QueryShape
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.profile import MadeFor, Profile, write_profile

SHAPES = {"mha": (2, 4), "gqa": (3, 2), "one KV head": (4, 1), "one layer": (1, 3)}
"""(layers, KV heads)."""
GROUP = 2
"""Query heads by KV head."""
LENGTHS = (0, 1, 15, 16, 17, 300)
WEIGHTS = "weights of a test"


def contexts(layers: int, heads: int, count: int, dim: int = 8, seed: int = 0, first: int = 0) -> list[LayerContext]:
    rng = np.random.default_rng(seed)
    made = []
    for layer in range(layers):
        k_SKD, v_SKD = rng.normal(size=(2, count, heads, dim)).astype(np.float32)
        positions_S = np.arange(first, first + count)
        tokens_S, seen = rng.integers(0, 97, count), measured(rng, heads, positions_S, dim)
        output_HDC = rng.normal(size=(heads * GROUP, dim, 12)).astype(np.float32)
        known = output_HDC, rng.random(count) < 0.3
        made.append(LayerContext(layer, positions_S, tokens_S, k_SKD, v_SKD, 1, QueryShape(GROUP), seen, *known))
    return made


def candidates(compression: Compression, made: Iterable[LayerContext]) -> list[Candidates]:
    """All entries, with the method's scores, and with norms where it wants them."""
    found = []
    for one in made:
        assert one.output_HDC is not None
        plain = one.candidates(compression.scores(one))
        found.append(compression.critical.weighed(plain, list(one.v_SKD.transpose(1, 0, 2)), one.output_HDC))
    return found


def measured(rng: np.random.Generator, heads: int, positions_S: npt.NDArray[np.int64], dim: int) -> Measured:
    """As if all that a scorer can ask for had been seen."""
    attention_KS = rng.exponential(size=(heads, len(positions_S))).astype(np.float32)
    q_SHD = rng.normal(size=(len(positions_S), heads * GROUP, dim)).astype(np.float32)
    hidden_SN = rng.normal(size=(len(positions_S), heads)).astype(np.float32)
    return Measured(attention_KS, q_SHD, positions_S, hidden_SN)


def origin(layers: int, entry_bytes: tuple[int, ...] = ()) -> Origin:
    return Origin(tuple(range(layers)), entry_bytes or (1,) * layers, weights=WEIGHTS)


def in_a_row(counts: list[Counts]) -> list[int]:
    return [int(n) for counts_K in counts for n in counts_K]


def profile(layers: int, heads: int, scorer: str, params: dict | None = None, seed: int = 0) -> Profile:
    """Losses that fall, but are not convex."""
    rng = np.random.default_rng(seed)
    gains = rng.exponential(size=(2, layers, heads, 16)) * rng.exponential(size=(1, layers, heads, 1))
    losses = np.concatenate([np.cumsum(gains[..., ::-1], axis=-1)[..., ::-1], np.zeros((2, layers, heads, 1))], axis=-1)
    made_for = MadeFor(WEIGHTS, scorer, params or {}, "of a test")
    shares_G = np.linspace(0, 1, 17)
    return Profile(made_for, (64, 256), tuple(range(layers)), shares_G, losses.astype(np.float32))


def files(folder: Path, layers: int, heads: int, scorer: str, params: dict) -> dict[str, dict[str, Path]]:
    """The files that allocators ask for, by allocator and parameter."""
    write_profile(profile(layers, heads, scorer, params), folder / "profile.json")
    gates = "\n".join("\t".join(str((3 * layer + head) % 4 / 4) for head in range(heads)) for layer in range(layers))
    (folder / "gates.tsv").write_text(gates)
    (folder / "sensitivity.txt").write_text("\n".join(str(1 + layer) for layer in range(layers)))
    return {
        "lukv": {"profile": folder / "profile.json"},
        "head_classes": {"gates": folder / "gates.tsv"},
        "depthkv": {"sensitivity": folder / "sensitivity.txt"},
    }
