"""attend in plain torch: the specification. Short enough to check by eye, slow enough to leave to tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kvloom.arrays import Bytes, Floats
from kvloom.attend.merge import State, merge
from kvloom.attend.plan import NO_PAGE, DensePart, Plan, RaggedPart
from kvloom.codec.int16 import decode_keys, encode_keys
from kvloom.memory.cells import cell, labels
from kvloom.memory.format import PageFormat

_DTYPES = {
    "float32": (torch.float32, torch.float32),
    "float16": (torch.float16, torch.float16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "int16": (torch.int32, torch.float16),
}
"""Of stored keys and values, by codec. ``Tensor.to`` rounds as the codec promises, but for the words of int16 keys."""


def stored_keys(fmt: PageFormat, k_SD: torch.Tensor) -> torch.Tensor:
    """Float32 keys as a page holds them: a row each, in the dtype of the codec."""
    if fmt.codec == "int16":
        return torch.from_numpy(encode_keys(k_SD.numpy()).view(np.int32))
    return k_SD.to(_DTYPES[fmt.codec][0])


def stored_values(fmt: PageFormat, v_SD: torch.Tensor) -> torch.Tensor:
    """Float32 values as a page holds them."""
    return v_SD.to(_DTYPES[fmt.codec][1])


def known_keys(fmt: PageFormat, stored_SW: torch.Tensor) -> torch.Tensor:
    """What stored keys mean, float32 (S, D)."""
    if fmt.codec == "int16":
        return torch.from_numpy(decode_keys(stored_SW.numpy().view(np.uint32)))
    return stored_SW.float()


def met_queries(fmt: PageFormat, q_THD: torch.Tensor) -> torch.Tensor:
    """Queries as they meet keys: those of int16 are met by queries that are rounded in the same way."""
    if fmt.codec != "int16":
        return q_THD
    return known_keys(fmt, stored_keys(fmt, q_THD.reshape(-1, q_THD.shape[-1]))).reshape(q_THD.shape)


@dataclass(frozen=True, slots=True)
class ReferenceAttend:
    """Keeps the contract of ``attend.base.Attend``. ``memory`` is the arena's bytes; inside, all is torch."""

    memory: Bytes

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        target = plan.layers[layer].writes
        assert target is not None, f"layer {layer} does not own KV"
        part = plan.parts[target[0]]
        assert isinstance(part, DensePart)
        rows, heads = k_TKD.shape[:2]
        k_TKW = stored_keys(part.format, torch.from_numpy(k_TKD).flatten(0, 1)).reshape(rows, heads, -1)
        stored_v_TKD = stored_values(part.format, torch.from_numpy(v_TKD))
        for row, (page, slot) in enumerate(zip(part.row_pages_T.tolist(), part.row_slots_T.tolist(), strict=True)):
            if page == NO_PAGE:
                continue
            for head in range(part.format.heads):
                keys_DS, values_SD = self._cell(part.format, page, target[1], head)
                keys_DS[:, slot] = k_TKW[row, head]
                values_SD[slot] = stored_v_TKD[row, head]

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        out_THD, lse_TH = self._attend(torch.from_numpy(q_THD), plan, layer)
        return out_THD.numpy(), lse_TH.numpy()

    def _attend(self, q_THD: torch.Tensor, plan: Plan, layer: int) -> State:
        layer_plan = plan.layers[layer]
        num_rows, num_heads, _ = q_THD.shape
        v_dim = plan.parts[layer_plan.reads[0][0]].format.v_dim
        result = (
            q_THD.new_zeros(num_rows, num_heads, v_dim),
            q_THD.new_full((num_rows, num_heads), -torch.inf),
        )
        for part_index, layer_slot in layer_plan.reads:
            part = plan.parts[part_index]
            partial = torch.zeros_like(result[0]), torch.full_like(result[1], -torch.inf)
            kv_heads = part.heads if isinstance(part, RaggedPart) else part.format.heads
            group = num_heads // kv_heads
            for b in range(plan.num_seqs):
                rows = slice(int(plan.seq_rows_B1[b]), int(plan.seq_rows_B1[b + 1]))
                for head in range(kv_heads):
                    heads = slice(head * group, (head + 1) * group)
                    entries = self._entries(part, plan, layer_slot, b, head)
                    out, lse = _softmax(
                        met_queries(part.format, q_THD[rows, heads]),
                        torch.from_numpy(plan.positions_T[rows]),
                        entries,
                        part.window,
                        layer_plan.scale,
                    )
                    partial[0][rows, heads], partial[1][rows, heads] = out, lse
            result = merge(result, partial)
        return result

    def _entries(self, part: DensePart | RaggedPart, plan: Plan, layer_slot: int, b: int, head: int) -> _Entries:
        """Gather (keys_SD, values_SD, positions_S, bias_S) of one sequence, layer and KV head, decoded to float32."""
        pieces: list[_Entries] = []
        last = (
            int(plan.positions_T[int(plan.seq_rows_B1[b + 1]) - 1])
            if plan.seq_rows_B1[b + 1] > plan.seq_rows_B1[b]
            else -1
        )
        if isinstance(part, DensePart):
            for p in range(int(part.seq_pages_B1[b]), int(part.seq_pages_B1[b + 1])):
                start = int(part.page_starts_P[p])
                count = min(
                    part.format.tokens, last + 1 - start
                )  # beyond the last row nothing is visible, or even written
                if count > 0:
                    keys_DS, values_SD = self._cell(part.format, int(part.page_ids_P[p]), layer_slot, head)
                    positions = torch.arange(start, start + count)
                    pieces.append((keys_DS.T[:count], values_SD[:count], positions, torch.zeros(count)))
        else:
            at = (layer_slot * plan.num_seqs + b) * part.heads + head
            for p in range(int(part.cell_pages_C1[at]), int(part.cell_pages_C1[at + 1])):
                count = int(part.page_counts_P[p])
                keys_DS, values_SD = self._cell(part.format, int(part.page_ids_P[p]), 0, 0)
                positions, bias = map(torch.from_numpy, labels(self.memory, part.format, int(part.page_ids_P[p])))
                pieces.append((keys_DS.T[:count], values_SD[:count], positions[:count], bias[:count]))
        if not pieces:
            empty = torch.zeros(0)
            return torch.zeros(0, part.format.k_dim), torch.zeros(0, part.format.v_dim), empty.long(), empty
        keys, values, positions, bias = (torch.cat(column) for column in zip(*pieces, strict=True))
        return known_keys(part.format, keys), values.float(), positions, bias

    def _cell(self, fmt: PageFormat, page: int, layer_slot: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of one (layer, head) of a page: keys_DS and values_SD in the stored dtype."""
        keys_DS, values_SD = cell(self.memory, fmt, page, layer_slot, head)
        of_keys, of_values = _DTYPES[fmt.codec]
        return torch.from_numpy(keys_DS).view(of_keys), torch.from_numpy(values_SD).view(of_values)


_Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _softmax(
    q_TGD: torch.Tensor, positions_T: torch.Tensor, entries: _Entries, window: int | None, scale: float
) -> State:
    keys_SD, values_SD, positions_S, bias_S = entries
    visible_TS = positions_S[None, :] <= positions_T[:, None]
    if window is not None:
        visible_TS &= positions_S[None, :] > positions_T[:, None] - window
    scores_TGS = torch.einsum("tgd,sd->tgs", q_TGD, keys_SD) * scale + bias_S
    scores_TGS = scores_TGS.masked_fill(~visible_TS[:, None, :], -torch.inf)
    lse_TG = torch.logsumexp(scores_TGS, dim=-1)
    top_TG = torch.where(torch.isinf(lse_TG), torch.zeros_like(lse_TG), lse_TG)
    return torch.einsum("tgs,sd->tgd", torch.exp(scores_TGS - top_TG[..., None]), values_SD), lse_TG
