"""A comparison made by hand: kvloom, a fast peer and a slow one."""

from __future__ import annotations

from bench.cells import DENSE
from bench.comparison import About, Comparison, Peak, Sample
from bench.peers.base import Facts
from kvloom.bench.limits import Limits

MIB = 2**20
FACTS = Facts("1", "as they are", 100 * 10**6, 23040)


def comparison(
    figures: dict[str, dict[str, list[float]]], group: str, peaks: dict[str, dict[str, int]] | None = None
) -> Comparison:
    """figures: name to peer to its value by round; peaks: workload to peer to MiB."""
    made = Comparison(threads=2, quick=False, kv_tokens=9000, limits=[Limits(20.0, 100.0), Limits(25.0, 90.0)])
    peers = dict.fromkeys(peer for by_peer in figures.values() for peer in by_peer)
    made.about = [About(DENSE, peer, FACTS, 200 * MIB, 12, 12) for peer in peers]
    for figure, by_peer in figures.items():
        for peer, values in by_peer.items():
            made.samples += [
                Sample(group, DENSE, peer, number, figure, value, "tok/s") for number, value in enumerate(values)
            ]
    for workload, sizes in (peaks or {}).items():
        made.peaks += [Peak(group, DENSE, peer, 0, workload, size * MIB) for peer, size in sizes.items()]
    return made
