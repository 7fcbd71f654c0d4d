"""When the blocks of a trace are used again: what an endless cache would keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.simulate.traces.trace import Request, Trace

_Ints = npt.NDArray[np.int64]


def input_blocks(trace: Trace, request: Request) -> int:
    """How many of a request's blocks it brings; the others are what it is answered."""
    return -(-request.input_tokens // trace.block_tokens)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Between two uses of a block one after the other, the second as input: keeping it through the gap spares that.

    ``start_G``, ``stop_G``: the numbers of the two requests; ``index_G``: of the block, in both.
    """

    index_G: _Ints
    start_G: _Ints
    stop_G: _Ints

    @classmethod
    def of(cls, trace: Trace) -> Gaps:
        counts_R = np.array([len(request.blocks) for request in trace.requests])
        request_U = np.repeat(np.arange(len(counts_R)), counts_R)
        index_U = np.arange(len(request_U)) - np.repeat(np.cumsum(counts_R) - counts_R, counts_R)
        number_U = np.concatenate([np.array(request.blocks, dtype=np.int64) for request in trace.requests])
        inputs_R = np.array([input_blocks(trace, request) for request in trace.requests])
        order_U = np.argsort(number_U, kind="stable")
        earlier, later = order_U[:-1], order_U[1:]
        again = (number_U[earlier] == number_U[later]) & (index_U[later] < inputs_R[request_U[later]])
        earlier, later = earlier[again], later[again]
        return cls(index_U[later], request_U[earlier], request_U[later])


def live_blocks(trace: Trace, gaps: Gaps) -> _Ints:
    """At every request, the blocks that it uses and those kept through gaps: what an endless cache would need."""
    sizes_R = np.array([len(request.blocks) for request in trace.requests])
    change_R = np.zeros(len(sizes_R) + 1, dtype=np.int64)
    np.add.at(change_R, gaps.start_G + 1, 1)
    np.add.at(change_R, gaps.stop_G, -1)
    live_R: _Ints = sizes_R + np.cumsum(change_R)[:-1]
    return live_R


def capacity(trace: Trace, gaps: Gaps, share: float) -> int:
    """Blocks: a share of what is live at the busiest moment, but room for the longest request."""
    return max(round(share * int(live_blocks(trace, gaps).max())), trace.longest)
