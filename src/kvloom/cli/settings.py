"""Settings as flags and as a file: both made from the config dataclasses, so that a setting is named once.

A flag wins over the file, the file over the default. Secrets come from the environment only.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from kvloom.config import CacheConfig, EngineConfig, EventsConfig, SchedulerConfig, ServerConfig, TierConfig
from kvloom.errors import ConfigError

HELP = {
    "kv_bytes": "Memory for KV, metadata included: a hard limit, such as 2GiB",
    "kv_dtype": "Number format of stored KV",
    "retention": "Which reusable KV is evicted first: lru, lfu or fifo; by cost of recomputing too, pgdsf, pensieve or "
    "asymcache; by reuse so far, max_score or pause; by both, survival; by the requests' ttl_s, ttl; "
    "tail_lru spares long conversations",
    "max_pinned_share": "Part of the KV memory, 0 to 1, that requests may pin",
    "session_share": "Part of the KV memory, 0 to 1, that sessions which come again do not lose to other requests",
    "bands": "Ranges of layers whose KV lies apart: with a tier, a prompt may begin when one of them has room",
    "chunk_share": "Part of the KV memory, 0 to 1, that passages computed alone do not lose to other KV, nor that the "
    "rest to them; see kvloom chunks",
    "max_model_len": "Maximum context length, prompt and answer together",
    "threads": "Number of compute threads",
    "activations": "Precision of activations in products with quantized weights: int8 is fast, float32 exact",
    "generation_config": "Sampling defaults: auto uses the recommendations in the model's files, none ignores them",
    "seed": "Seed for requests that set none",
    "step_tokens": "Maximum number of tokens computed per step",
    "max_seqs": "Maximum number of concurrently running sequences",
    "max_decode_slowdown": "How many times longer a step may take when it computes new prompts while answers stream",
    "max_token_latency_s": "Seconds between two tokens of an answer that new prompts may not exceed, 99 times of 100; "
    "in place of max-decode-slowdown",
    "warm_bytes": "Further RAM for KV that was evicted: a hard limit",
    "warm_int8_bytes": "Further RAM for copies in int8 of KV that is not in use, for requests that take them",
    "cache_dir": "Directory in which KV that is not in use is kept, over restarts too; see kvloom cache",
    "disk_bytes": "Disk space for it: a hard limit",
    "remote_url": "Server that keeps KV for several engines, in the Valkey (Redis) protocol: valkey://HOST:PORT/0",
    "remote_namespace": "What its names begin with: engines of one namespace share KV",
    "remote_bytes": "Memory of that server for this engine's KV: a hard limit",
    "remote_ttl_s": "Seconds that the server keeps KV after its last use",
    "tier_faults": "What is to go wrong in tiers, to see that nothing else does: disk:corrupt=0.1,slow=0.5@0.2s;...",
    "host": "Address to listen on",
    "port": "Port to listen on; 0 picks a free one",
    "max_connections": "Maximum number of open connections",
    "max_request_sequences": "Maximum number of sequences per request: its prompts times n",
    "max_waiting": "Maximum number of prompts that wait; more are refused with status 429",
    "requests_per_minute": "Requests that each key may send per minute, or without keys each address",
    "concurrent_requests": "Requests of each key, or without keys of each address, that may run at once",
    "stored_responses": "Maximum number of responses kept for each key, to be continued",
    "api_keys_file": "File of API keys, one per line: a name, the key, and where they apply admin, if it may reset the "
    "cache, compression=METHOD:..., requests_per_minute=N and concurrent_requests=N",
    "share_prefixes": "Share KV between keys as well, in whole pages",
    "open_metrics": "Serve /metrics and /cache without a key",
    "compression": "What is done to contexts of requests that do not say: exact, or METHOD:ratio=0.5,... as in eval",
    "served_model_name": "Names that clients may give the model, separated by commas, instead of its own",
    "request_log": "File for plan trace: a line for every answered request, lengths and hashes but no text",
    "reasoning_parser": "How reasoning is told apart from answers: auto looks at the chat template, none leaves it in "
    "the text; or a parser of vLLM's, such as qwen3 or deepseek_r1",
    "sessions_dir": "Directory in which admins may save the KV of texts, and restore it from",
    "otlp_traces_endpoint": "Where a span for every request is sent, in OTLP over HTTP: http://HOST:4318/v1/traces",
    "ssl_certfile": "Certificate to serve HTTPS with, in PEM",
    "ssl_keyfile": "Its private key, in PEM",
    "ssl_ca_certs": "Certificates, in PEM, one of which must have signed the one that a client shows",
    "log_format": "Form of log lines on standard error: text or json",
    "access_log": "Log a line for every HTTP request",
    "kv_events_endpoint": "ZeroMQ address to publish events about stored KV on, in vLLM's schema: tcp://*:5557",
    "kv_events_replay_endpoint": "Address where subscribers ask for batches that they missed",
    "kv_events_snapshot_endpoint": "Address where subscribers ask for all that is stored",
    "kv_events_topic": "Topic of the events",
    "kv_events_buffer_steps": "Batches of events kept to be asked for again",
    "kv_events_hwm": "Messages that a subscriber may be behind before it misses some",
    "kv_events_queue": "Events that may wait to be published before all of them are dropped",
    "cors_origins": "Allowed browser origins (CORS), separated by commas; * allows all",
}
"""The settings that have a flag."""

IN_FILE = {
    "slab_bytes": "Size of the pieces that the KV memory is cut into, in which page formats share it",
    "remote_timeout_s": "Seconds after which a wait for the remote server is given up",
    "max_body_bytes": "Largest body of a request",
    "stored_responses_bytes": "Memory for the responses kept for each key, as JSON",
    "stored_responses_seconds": "Seconds for which a response is kept",
    "stored_documents_bytes": "Text of documents with an id that is kept for each key",
    "max_url_bytes": "Longest URL of a request",
    "max_headers": "Maximum number of headers per request",
    "max_header_bytes": "Names and values of a request's headers together, at most",
    "header_seconds": "Seconds within which a request's headers must have come",
    "body_seconds": "Seconds without any data of a body after which its connection is closed",
    "send_seconds": "Seconds without a client reading its answer after which its connection is closed",
    "keep_alive_seconds": "Seconds for which a connection stays open after an answer",
    "drain_seconds": "Seconds that requests in flight have after a signal to stop",
    "heartbeat_seconds": "Silence in seconds after which a stream gets a comment, so that proxies keep it open",
    "request_log_bytes": "Size that the request log may have",
}
"""The settings for the file alone."""

_NONE = (
    "api_keys_file",
    "cors_origins",
    "served_model_name",
    "warm_bytes",
    "warm_int8_bytes",
    "cache_dir",
    "remote_url",
    "tier_faults",
    "max_token_latency_s",
    "request_log",
    "requests_per_minute",
    "concurrent_requests",
    "sessions_dir",
    "otlp_traces_endpoint",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_ca_certs",
    "kv_events_endpoint",
    "kv_events_replay_endpoint",
    "kv_events_snapshot_endpoint",
    "kv_events_topic",
)
_UNSAID = {"max_model_len": "the model's", "threads": "all cores", **dict.fromkeys(_NONE, "none")}
_ELSEWHERE = {"model", "cache", "scheduler", "tiers", "api_key", "admin_key"}  # an argument, the parts, and secrets


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a config dataclass. ``kinds``: the types a value may have."""

    owner: type
    name: str
    kinds: tuple[type, ...]
    default: Any

    @property
    def flag(self) -> str:
        """What is on or off has two."""
        word = self.name.replace("_", "-")
        return f"--{word}/--no-{word}" if self.kinds == (bool,) else f"--{word}"

    def check(self, value: Any) -> None:
        """Raises ConfigError when ``value``, from a file, has the wrong type."""
        if not isinstance(value, _accepted(self.kinds)) or (isinstance(value, bool) and bool not in self.kinds):
            kinds = " or ".join(_WORDS[kind] for kind in self.kinds)
            raise ConfigError(f"setting `{self.name}` must be {kinds}, got {value!r}")


_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _accepted(kinds: tuple[type, ...]) -> tuple[type, ...]:
    """A whole number is a number."""
    return (*kinds, int) if float in kinds else kinds


def _settings_of(owner: Any) -> list[Setting]:
    hints = get_type_hints(owner)
    fields = [field for field in dataclasses.fields(owner) if field.name not in _ELSEWHERE]
    return [Setting(owner, field.name, _kinds(hints[field.name]), field.default) for field in fields]


def _kinds(hint: Any) -> tuple[type, ...]:
    """Plain types in a field's type; a choice of literals is a string."""
    if get_origin(hint) is None:
        return (hint,)
    parts = [part for part in get_args(hint) if part is not NoneType]
    return tuple(dict.fromkeys(part if isinstance(part, type) else type(part) for part in parts))


_OWNERS = {
    "engine": EngineConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "tiers": TierConfig,
    "server": ServerConfig,
    "events": EventsConfig,
}
SETTINGS = {each.name: each for owner in _OWNERS.values() for each in _settings_of(owner)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Values by setting name; what is absent keeps its default."""

    values: Mapping[str, Any]

    def engine(self, model: str) -> EngineConfig:
        """Raises ConfigError."""
        return EngineConfig(
            model=model,
            cache=CacheConfig(**self._of(CacheConfig)),
            scheduler=SchedulerConfig(**self._of(SchedulerConfig)),
            tiers=TierConfig(**self._of(TierConfig)),
            **self._of(EngineConfig),
        )

    def scheduler(self, base: SchedulerConfig) -> SchedulerConfig:
        """``base``, but for what was set. Raises ConfigError."""
        return dataclasses.replace(base, **self._of(SchedulerConfig))

    def server(self, environment: Mapping[str, str]) -> ServerConfig:
        """Raises ConfigError. The secrets come from ``environment``."""
        key, admin = environment.get("KVLOOM_API_KEY"), environment.get("KVLOOM_ADMIN_KEY")
        return ServerConfig(api_key=key, admin_key=admin, **self._of(ServerConfig))

    def events(self) -> EventsConfig:
        """Raises ConfigError."""
        return EventsConfig(**self._of(EventsConfig))

    def _of(self, owner: type) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if SETTINGS[name].owner is owner}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings, named as the flags are. Raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` is not valid TOML: {error}") from None
    values = {name.replace("-", "_"): value for name, value in raw.items()}
    for name, value in values.items():
        if name not in SETTINGS:
            raise ConfigError(f"`{path}` has an unknown setting `{name}`", hint=_meant(name))
        SETTINGS[name].check(value)
    return values


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(SETTINGS)}"


def with_settings(*parts: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the flags of ``parts`` (names in ``_OWNERS``) and ``--config``; it receives ``settings``."""
    owners = [_OWNERS[part] for part in parts]
    flags = [setting for setting in SETTINGS.values() if setting.owner in owners and setting.name in HELP]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def run(*args: Any, config: Path | None, **options: Any) -> None:
            given = {setting.name: options.pop(setting.name) for setting in flags}
            chosen = {name: value for name, value in given.items() if value is not None}
            verb(*args, settings=Settings((read_settings(config) if config else {}) | chosen), **options)

        signature = inspect.signature(verb, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "settings"]
        added = [*map(_option, flags), _CONFIG]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return run

    return decorate


def _option(setting: Setting) -> inspect.Parameter:
    kind = str if str in setting.kinds else setting.kinds[0]
    default = _UNSAID.get(setting.name, "off" if setting.default is False else setting.default)
    panel = "Server" if setting.owner in (ServerConfig, EventsConfig) else "Engine"
    option = typer.Option(setting.flag, help=HELP[setting.name], show_default=str(default), rich_help_panel=panel)
    return _parameter(setting.name, Annotated[kind | None, option])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_CONFIG = _parameter(
    "config",
    Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings, named like the flags", rich_help_panel="Engine"),
    ],
)
