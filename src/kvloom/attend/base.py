"""The interface of attend backends. No caller branches on the backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvloom.arrays import Floats
from kvloom.attend.observe import Asked
from kvloom.attend.plan import Plan


class Attend(Protocol):
    """Reads and writes KV pages of one arena."""

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        """Store this step's new keys (already rotated) and values, float32, at the addresses in the plan.

        Rows whose page is NO_PAGE are skipped. Must be called before ``attend`` of the same layer.
        """
        ...

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        """Attend every row over the KV visible to it.

        Parameters
        ----------
        q_THD:
            float32, contiguous, rotated; T = ``plan.num_rows``.

        Returns
        -------
        out_THD:
            float32. lse_TH: float32, natural log of the sum of exp(scale * q.k + bias); an empty set gives (0, -inf).
            Row t's bits depend only on row t's own query, position and pages, never on the other rows of the step.
        """
        ...

    def observe(self, q_THD: Floats, lse_TH: Floats, plan: Plan, layer: int, asked: Sequence[Asked]) -> None:
        """Update the probes of ``asked`` for a layer, after its ``attend``, with the same queries and its lse.

        Costs one pass per ``Tally`` over the keys that the selected rows see.
        """
        ...
