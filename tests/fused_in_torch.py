"""A fused prefill in plain torch, a layer at a time over flat memory: the oracle, without pages, lists or shifts.

Documents are computed alone at the positions that they have in the prompt: as embeddings are rotary, that is what they
would be at any others, but for their keys, which need not be turned then.

Legend: T positions, H query heads, K KV heads, D head dim, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from kvloom.arrays import Floats
from kvloom.engine.cache_params import Source
from kvloom.model.decoder import Decoder
from kvloom.policy.fusion import Checked, Fusion, View
from kvloom.segment import Span


@dataclass
class Left:
    """What a compression has left of a document in one layer and KV head: entries at positions of the document alone,
    its lead included, as they are stored.
    """

    layer: int
    head: int
    positions_S: np.ndarray
    k_SD: Floats
    v_SD: Floats
    bias_S: Floats


@dataclass
class Flat:
    """KV of one text by position. ``seen``: by layer, the attention that each position got from all rows and heads."""

    layers: int
    length: int
    kv_heads: int
    dim: int
    windows: tuple[int | None, ...]
    queries: dict[int, torch.Tensor] = field(default_factory=dict)
    seen: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.k = torch.zeros(self.layers, self.length, self.kv_heads, self.dim)
        self.v = torch.zeros_like(self.k)
        self.there = torch.zeros(self.layers, self.length, self.kv_heads, dtype=torch.bool)
        self.bias = torch.zeros(self.layers, self.length, self.kv_heads)

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: SimpleNamespace, layer: int) -> None:
        at = torch.from_numpy(plan.positions_T).long()
        self.k[layer, at], self.v[layer, at] = torch.from_numpy(k_TKD), torch.from_numpy(v_TKD)
        self.there[layer, at], self.bias[layer, at] = True, 0.0

    def attend(self, q_THD: Floats, plan: SimpleNamespace, layer: int) -> tuple[Floats, Floats]:
        q, at = torch.from_numpy(q_THD), torch.from_numpy(plan.positions_T).long()
        ratio = q.shape[1] // self.kv_heads
        k, v = (x[layer].repeat_interleave(ratio, dim=1) for x in (self.k, self.v))
        there, bias = (x[layer].T.repeat_interleave(ratio, dim=0)[:, None] for x in (self.there, self.bias))
        hidden = (torch.arange(self.length) > at[:, None])[None] | ~there
        if (window := self.windows[layer]) is not None:
            hidden |= torch.arange(self.length) <= at[:, None] - window
        scores = (torch.einsum("thd,shd->hts", q, k) * self.dim**-0.5 + bias).masked_fill(hidden, -torch.inf)
        weights = scores.softmax(-1)
        self.queries[layer], self.seen[layer] = q, weights.sum(dim=(0, 1))
        return torch.einsum("hts,shd->thd", weights, v).contiguous().numpy(), torch.logsumexp(scores, -1).T.numpy()


@dataclass
class Fused:
    """``rows``: positions of documents that were computed again. ``logits_V``: of the last row of the question."""

    model: Decoder
    kv: Flat
    tokens: list[int]
    rows: list[int]
    logits_V: Floats

    def greedy(self, count: int) -> list[int]:
        answer: list[int] = []
        logits_V = self.logits_V
        for _ in range(count):
            answer.append(int(logits_V.argmax()))
            x_TC = run(self.model, self.kv, answer[-1:], [len(self.tokens) + len(answer) - 1])
            logits_V = self.model.logits(x_TC)[0]
        return answer


def run(
    model: Decoder,
    kv: Flat,
    tokens: Sequence[int],
    positions: Sequence[int],
    layers: range | None = None,
    x_TC: Floats | None = None,
) -> Floats:
    """Rows through some layers, or all."""
    layers_plan = [SimpleNamespace(owns=True)] * model.spec.num_layers
    plan = SimpleNamespace(positions_T=np.array(positions, np.int32), layers=layers_plan)
    x_TC = model.embed(np.array(tokens, np.int64)) if x_TC is None else x_TC
    return model.run(x_TC, plan, kv, range(model.spec.num_layers) if layers is None else layers)


def fused_prefill(
    model: Decoder,
    tokens: list[int],
    documents: Sequence[tuple[int, int]],
    fusion: Fusion,
    lead: Sequence[int] = (),
    room: int = 32,
    source: Source | None = None,
    prefix: int | None = None,
    left: Sequence[Sequence[Left]] | None = None,
) -> Fused:
    """``source``: the earlier context in which documents were computed, rather than alone. ``prefix``: its tokens, if
    something lies between it and the first document. ``left``: what is left of each document.
    """
    spec, question, stop = model.spec, documents[-1][1], len(tokens)
    start = documents[0][0] if prefix is None else prefix
    flat = lambda: _flat(model, stop + room)  # noqa: E731
    kv, old, cut = flat(), flat(), fusion.exact_layers
    above = range(cut, spec.num_layers)
    if start:
        run(model, kv, tokens[:start], range(start))
    earlier = None if source is None else whole(model, source.tokens)
    for number, (first, last) in enumerate(documents):
        if earlier is not None and source is not None:
            at = slice(source.starts[number], source.starts[number] + last - first)
            old.k[:, first:last] = turned(model, earlier.k[:, at], first - at.start)
            old.v[:, first:last] = earlier.v[:, at]
        else:
            alone = flat()
            run(model, alone, [*lead, *tokens[first:last]], range(first - len(lead), last))
            for mine, theirs in ((old.k, alone.k), (old.v, alone.v)):
                mine[:, first:last] = theirs[:, first:last]
        kv.there[above.start :, first:last] = True
    kv.k[above.start :, start:question] = old.k[above.start :, start:question]
    kv.v[above.start :, start:question] = old.v[above.start :, start:question]
    for (first, last), lists in zip(documents, left or (), strict=left is not None):
        kv.there[above.start :, first:last] = False
        for each in lists:
            if each.layer >= cut:
                put(model, kv, each, len(lead), first)
    x_TC = run(model, kv, tokens[start:], range(start, stop), range(cut))
    checked = None
    if cut:
        check, heads = fusion.check_layer, (spec.heads, spec.head_dim)
        queries = kv.queries[check][question - start :].reshape(-1, *heads).numpy()
        between = slice(start, question)
        alone = kv.there[-1, between].any(-1)[:, None, None]
        old_v = torch.where(alone, old.v[check, between], kv.v[check, between])
        checked = Checked(
            spec.head_dim**-0.5, queries, kv.k[check, start:stop].numpy(), kv.v[check, between].numpy(), old_v.numpy()
        )
    run(model, kv, tokens[question:], range(question, stop), above, x_TC[question - start :])
    seeing = [layer for layer in above if spec.windows[layer] is None] or above
    attention = torch.stack([kv.seen[layer][start:question] for layer in seeing]).numpy()
    view = View(stop, question, tuple(Span(*span) for span in documents), checked, attention, prefix=prefix)
    chosen = fusion.rows(view)
    inside = {position for first, last in documents for position in range(first, last)}
    always = {*(set(range(start, question)) - inside), *range(question, stop)}
    going = sorted({*chosen.tolist(), *always})
    x_RC = x_TC[np.array(going) - start]
    for number, layer in enumerate(above[: fusion.filters]):
        x_RC = run(model, kv, [], going, range(layer, layer + 1), x_RC)
        there = torch.from_numpy(chosen)
        chosen = fusion.narrowed(number, question, chosen, kv.v[layer, there].numpy(), old.v[layer, there].numpy())
        stay = [position in always or position in chosen for position in going]
        going, x_RC = [position for position, it in zip(going, stay, strict=True) if it], x_RC[np.array(stay)]
    last_TC = run(model, kv, [], going, above[fusion.filters :], x_RC)
    return Fused(model, kv, tokens, chosen.tolist(), model.logits(last_TC[-1:])[0])


def put(model: Decoder, kv: Flat, left: Left, lead: int, first: int) -> None:
    """Entries of a document that begins at position ``first``, without its lead."""
    mine = left.positions_S >= lead
    at, k_SD = left.positions_S[mine] - lead + first, torch.from_numpy(left.k_SD[mine])
    k_LSKD = torch.zeros(kv.layers, len(at), kv.kv_heads, kv.dim)
    k_LSKD[left.layer, :, left.head] = k_SD
    kv.k[left.layer, at, left.head] = turned(model, k_LSKD, first - lead)[left.layer, :, left.head]
    kv.v[left.layer, at, left.head] = torch.from_numpy(left.v_SD[mine])
    kv.there[left.layer, at, left.head] = True
    kv.bias[left.layer, at, left.head] = torch.from_numpy(left.bias_S[mine])


def whole(model: Decoder, tokens: Sequence[int]) -> Flat:
    """KV of a text of its own."""
    kv = _flat(model, len(tokens))
    run(model, kv, tokens, range(len(tokens)))
    return kv


def turned(model: Decoder, k_LSKD: torch.Tensor, by: int) -> torch.Tensor:
    """Keys as they would be so many positions further."""
    turns = [np.array(model.turn(layer), np.float64) for layer in range(len(k_LSKD))]
    angles_L11R = by * torch.from_numpy(np.stack(turns))[:, None, None]
    cos, sin = angles_L11R.cos().float(), angles_L11R.sin().float()
    a, b = k_LSKD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def full_prefill(model: Decoder, tokens: list[int], room: int = 32) -> Fused:
    kv = _flat(model, len(tokens) + room)
    x_TC = run(model, kv, tokens, range(len(tokens)))
    return Fused(model, kv, tokens, [], model.logits(x_TC[-1:])[0])


def _flat(model: Decoder, length: int) -> Flat:
    spec = model.spec
    return Flat(spec.num_layers, length, spec.kv_heads, spec.head_dim, spec.windows)


def logprobs_of(done: tiny.Done) -> list[dict[int, float]]:
    found = [each for update in done.updates for delta in update.deltas for each in delta.logprobs or ()]
    return [{token: it.logprob for token, it in each.items()} for each in found]


def assert_like(done: tiny.Done, expected: Fused, tolerance: float = 2e-3) -> None:
    """The same tokens; and of the first one, the same distribution within the tolerance."""
    assert done.tokens[0] == expected.greedy(len(done.tokens[0]))
    exact = expected.logits_V.astype(np.float64)
    exact = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    for token, logprob in logprobs_of(done)[0].items():
        assert logprob == pytest.approx(exact[token], abs=tolerance)
