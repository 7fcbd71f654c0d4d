"""An engine with a cache directory in a process of its own, for what happens when it starts again.

    python -m bench.restarts DIRECTORY serve    one prompt after the other, written behind, until somebody kills it
    python -m bench.restarts DIRECTORY told     answers JSON lines {"prompt": [..], "cold": bool} until end of file

``cold``: everything is computed, and nothing is kept. Otherwise RAM is emptied afterwards, so that what is found the
next time is found on disk.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kvloom import LLM, CacheParams, SamplingParams, TierConfig

MODEL = "smollm2-135m-instruct"
PARAMS = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


def opened(directory: str, faults: str | None = None) -> LLM:
    return LLM(MODEL, kv_bytes="1GiB", tiers=TierConfig(cache_dir=directory, disk_bytes="4GiB", tier_faults=faults))


def answered(llm: LLM, prompt: list[int], cold: bool) -> dict[str, Any]:
    """Tokens, seconds to the first one, and where the prompt's KV came from."""
    cache = CacheParams(read=False, write=False) if cold else CacheParams()
    (output,) = llm.generate([{"prompt_token_ids": prompt}], PARAMS, cache_params=cache)
    llm.engine.tiers.flush(30)
    llm.engine.check()
    llm.engine.ledger.reset()
    disk = llm.engine.stats().cache.tiers["disk"]
    return {
        "tokens": list(output.outputs[0].token_ids),
        "ttft_s": output.metrics.ttft_s,
        "from_disk": sum(len(part.span) for part in output.metrics.reused if part.tier == "disk"),
        "faults": disk.faults,
        "used_bytes": disk.used_bytes,
        "budget_bytes": disk.budget_bytes,
        "pages": disk.pages,
    }


def main() -> None:
    directory, what = sys.argv[1:3]
    with opened(directory) as llm:
        print("ready", flush=True)
        if what == "serve":
            for line in sys.stdin:
                llm.generate([{"prompt_token_ids": json.loads(line)["prompt"]}], PARAMS)
                print("done", flush=True)
        else:
            for line in sys.stdin:
                asked = json.loads(line)
                print(json.dumps(answered(llm, asked["prompt"], asked["cold"])), flush=True)


if __name__ == "__main__":
    main()
