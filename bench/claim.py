"""Reproduce one published figure: ``python -m bench.claim NAME [--quick]``.

The last line on stdout is one JSON object. Exit status: 0 the claim holds, 1 it does not, 2 there is no such claim.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.claims import CLAIMS, measure_of
from bench.harness import note


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.claim", description="Reproduce one published figure.")
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(CLAIMS)}")
    parser.add_argument("--quick", action="store_true", help="a smaller version, about a minute")
    options = parser.parse_args(arguments)
    if options.name not in CLAIMS:
        asked = f"no claim `{options.name}`" if options.name else "which claim?"
        print(f"error: {asked}\nhint: there are {', '.join(CLAIMS)}", file=sys.stderr)
        return 2
    note(f"{options.name}{' (quick)' if options.quick else ''}")
    outcome = measure_of(options.name)(options.quick)
    print(outcome.line(), flush=True)
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
