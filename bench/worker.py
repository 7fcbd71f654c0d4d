"""One run of one peer in a process of its own: ``python -m bench.worker PEER``. One JSON object per line on stdout."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys

from bench.limits import measure_limits, prefill_flop
from bench.peers.base import PEERS, open_peer
from bench.workloads import FULL, QUICK, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.worker")
    parser.add_argument("peer", choices=[*PEERS, "limits"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.peer == "limits":
        _say("limits", dataclasses.asdict(measure_limits(options.threads)))
        return 0
    from kvloom.model.store import resolve

    manifest, sizes = resolve(options.model), QUICK if options.quick else FULL
    peer = open_peer(options.peer, options.model, manifest.weight_path(0), options.threads)
    about = {"version": peer.version, "weight_bytes": peer.weight_bytes, "kv_token_bytes": peer.kv_token_bytes}
    flop = {str(length): prefill_flop(manifest.spec, length) for length in sizes.contexts}
    _say("peer", about | {"prefill_flop": flop, "loaded_rss_bytes": _peak_rss_bytes()})
    for figure in run(peer, sizes, options.seed):
        _say("figure", dataclasses.asdict(figure))
    _say("peak", {"rss_bytes": _peak_rss_bytes()})
    return 0


def _say(kind: str, value: dict[str, object]) -> None:
    print(json.dumps({"kind": kind} | value), flush=True)


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
