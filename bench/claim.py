"""Reproduce published figures: ``python -m bench.claim NAME... [--quick]``; ``speed``: all about speed.

Claims that need the same workloads share one sitting. Each prints its report and then one JSON object on one line; a
full run is filed under ``bench/results/<hardware>/<year-month>/``. ``--sizes``: models above small are measured only
when asked for. Exit status: 0 all hold, 1 one does not, 2 there is no such claim.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.cells import DEFAULT_SIZES, SIZES, cells
from bench.claims import CLAIMS, SPEED, Compared, claim_of
from bench.compare import compare
from bench.filing import Report, Stamp, folder_for, write
from bench.harness import Measure, Outcome, note
from bench.peers.base import PEERS


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    names = list(dict.fromkeys(each for name in options.names for each in (SPEED if name == "speed" else (name,))))
    peers, sizes = options.peers.split(","), options.sizes.split(",")
    for kind, asked, known in (("claim", names or [""], CLAIMS), ("peer", peers, PEERS), ("size", sizes, SIZES)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            said = f"no {kind} `{unknown[0]}`" if unknown[0] else f"which {kind}?"
            print(f"error: {said}\nhint: there are {', '.join(known)}", file=sys.stderr)
            return 2
    claims = {name: claim_of(name) for name in names}
    for name, found in claims.items():
        if isinstance(found, Compared) and not cells(found.groups, options.quick, sizes):
            print(f"error: `{name}` measures no model of size {options.sizes}", file=sys.stderr)
            print(f"hint: --sizes {','.join(DEFAULT_SIZES)}", file=sys.stderr)
            return 2
    note(f"{', '.join(names)}{' (quick)' if options.quick else ''}")
    holds = True
    for outcome in outcomes(claims, options.quick, peers, sizes):
        report = Report(Stamp.now(f"python -m bench.claim {' '.join(given)}"), outcome)
        folder = options.out or (None if options.quick else folder_for(report.stamp))
        if folder is not None:
            note(f"filed: {write(report, folder)}")
        if outcome.checks:
            print(report.markdown())
        print(outcome.line(), flush=True)
        holds = holds and outcome.holds
    return 0 if holds else 1


def outcomes(
    claims: Mapping[str, Measure | Compared], quick: bool, peers: Sequence[str], sizes: Sequence[str]
) -> Iterator[Outcome]:
    """In the order asked for, but one comparison feeds all that compare; it runs when the first of them is due."""
    groups = frozenset().union(*(claim.groups for claim in claims.values() if isinstance(claim, Compared)))
    comparison = None
    for claim in claims.values():
        if isinstance(claim, Compared):
            comparison = comparison or compare(groups, quick, peers, sizes)
            yield claim.judge(comparison.of(claim.groups))
        else:
            yield claim(quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.claim", description="Reproduce published figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"speed, or of: {', '.join(CLAIMS)}")
    parser.add_argument("--quick", action="store_true", help="a smaller version, about a minute; filed only with --out")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, from: " + ", ".join(PEERS))
    parser.add_argument("--sizes", default=",".join(DEFAULT_SIZES), help="comma-separated, from: " + ", ".join(SIZES))
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
