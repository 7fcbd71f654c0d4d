"""Events about KV, if they are wanted: a feed that hears the engine, and a publisher."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from kvloom.config import EventsConfig
from kvloom.errors import ConfigError
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.events.feed import Feed

if TYPE_CHECKING:
    from kvloom.server.events.publisher import Publisher


@dataclass(frozen=True, slots=True)
class KvEvents(Collector):
    """``dropped``: events that nobody heard of, as the publisher did not keep up."""

    feed: Feed
    publisher: Publisher
    model: str

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, says, value in (
            ("kvloom:kv_event_batches", "Batches of events about KV that were published", self.publisher.batches),
            ("kvloom:kv_events_dropped", "Events about KV dropped for want of room in the queue", self.feed.dropped),
        ):
            metric = CounterMetricFamily(name, says, labels=("model_name",))
            metric.add_metric((self.model,), value)
            yield metric

    def close(self) -> None:
        self.publisher.close()


def open_events(config: EventsConfig, engine: ServedEngine) -> KvEvents | None:
    """None where there is no endpoint. Raises ConfigError. Not from a running event loop."""
    if config.kv_events_endpoint is None:
        return None
    try:
        from kvloom.server.events.publisher import Publisher
        from kvloom.server.events.told import Told
    except ImportError as error:
        raise ConfigError(
            f"events about KV need `{error.name}`, which is not installed", hint="pip install 'kvloom[events]'"
        ) from None
    feed = Feed(engine.facts.formats, config.kv_events_queue)
    publisher = Publisher(config, feed, Told(engine.facts))
    asyncio.run(engine.listen(feed))
    return KvEvents(feed, publisher, engine.model_name)
