"""What is on, and what is off because of what."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kvloom.cli.capabilities import capabilities, told
from kvloom.config import CacheConfig, EngineConfig, EventsConfig, ServerConfig, TierConfig

from .conftest import manifest

PLAIN = EngineConfig(model="mock"), ServerConfig(), EventsConfig()


def off(config: EngineConfig, server: ServerConfig, events: EventsConfig, **model: object) -> dict[str, str | None]:
    made = manifest(Path("."))
    if model:
        made = dataclasses.replace(
            made,
            spec=dataclasses.replace(made.spec, windows=(None, None, None)),
            text=dataclasses.replace(made.text, chat_template="{{ messages }}"),
        )
    return {each.name: each.off for each in capabilities(made, config, server, events)}


def test_what_the_model_lacks_and_what_nobody_turned_on() -> None:
    plain = off(*PLAIN)
    assert plain["prefix reuse"] is None
    assert plain["chat and tools"] == "the model has no chat template"
    assert plain["fusion of documents"] is None
    assert plain["disk tier"] == "--cache-dir"
    assert plain["prompts by bands"] == "--bands"
    assert plain["TLS"] == "--ssl-certfile"
    on, without = told(capabilities(manifest(Path(".")), *PLAIN))
    assert on.startswith("on         text completions, ")
    assert "disk tier (--cache-dir)" in without


def test_everything_can_be_on() -> None:
    config = EngineConfig(
        model="mock",
        cache=CacheConfig(bands=2),
        tiers=TierConfig(warm_bytes="1GiB", cache_dir="kv", remote_url="valkey://localhost"),
    )
    server = ServerConfig(
        compression="knorm:ratio=0.5",
        request_log="log",
        ssl_certfile="a",
        ssl_keyfile="b",
        otlp_traces_endpoint="http://localhost:4318/v1/traces",
    )
    events = EventsConfig(kv_events_endpoint="tcp://*:5557")
    assert {name for name, why in off(config, server, events, able=True).items() if why} == set()
    assert off(dataclasses.replace(config, tiers=TierConfig()), server, events)["prompts by bands"] == "no tier"
    (on,) = told([each for each in capabilities(manifest(Path(".")), config, server, events) if each.off is None])
    assert "disk tier" in on
