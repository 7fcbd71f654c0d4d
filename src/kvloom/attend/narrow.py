"""A step's plan for fewer rows, when only some go on to later layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kvloom.attend.plan import DensePart, Part, Plan


def narrowed(plan: Plan, rows_R: npt.NDArray[np.int64]) -> Plan:
    """The plan of these rows alone: they read and write what they did. ``rows_R`` ascends; no sequence goes away."""
    seq_rows_B1 = np.searchsorted(rows_R, plan.seq_rows_B1).astype(np.int32)
    parts = tuple(_narrowed(part, rows_R) for part in plan.parts)
    return replace(plan, positions_T=plan.positions_T[rows_R], seq_rows_B1=seq_rows_B1, parts=parts)


def _narrowed(part: Part, rows_R: npt.NDArray[np.int64]) -> Part:
    """Lists of pages are by sequence; only where rows write is by row."""
    if not isinstance(part, DensePart):
        return part
    return replace(part, row_pages_T=part.row_pages_T[rows_R], row_slots_T=part.row_slots_T[rows_R])
