"""attend in plain torch: the specification, short enough to check by eye and only fast enough for tests."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvloom.arrays import Bytes, Floats
from kvloom.attend.merge import State, merge
from kvloom.attend.observe import Asked, QueryRecord, Reduce, Tally
from kvloom.attend.plan import NO_PAGE, Contiguous, Group, LayerPlan, Part, Plan, Writes
from kvloom.memory.cells import cell, decoded, labels


@dataclass(frozen=True, slots=True)
class ReferenceAttend:
    """Implements ``attend.base.Attend`` in torch throughout. ``memory`` is the arena's bytes."""

    memory: Bytes

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        layer_plan = plan.layers[layer]
        assert layer_plan.owns, f"layer {layer} does not own KV"
        for writes in plan.groups[layer_plan.group].writes:
            self._write(k_TKD, v_TKD, writes, layer_plan.slot)

    def _write(self, k_TKD: Floats, v_TKD: Floats, writes: Writes, slot: int) -> None:
        fmt, numbers = writes.format, writes.format.numbers
        for row, (page, entry) in enumerate(zip(writes.row_pages_T, writes.row_slots_T, strict=True)):
            if page == NO_PAGE:
                continue
            for head in range(fmt.heads):
                keys_B, values_B = cell(self.memory, fmt, int(page), slot, head)
                numbers.keys.put(k_TKD[row, head][None], keys_B, [int(entry)])
                numbers.values.put(v_TKD[row, head][None], values_B, [int(entry)])

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        out_THD, lse_TH = self._attend(torch.from_numpy(q_THD), plan, layer)
        return out_THD.numpy(), lse_TH.numpy()

    def _attend(self, q_THD: torch.Tensor, plan: Plan, layer: int) -> State:
        layer_plan = plan.layers[layer]
        group = plan.groups[layer_plan.group]
        return functools.reduce(merge, [self._over(part, q_THD, plan, group, layer_plan) for part in group.parts])

    def _over(self, part: Part, q_THD: torch.Tensor, plan: Plan, group: Group, layer: LayerPlan) -> State:
        num_rows, num_heads, _ = q_THD.shape
        out = q_THD.new_zeros(num_rows, num_heads, part.format.v_dim)
        lse = q_THD.new_full((num_rows, num_heads), -torch.inf)
        ratio = num_heads // part.heads
        for b in range(plan.num_seqs):
            rows = slice(int(plan.seq_rows_B1[b]), int(plan.seq_rows_B1[b + 1]))
            if rows.start == rows.stop:
                continue
            positions_T = torch.from_numpy(plan.positions_T[rows])
            for head in range(part.heads):
                heads = slice(head * ratio, (head + 1) * ratio)
                scores_TGS, entries, _ = self._meet(q_THD[rows, heads], positions_T, part, group, layer, b, head)
                out[rows, heads], lse[rows, heads] = _softmax(scores_TGS, entries[1])
        return out, lse

    def _meet(
        self,
        q_TGD: torch.Tensor,
        positions_T: torch.Tensor,
        part: Part,
        group: Group,
        layer: LayerPlan,
        sequence: int,
        head: int,
    ) -> tuple[torch.Tensor, _Entries, int]:
        """Scores of rows of one sequence over a list, those entries, and their shift."""
        at = part.list_of(sequence, layer.slot, head)
        q_TGD, asked_T = _turned(q_TGD, positions_T, part, group, at)
        entries = self._entries(part, at, layer.slot, head, int(asked_T[-1]))
        met_TGD = torch.from_numpy(part.format.numbers.keys.met(q_TGD.numpy()))
        scores_TGS = _scores(met_TGD, asked_T, entries, group.window, layer.scale)
        return scores_TGS, entries, int(positions_T[0] - asked_T[0])

    def observe(self, q_THD: Floats, lse_TH: Floats, plan: Plan, layer: int, asked: Sequence[Asked]) -> None:
        for one in asked:
            if layer not in one.probe.layers:
                continue
            place = one.probe.layers.index(layer)
            if isinstance(one.probe, QueryRecord):
                one.probe.queries_LRHD[place, one.places_R] = q_THD[one.rows_R]
                continue
            for part in plan.groups[plan.layers[layer].group].parts:
                self._tally(one.probe, place, one, part, q_THD, lse_TH, plan, layer)
            one.probe.counted_L[place] += one.rows_R.size

    def _tally(
        self, tally: Tally, place: int, one: Asked, part: Part, q_THD: Floats, lse_TH: Floats, plan: Plan, layer: int
    ) -> None:
        layer_plan, columns = plan.layers[layer], tally.observation.columns
        q_RHD, lse_RH = torch.from_numpy(q_THD[one.rows_R]), torch.from_numpy(lse_TH[one.rows_R])
        lse_RH = torch.where(lse_RH.isneginf(), torch.inf, lse_RH)  # sees nothing, contributes nothing
        ratio, results = q_RHD.shape[1] // part.heads, len(tally.running_LNS[place]) // part.heads
        positions_R, group = torch.from_numpy(plan.positions_T[one.rows_R]), plan.groups[layer_plan.group]
        for head in range(part.heads):
            heads = slice(head * ratio, (head + 1) * ratio)
            scores_RGS, entries, shift = self._meet(
                q_RHD[:, heads], positions_R, part, group, layer_plan, one.sequence, head
            )
            p_RGS = torch.exp(scores_RGS - lse_RH[:, heads, None]).double()
            columns_S = (entries[2] + shift - columns.start).long()
            inside_S = (columns_S >= 0) & (columns_S < len(columns))
            p_RNXS = p_RGS[..., inside_S].reshape(len(p_RGS), results, ratio // results, int(inside_S.sum()))
            running_SN = tally.running_LNS[place, head * results : (head + 1) * results].T
            if tally.observation.reduce is Reduce.SUM:
                np.add.at(running_SN, columns_S[inside_S].numpy(), p_RNXS.sum(dim=(0, 2)).T.numpy())
            else:
                np.maximum.at(running_SN, columns_S[inside_S].numpy(), p_RNXS.amax(dim=(0, 2)).T.numpy())

    def _entries(self, part: Part, at: int, slot: int, head: int, last: int) -> _Entries:
        """Gather (keys_SD, values_SD, positions_S, bias_S) of one list and cell, decoded to float32.

        No row reads beyond position ``last``: entries there may not even be written.
        """
        fmt = part.format
        nothing = torch.zeros(0, fmt.k_dim), torch.zeros(0, fmt.v_dim), torch.zeros(0).int(), torch.zeros(0)
        pieces: list[_Entries] = [nothing]
        for p in range(int(part.lists.bounds_L1[at]), int(part.lists.bounds_L1[at + 1])):
            page = int(part.page_ids_P[p])
            if isinstance(part.entries, Contiguous):
                positions, bias = (
                    int(part.entries.starts_P[p]) + torch.arange(fmt.tokens).int(),
                    torch.zeros(fmt.tokens),
                )
            else:
                positions, bias = map(torch.from_numpy, labels(self.memory, fmt, page, slot, head))
            mask = 0xFFFF if part.masks_P is None else int(part.masks_P[p])
            there = torch.tensor([bool(mask >> entry & 1) for entry in range(fmt.tokens)]) & (positions <= last)
            k_SD, v_SD = map(torch.from_numpy, decoded(self.memory, fmt, page, slot, head))
            pieces.append((k_SD[there], v_SD[there], positions[there], bias[there]))
        keys, values, positions, bias = (torch.cat(column) for column in zip(*pieces, strict=True))
        return keys, values, positions, bias


_Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _turned(
    q_TGD: torch.Tensor, positions_T: torch.Tensor, part: Part, group: Group, at: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and positions of the rows, as list ``at`` needs them."""
    if part.turns_L is None or group.rotations is None:
        return q_TGD, positions_T
    turn, rotations = int(part.turns_L[at]), group.rotations
    shift, cos, sin = int(rotations.shifts_U[turn]), rotations.cos_UR[turn], rotations.sin_UR[turn]
    if shift == 0:
        return q_TGD, positions_T
    a, b, rest = q_TGD[..., : cos.size], q_TGD[..., cos.size : 2 * cos.size], q_TGD[..., 2 * cos.size :]
    cos_R, sin_R = torch.from_numpy(cos), torch.from_numpy(sin)
    return torch.cat([a * cos_R - b * sin_R, b * cos_R + a * sin_R, rest], dim=-1), positions_T - shift


def _scores(
    q_TGD: torch.Tensor, positions_T: torch.Tensor, entries: _Entries, window: int | None, scale: float
) -> torch.Tensor:
    """Minus infinity where a row does not see an entry."""
    keys_SD, _, positions_S, bias_S = entries
    visible_TS = positions_S[None, :] <= positions_T[:, None]
    if window is not None:
        visible_TS &= positions_S[None, :] > positions_T[:, None] - window
    scores_TGS = torch.einsum("tgd,sd->tgs", q_TGD, keys_SD) * scale + bias_S
    return scores_TGS.masked_fill(~visible_TS[:, None, :], -torch.inf)


def _softmax(scores_TGS: torch.Tensor, values_SD: torch.Tensor) -> State:
    lse_TG = torch.logsumexp(scores_TGS, dim=-1)
    top_TG = torch.where(torch.isinf(lse_TG), torch.zeros_like(lse_TG), lse_TG)
    return torch.einsum("tgs,sd->tgd", torch.exp(scores_TGS - top_TG[..., None]), values_SD), lse_TG
