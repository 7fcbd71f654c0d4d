"""A step's plan for fewer rows, when only some go on to later layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kvloom.attend.plan import Group, Plan


def narrowed(plan: Plan, rows_R: npt.NDArray[np.int64]) -> Plan:
    """The plan of these rows alone, which read and write as before. ``rows_R`` ascends; every sequence keeps a row."""
    seq_rows_B1 = np.searchsorted(rows_R, plan.seq_rows_B1).astype(np.int32)
    groups = tuple(_narrowed(group, rows_R) for group in plan.groups)
    return replace(plan, positions_T=plan.positions_T[rows_R], seq_rows_B1=seq_rows_B1, groups=groups)


def _narrowed(group: Group, rows_R: npt.NDArray[np.int64]) -> Group:
    """Lists of pages are by sequence; only where rows write is by row."""
    writes = tuple(
        replace(each, row_pages_T=each.row_pages_T[rows_R], row_slots_T=each.row_slots_T[rows_R])
        for each in group.writes
    )
    return replace(group, writes=writes)
