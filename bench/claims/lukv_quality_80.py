"""lukv-quality-80: answers about contexts of which 80% was removed (``kvzap``, ``allocator=lukv``) are nearly as good.

Of the exact composite at most 5 points are lost, and KVzip's composite is reached at the same bytes.
Judged from the records of ``python -m bench.compression_study`` below ``bench/results/<hardware>/<month>/compression``,
which take hours to make: the question unknown, both models, 2,048 and 4,096 tokens, on what exact KV can do.
"""

from __future__ import annotations

from bench.harness import Outcome
from bench.quality import Bar, judged

BAR = Bar(0.8, within=5.0, yardstick=True)


def measure(quick: bool) -> Outcome:
    return judged("lukv-quality-80", BAR, quick)
