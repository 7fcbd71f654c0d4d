"""What a server has on, and what is off because of what: two lines at its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvloom.config import EngineConfig, EventsConfig, ServerConfig

if TYPE_CHECKING:
    from kvloom.model.files.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Capability:
    """``off``: why it is; None: it is on."""

    name: str
    off: str | None = None


def capabilities(
    manifest: Manifest, config: EngineConfig, server: ServerConfig, events: EventsConfig
) -> tuple[Capability, ...]:
    """Of the model first, then what the settings say."""
    template = manifest.text.chat_template
    return (
        Capability("text completions"),
        Capability("chat and tools", None if template else "the model has no chat template"),
        Capability("structured output"),
        Capability("embeddings"),
        Capability("prefix reuse"),
        Capability("fusion of documents"),
        *_tiers(config),
        Capability("compression by default", "--compression" if server.compression == "exact" else None),
        Capability("KV events", None if events.kv_events_endpoint else "--kv-events-endpoint"),
        Capability("request log", None if server.request_log else "--request-log"),
        Capability("traces", None if server.otlp_traces_endpoint else "--otlp-traces-endpoint"),
        Capability("TLS", None if server.ssl_certfile else "--ssl-certfile"),
    )


def told(found: Sequence[Capability]) -> Iterator[str]:
    """A line with what is on, and one with what is off: the flag that turns it on, or why it cannot be had."""
    yield f"on         {', '.join(each.name for each in found if each.off is None)}"
    off = [f"{each.name} ({each.off})" for each in found if each.off is not None]
    if off:
        yield f"off        {', '.join(off)}"


def _tiers(config: EngineConfig) -> Iterator[Capability]:
    tiers = config.tiers
    yield Capability("warm tier", None if tiers.warm_bytes else "--warm-bytes")
    yield Capability("disk tier", None if tiers.cache_dir else "--cache-dir")
    yield Capability("remote tier", None if tiers.remote_url else "--remote-url")
    yield Capability("prompts by bands", _no_bands(config))


def _no_bands(config: EngineConfig) -> str | None:
    if config.cache.bands == 1:
        return "--bands"
    tiers = config.tiers
    return None if tiers.warm_bytes or tiers.cache_dir or tiers.remote_url else "no tier"
