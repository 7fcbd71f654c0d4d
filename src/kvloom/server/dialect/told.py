"""``usage.kvloom``: what was done to the KV of a request's prompts, for which no API has a field. The same everywhere.

Of a fused prompt:

    |<----------------------------- prompt_tokens ----------------------------->|
    |= prefix_cached =|=========== documents ===========|....... others ........|
                      |= reused =|..|= reused =|........|        and of the documents ``repaired_tokens`` once more

``prefix_cached_tokens``: found exactly as they are. ``reused_tokens``: of documents, found as they are alone.
``computed_tokens``: the rest, so that the three are the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from kvloom.engine.outputs import CompressedContext, FusedPrompt, GuardReport, RequestMetrics
from kvloom.server.dialect.fields import Json

Asked = tuple[int, int, RequestMetrics]
"""Number of a prompt, its tokens, and what the engine says of it."""


def told(prompts: Iterable[Asked]) -> Json:
    """``{"kvloom": {...}}``, or nothing where nothing was done."""
    asked = list(prompts)
    lists: dict[str, list[Json]] = {"compressed": [], "fused": [], "guard": []}
    for number, tokens, metrics in asked:
        if metrics.compressed is not None:
            lists["compressed"].append({"prompt": number, **_compressed(metrics.compressed)})
        if metrics.fused is not None:
            lists["fused"].append({"prompt": number, **_fused(metrics.fused, tokens, metrics.cached_tokens)})
        if metrics.guard is not None:
            lists["guard"].append({"prompt": number, **_seen(metrics.guard)})
    lossy = sum(metrics.lossy_tokens for _, _, metrics in asked)
    ours: Json = {name: value for name, value in (*lists.items(), ("lossy_tokens", lossy)) if value}
    return {"kvloom": ours} if ours else {}


def _compressed(context: CompressedContext) -> Json:
    return {
        "method": context.method,
        "params": dict(context.params),
        "ratio": context.ratio,
        "budget": context.budget,
        "times": context.times,
        "tokens": context.tokens,
        "protected": context.protected,
        "bytes": context.bytes,
        "kept": [{"layer": layer, "entries": list(entries)} for layer, entries in context.kept.items()],
    }


def _fused(fused: FusedPrompt, tokens: int, cached: int) -> Json:
    return {
        "selector": fused.selector,
        "document_tokens": fused.documents,
        "prefix_cached_tokens": cached,
        "reused_tokens": fused.found,
        "computed_tokens": tokens - cached - fused.found,
        "repaired_tokens": fused.repaired,
        "compression": fused.compression,
    }


def _seen(report: GuardReport) -> Json:
    """A divergence that is not finite is null."""
    mean, most = (kl if math.isfinite(kl) else None for kl in (report.mean_kl, report.max_kl))
    return {
        "checks": report.checks,
        "agreed": report.agreed,
        "mean_kl": mean,
        "max_kl": most,
        "bytes": report.bytes,
        "restored_at": report.restored_at,
        "lost_at": report.lost_at,
    }
