"""Notices printed before serving: who can reach the server, who shares KV with whom, what is done to contexts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kvloom.cli.say import bytes_text
from kvloom.config import EventsConfig, ServerConfig
from kvloom.policy.compression import text_of
from kvloom.server.edge.access import is_loopback
from kvloom.server.edge.keys import Key, Keyring
from kvloom.server.edge.keys_file import readable_by_others

if TYPE_CHECKING:
    from kvloom.engine.stats import TierStats


def notices(config: ServerConfig, keyring: Keyring, events: EventsConfig) -> Iterator[str]:
    """A line each."""
    if len(keyring.keys) > 1:
        yield f"keys       {', '.join(map(_named, keyring.keys))}"
    if config.share_prefixes:
        yield "sharing    all clients share the KV of equal prefixes, in whole pages"
    elif len(keyring.keys) > 1:
        yield "sharing    within a key only"
    if keyring.compressions:
        yield f"contexts   {'; '.join(_contexts(keyring))}; unless a request says otherwise"
    if config.request_log is not None:
        yield f"log        a line without text for every answered request, in {config.request_log}"
    if events.kv_events_endpoint is not None:
        yield f"events     about stored KV, on {events.kv_events_endpoint}"
        if any(endpoint and "*" in endpoint for endpoint in (events.kv_events_endpoint, *_asked(events))):
            yield (
                "warning: events about stored KV tell all prompts, as tokens, to whoever reaches this machine "
                "(hint: a firewall, or an ipc:// endpoint)"
            )
    if not keyring.keys and not is_loopback(config.host):
        yield (
            f"warning: whoever reaches {config.host} is served, without a key "
            "(hint: set KVLOOM_API_KEY, or name keys with --api-keys-file)"
        )
    if config.api_keys_file and readable_by_others(Path(config.api_keys_file)):
        yield (
            f"warning: everybody on this machine can read `{config.api_keys_file}` "
            f"(hint: chmod 600 {config.api_keys_file})"
        )


def _asked(events: EventsConfig) -> tuple[str | None, ...]:
    return events.kv_events_replay_endpoint, events.kv_events_snapshot_endpoint


_DIFFERS = {
    "keys": "by a version that names pages otherwise",
    "weights": "by another model, or with other activations",
    "formats": "in other formats",
    "unknown": "by somebody unknown",
}


def foreign(tiers: Mapping[str, TierStats]) -> Iterator[str]:
    """A line for what each tier has that cannot be used, and why not."""
    for name, tier in tiers.items():
        for differs, found in tier.foreign.items():
            yield (
                f"{name:<10} {found.pages:,} of {tier.pages:,} pages ({bytes_text(found.bytes)}) were written "
                f"{_DIFFERS[differs]}: they cannot be used, and go when room is needed"
            )


def _contexts(keyring: Keyring) -> Iterator[str]:
    """What is done to them by default, and to whose it is something else."""
    yield text_of(keyring.compression)
    for key in keyring.keys:
        if key.compression != keyring.compression:
            yield f"{key.name}: {text_of(key.compression)}"


def _named(key: Key) -> str:
    return f"{key.name} (admin)" if key.role == "admin" else key.name
