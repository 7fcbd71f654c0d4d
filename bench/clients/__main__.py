"""Try clients and print what came of it: ``python -m bench.clients [NAME...]``, all of them by default."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.clients.attempt import try_all
from bench.clients.table import CLIENTS


def main(names: Sequence[str]) -> int:
    known = {client.name: client for client in CLIENTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no client `{unknown[0]}`\nhint: there are {', '.join(known)}", file=sys.stderr)
        return 2
    works = True
    for tried in try_all([known[name] for name in names] or CLIENTS):
        print(f"{tried.client.name}: {tried.not_run or f'{tried.works} of {len(tried.cells)}'}", flush=True)
        works = works and not tried.not_run and tried.works == len(tried.cells)
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
