"""What the tiers beside RAM have, did and failed to do, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kvloom.engine.stats import TierStats
from kvloom.memory.tier.base import Fault

_GAUGES = {
    "budget_bytes": "Bytes that a tier may use",
    "used_bytes": "Bytes that a tier uses, metadata included",
    "pages": "Pages in a tier",
}
_COUNTERS = {
    "written_pages": "Pages written to a tier",
    "dropped_pages": "Pages that a tier dropped to stay within its budget",
    "missed_pages": "Pages that left RAM before they were written",
    "offloaded_pages": "Pages of prompts begun by bands that were written to a tier to make room for others",
    "loaded_pages": "Pages loaded from a tier",
    "loaded_bytes": "Bytes loaded from a tier",
    "load_seconds": "Seconds that reading from a tier took, its readers being busy all the time",
    "passed_over": "Prompts whose KV was computed although a tier had it, as that was expected to be faster",
}
_FOREIGN = {
    "pages": "Pages in a tier that are of another model or in another format",
    "bytes": "Bytes that they take",
}


def tier_metrics(tiers: Mapping[str, TierStats], model: str) -> Iterator[Metric]:
    """One metric for each number, labelled with model and tier."""
    labels = ("model_name", "tier")
    for kind, names in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for name, help_text in names.items():
            metric = kind(f"kvloom:tier_{name}", help_text, labels=labels)
            for tier, stats in tiers.items():
                metric.add_metric((model, tier), attrgetter(name)(stats))
            yield metric
    for name, help_text in _FOREIGN.items():
        foreign = GaugeMetricFamily(f"kvloom:tier_foreign_{name}", help_text, labels=(*labels, "differs"))
        for tier, stats in tiers.items():
            for differs, found in sorted(stats.foreign.items()):
                foreign.add_metric((model, tier, differs), attrgetter(name)(found))
        yield foreign
    faults = CounterMetricFamily("kvloom:tier_faults", "Pages not read or not written", labels=(*labels, "fault"))
    for tier, stats in tiers.items():
        for fault in Fault:
            faults.add_metric((model, tier, fault.value), stats.faults.get(fault.value, 0))
    yield faults
