"""A process that adds passages to a cache directory, until somebody kills it: python -m bench.adding DIR TOKENS FIRST

``TOKENS``: of a passage. ``FIRST``: the number of the first, among those of ``materialise.passages_of``. Says ``added``
after each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.claims.matkv import opened
from bench.materialise import passages_of


def main() -> None:
    directory, tokens, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with opened(directory) as llm:
        for passage in passages_of(llm, first + 64, tokens)[first:]:
            llm.chunks.add([passage])
            print("added", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
