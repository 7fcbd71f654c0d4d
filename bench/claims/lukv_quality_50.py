"""lukv-quality-50: answers about contexts of which 50% was removed (``kvzap``, ``allocator=lukv``) are nearly as good.

Of the exact composite at most 2 points are lost.
Judged from the records of ``python -m bench.compression_study`` below ``bench/results/<hardware>/<month>/compression``,
which take hours to make: the question unknown, both models, 2,048 and 4,096 tokens, on what exact KV can do.
"""

from __future__ import annotations

from bench.harness import Outcome
from bench.quality import Bar, judged

BAR = Bar(0.5, within=2.0)


def measure(quick: bool) -> Outcome:
    return judged("lukv-quality-50", BAR, quick)
