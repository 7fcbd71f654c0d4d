"""The JSON that the page draws from: plain numbers and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kvloom.engine.account import missed_by_reason, reused_by_tier, saved_s
from kvloom.engine.outputs import CompressedContext, FusedPrompt, GuardReport
from kvloom.engine.overview import ContextView, Exact, Stretch
from kvloom.engine.stats import EngineStats, TierStats
from kvloom.memory.occupancy import Occupancy
from kvloom.policy.cost import PrefillCost
from kvloom.segment import Miss, Why
from kvloom.server.admin.public_stats import public_stats, public_why
from kvloom.server.admin.recent import Answered, Asked
from kvloom.server.window.glances import Glance

Json = dict[str, object]

_MOST_SPANS = 64
_ID = re.compile(r"(.*?[-_])?([0-9a-f]{10})[0-9a-f]{22}(.*)")
_LONGEST_NAME = 40


def short_name(request_id: str) -> str:
    """For people to tell requests apart. Who sees it can ask for nothing by it: stored responses are read by their ids.

    >>> short_name("chatcmpl-0123456789abcdef0123456789abcdef-0")
    'chatcmpl-0123456789-0'
    """
    found = _ID.fullmatch(request_id)
    return "".join(part or "" for part in found.groups()) if found else request_id[:_LONGEST_NAME]


def state_of(stats: EngineStats, glance: Glance, show_owners: bool) -> Json:
    """Counters of the whole engine, and the contexts of a glance. ``show_owners``: say whose they are."""
    asked = {each.request_id: each for each in glance.asked}
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "totals": _totals(public_stats(stats)),
        "memory": _memory(stats, glance.overview.memory),
        "tiers": [_tier(name, tier) for name, tier in stats.cache.tiers.items()],
        "contexts": [_context(each, asked[each.request_id], show_owners) for each in glance.overview.contexts],
    }


def answer_of(answer: Answered, cost: PrefillCost | None, show_owner: bool) -> Json:
    """``cost``: of prefill as measured now; None: not known yet."""
    metrics = answer.metrics
    return {
        "number": answer.number,
        "id": short_name(answer.request_id),
        "owner": answer.owner if show_owner else None,
        "at": answer.at_s,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.tokens,
        "cached_tokens": metrics.cached_tokens,
        "lossy_tokens": metrics.lossy_tokens,
        "computed_tokens": metrics.computed_tokens,
        "reused_by_tier": reused_by_tier(metrics),
        "missed_by_reason": missed_by_reason(metrics, public_why),
        "reused": [[each.span.start, each.span.stop, each.tier] for each in metrics.reused[:_MOST_SPANS]],
        "missed": _joined(metrics.misses)[:_MOST_SPANS],
        "saved_s": saved_s(metrics, cost),
        "queue_s": metrics.queue_s,
        "ttft_s": metrics.ttft_s,
        "total_s": metrics.total_s,
        "tokens_per_s": answer.tokens_per_s,
        "kv_bytes": metrics.kv_bytes,
        "preemptions": metrics.preemptions,
        "method": None if metrics.compressed is None else metrics.compressed.method,
        "guard": None if metrics.guard is None else _guard(metrics.guard),
        "fused": None if metrics.fused is None else _fused(metrics.fused),
    }


def _joined(misses: Iterable[Miss]) -> list[list[int | str]]:
    joined: list[list[int | str]] = []
    for miss in misses:
        start, stop, why = miss.span.start, miss.span.stop, public_why(miss.why)
        if joined and joined[-1][1:] == [start, why]:
            joined[-1][1] = stop
        else:
            joined.append([start, stop, why])
    return joined


def _guard(guard: GuardReport) -> Json:
    return {
        "checks": guard.checks,
        "agreed": guard.agreed,
        "restored_at": guard.restored_at,
        "lost_at": guard.lost_at,
    }


def _fused(fused: FusedPrompt) -> Json:
    return {
        "selector": fused.selector,
        "documents": fused.documents,
        "found": fused.found,
        "repaired": fused.repaired,
        "compression": fused.compression,
    }


def _totals(stats: EngineStats) -> Json:
    cache = stats.cache
    return {
        "steps": stats.steps,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "computed_tokens": stats.computed_tokens,
        "preemptions": stats.preemptions,
        "evicted_pages": cache.evicted_pages,
        "hit_tokens": cache.hit_tokens,
        "lossy_tokens": cache.lossy_tokens,
        "miss_tokens": cache.miss_tokens,
        "hits_by_tier": cache.hit_tokens_by_tier,
        "misses_by_reason": cache.misses_by_why,
        "finished": stats.finished,
    }


def _memory(stats: EngineStats, memory: Occupancy) -> Json:
    cache = stats.cache
    return {
        "budget_bytes": cache.budget_bytes,
        "used_bytes": cache.used_bytes,
        "held_bytes": cache.held_bytes,
        "cached_bytes": cache.cached_bytes,
        "pinned_bytes": cache.pinned_bytes,
        "metadata_bytes": cache.metadata_bytes,
        "formats": [
            {
                "name": use.format.name,
                "codec": use.format.codec,
                "by_head": use.format.in_extents,
                "held_bytes": use.held_pages * use.page_bytes,
                "cached_bytes": use.idle_pages * use.page_bytes,
                "pages": use.held_pages + use.idle_pages,
            }
            for use in memory.formats
        ],
        "slab_bytes": memory.slab_bytes,
        "num_slabs": memory.num_slabs,
        "slabs": [
            None if slab is None else [slab.format, round(slab.filled, 3), round(slab.held, 3)] for slab in memory.slabs
        ],
    }


def _tier(name: str, tier: TierStats) -> Json:
    return {
        "name": name,
        "budget_bytes": tier.budget_bytes,
        "used_bytes": tier.used_bytes,
        "pages": tier.pages,
        "written_pages": tier.written_pages,
        "loaded_pages": tier.loaded_pages,
        "loaded_bytes": tier.loaded_bytes,
        "load_seconds": tier.load_seconds,
        "dropped_pages": tier.dropped_pages,
        "faults": tier.faults,
    }


def _context(context: ContextView, asked: Asked, show_owner: bool) -> Json:
    return {
        "id": short_name(context.request_id),
        "owner": asked.owner if show_owner else None,
        "at": asked.at_s,
        "status": context.status,
        "prompt_tokens": context.prompt,
        "tokens": context.length,
        "held_bytes": context.held_bytes,
        "stretches": [_stretch(each) for each in context.stretches],
        "compressed": _compressed(context.compressed, context.exact),
    }


def _stretch(stretch: Stretch) -> list[int | str]:
    origin = Why.NEW if stretch.origin == Why.OTHER_SALT else stretch.origin
    return [stretch.start, stretch.stop, stretch.state, origin]


def _compressed(compressed: CompressedContext | None, exact: Exact | None) -> Json | None:
    if compressed is None or exact is None:
        return None
    had: Mapping[int, int] = exact.entries
    return {
        "method": compressed.method,
        "params": dict(compressed.params),
        "ratio": compressed.ratio,
        "budget": compressed.budget,
        "times": compressed.times,
        "tokens": compressed.tokens,
        "protected": compressed.protected,
        "bytes": compressed.bytes,
        "exact_bytes": exact.bytes,
        "layers": [[layer, had[layer], list(kept)] for layer, kept in sorted(compressed.kept.items())],
    }
