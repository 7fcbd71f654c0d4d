"""The flags of ``vllm serve``: those with another name here, those without effect, and those that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from kvloom.config import KvDtype
from kvloom.engine.vllm_names import HOLDS, NOT_HERE
from kvloom.engine.vllm_names import RENAMED as RENAMED_ARGUMENTS
from kvloom.errors import ConfigError


def _of_switch(values: Sequence[object]) -> tuple[bool, ...]:
    return tuple(value for value in values if isinstance(value, bool))


RENAMED: Mapping[str, str] = {
    **{_theirs.replace("_", "-"): ours.replace("_", "-") for _theirs, ours in RENAMED_ARGUMENTS.items()},
    "kv-cache-dtype": "kv-dtype",
    "allowed-origins": "cors-origins",
}
"""Flags with a value that both have. ``auto`` leaves the default alone."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "tensor-parallel-size": ("1",),
    "pipeline-parallel-size": ("1",),
    "data-parallel-size": ("1",),
    "block-size": ("16",),
    "dtype": ("auto",),
    "load-format": ("auto",),
    "tokenizer-mode": ("auto",),
    "task": ("auto", "generate"),
    "runner": ("auto", "generate"),
    "uvicorn-log-level": ("error", "warning", "info"),
}
"""Flags with a value that say what is so anyway."""

SWITCHES: Mapping[str, tuple[bool, ...]] = {
    **{name.replace("_", "-"): said for name, values in HOLDS.items() if (said := _of_switch(values))},
    "enable-auto-tool-choice": (True,),
    "enable-prompt-tokens-details": (True,),
    "enable-tokenizer-info-endpoint": (True,),
    "disable-log-requests": (True, False),
    "enable-log-requests": (False,),
    "disable-uvicorn-access-log": (True,),
    "disable-frontend-multiprocessing": (True, False),
    "async-scheduling": (True, False),
}
"""Flags without a value, and what may be said by them: with ``no-`` before the name, False."""

REFUSED: Mapping[str, str] = {
    **{
        name.replace("_", "-"): says
        for name, says in NOT_HERE.items()
        if name not in ("kv_cache_dtype", "block_size", "swap_space", "enable_lora")
    },
    "swap-space": "KV of running requests is never swapped; for what was evicted, --warm-bytes 4GiB",
    "enable-lora": "LoRA is not supported",
    "lora-modules": "LoRA is not supported",
    "chat-template": "the chat template is always the model's own",
    "tool-call-parser": "tool calls are read as the model's chat template writes them",
    "kv-transfer-config": "for KV that several engines share, --remote-url",
    "distributed-executor-backend": "there is one process",
    "ssl-cert-reqs": "with --ssl-ca-certs clients must show a certificate, without it none is asked for",
    "root-path": "serve under a path with a proxy that removes it",
    "headless": "there is one process",
}
"""What to do instead."""

_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size", "-dp": "data-parallel-size"}
_EVENTS = {
    "endpoint": "kv-events-endpoint",
    "replay_endpoint": "kv-events-replay-endpoint",
    "snapshot_endpoint": "kv-events-snapshot-endpoint",
    "topic": "kv-events-topic",
    "buffer_steps": "kv-events-buffer-steps",
    "hwm": "kv-events-hwm",
    "max_queue_size": "kv-events-queue",
}
_EVENTS_ENDPOINT = "tcp://*:5557"
"""vLLM's own, where its configuration names none."""


@dataclass(frozen=True, slots=True)
class _Flag:
    """As it was written; ``value``: None if the next argument is it, or there is none."""

    name: str
    value: str | None


def in_our_words(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of ``kvloom serve``, with vLLM's flags replaced. Raises ConfigError for what cannot be had."""
    rest, found = list(arguments), list[str]()
    while rest:
        argument = rest.pop(0)
        flag = _flag(argument)
        if flag is None:
            found.append(argument)
        else:
            found += _translated(flag, argument, rest)
    return found


def _flag(argument: str) -> _Flag | None:
    if argument in _SHORT:
        return _Flag(_SHORT[argument], None)
    if not argument.startswith("--"):
        return None
    name, equals, value = argument[2:].partition("=")
    return _Flag(name.replace("_", "-"), value if equals else None)


def _translated(flag: _Flag, argument: str, rest: list[str]) -> list[str]:
    """In our words; takes the flag's value from ``rest`` if it is there."""
    name = flag.name
    switch = name.removeprefix("no-")
    if switch in SWITCHES:
        said = switch == name
        if said not in SWITCHES[switch]:
            raise ConfigError(f"`{argument}`: this cannot be turned {'on' if said else 'off'} here")
        return []
    if name in REFUSED:
        raise ConfigError(f"`--{name}` is a flag of vLLM that kvloom does not support", hint=REFUSED[name])
    if name == "kv-events-config":
        return list(_events(_value(flag, rest)))
    if name in VALUES:
        value = _value(flag, rest)
        if value not in VALUES[name]:
            raise ConfigError(f"`--{name}` can only be {' or '.join(VALUES[name])} here, got `{value}`")
        return []
    if name in RENAMED:
        value = _value(flag, rest)
        return [] if value == "auto" else [f"--{RENAMED[name]}", _named(name, value)]
    return [argument]


def _value(flag: _Flag, rest: list[str]) -> str:
    if flag.value is not None:
        return flag.value
    if not rest:
        raise ConfigError(f"`--{flag.name}` needs a value")
    return rest.pop(0)


def _named(name: str, value: str) -> str:
    """A value in our words."""
    if name == "kv-cache-dtype" and value not in get_args(KvDtype):
        raise ConfigError(
            f"`--{name}` cannot be `{value}` here", hint=f"auto, or one of {', '.join(get_args(KvDtype))}"
        )
    if name == "allowed-origins":
        origins = _parsed(name, value)
        if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
            raise ConfigError(f"`--{name}` must be a list of origins in JSON")
        return ",".join(origins)
    return value


def _events(text: str) -> Iterator[str]:
    config = _parsed("kv-events-config", text)
    if not isinstance(config, dict):
        raise ConfigError("`--kv-events-config` must be an object in JSON")
    unknown = config.keys() - {*_EVENTS, "enable_kv_cache_events", "publisher"}
    if unknown:
        raise ConfigError(f"`--kv-events-config` has no `{min(unknown)}`", hint=f"it may have {', '.join(_EVENTS)}")
    on = config.get("enable_kv_cache_events", False)
    publisher = config.get("publisher") or ("zmq" if on else "null")
    if publisher not in ("zmq", "null"):
        raise ConfigError(f"`--kv-events-config`: there is no publisher `{publisher}`", hint="zmq, or null for none")
    if not on or publisher == "null":
        return
    for key, value in ({"endpoint": _EVENTS_ENDPOINT} | config).items():
        if key in _EVENTS and value is not None and value != "":
            yield from (f"--{_EVENTS[key]}", str(value))


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"`--{name}` is not valid JSON: {error}") from None
