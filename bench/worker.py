"""One peer in a process of its own: ``python -m bench.worker PEER ...``, in the peer's environment.

One JSON object per line. The first line out says what was loaded (``bench.peers.base.Facts``); then every line in is a
command and every line out its result:

    {"do": "expect", "apart": n, "longest": n}         -> {}                    of what comes next: ``Workload``
    {"do": "reset"}                                    -> {}
    {"do": "run", "prompts": [[..], ..], "num_new": n} -> {"answers": [{"tokens": [..], "times_s": [..]}, ..]}
    {"do": "peak"}                                     -> {"peak_bytes": n}     resident, since the last such command
    {"do": "counters"}                                 -> {..}                  the engine's own, where it has any
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from bench.peers.base import PEERS, Peer, Setup, open_peer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.worker")
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("--setup", type=json.loads, required=True, help="fields of bench.peers.base.Setup, as JSON")
    options = parser.parse_args()
    _die_with_the_driver()
    out = _own_stdout()
    fields = options.setup
    paths = {name: Path(fields[name]) for name in ("gguf", "directory")}
    peer = open_peer(options.peer, Setup(**fields | paths))
    _say(out, dataclasses.asdict(peer.facts))
    for line in sys.stdin:
        _say(out, obey(peer, json.loads(line)))
    return 0


def obey(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command."""
    match command["do"]:
        case "expect":
            expect = getattr(peer, "expect", None)
            if expect is not None:
                expect(command["apart"], command["longest"])
            return {}
        case "reset":
            peer.reset()
            return {}
        case "run":
            answers = peer.run(command["prompts"], command["num_new"])
            return {"answers": [dataclasses.asdict(answer) for answer in answers]}
        case "peak":
            return {"peak_bytes": take_peak_bytes()}
        case "counters":
            counters: dict[str, Any] = getattr(peer, "counters", dict)()
            return counters
    raise ValueError(f"no command {command['do']!r}")


def take_peak_bytes() -> int:
    """Peak resident memory since the last call, where the system can reset the peak; else since the start."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, StopIteration):
        pass
    return peak


def _die_with_the_driver() -> None:
    """A stopped process would outlive a driver that was killed. Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _own_stdout() -> TextIO:
    """Engines may print to stdout: that is redirected to stderr, so that the pipe carries the protocol alone."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _say(out: TextIO, value: dict[str, Any]) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
