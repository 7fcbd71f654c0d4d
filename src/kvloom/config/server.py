"""Settings of the HTTP server."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from kvloom.config.machine import parse_bytes
from kvloom.errors import ConfigError

LogFormat = Literal["text", "json"]


REASONING_PARSERS = ("auto", "none", "qwen3", "glm45", "olmo3", "deepseek_r1", "minimax_m2", "step3", "granite")
"""By vLLM's names, where it has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsConfig:
    """Events about stored KV over ZeroMQ, in vLLM's schema: none, unless there is an endpoint.

    kv_events_endpoint: of a PUB socket. As in vLLM it is bound if it has a `*` or a `::` in it, or begins with `ipc:`
    or `inproc:`, and connected to otherwise. kv_events_replay_endpoint, kv_events_snapshot_endpoint: bound, where
    batches that were missed, or all that is stored, can be asked for. kv_events_topic: begins each message.
    kv_events_buffer_steps: batches kept for replay. kv_events_hwm: messages that a subscriber may be behind, before it
    misses some. kv_events_queue: events that wait to be published; if there are more, all of them are dropped, and
    subscribers are told that nothing is stored.
    """

    kv_events_endpoint: str | None = None
    kv_events_replay_endpoint: str | None = None
    kv_events_snapshot_endpoint: str | None = None
    kv_events_topic: str = ""
    kv_events_buffer_steps: int = 10_000
    kv_events_hwm: int = 100_000
    kv_events_queue: int = 100_000

    def __post_init__(self) -> None:
        for name in ("kv_events_endpoint", "kv_events_replay_endpoint", "kv_events_snapshot_endpoint"):
            endpoint = getattr(self, name)
            if endpoint is not None and not re.match(r"(tcp|ipc|inproc)://.", endpoint):
                raise ConfigError(
                    f"{name}: `{endpoint}` is no endpoint", hint="write it like tcp://*:5557 or ipc:///PATH"
                )
            if endpoint is not None and self.kv_events_endpoint is None:
                raise ConfigError(f"{name} is of no use without kv_events_endpoint")
        for name in ("kv_events_buffer_steps", "kv_events_hwm", "kv_events_queue"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Address, limits and access control of the HTTP server. ``port`` 0 picks a free port.

    Limits, enforced before any key is checked: ``max_connections`` open at once (connections without a complete request
    are closed to make room for new ones); ``max_url_bytes``, ``max_headers`` and ``max_header_bytes`` (names and values
    together) per request. Timeouts: ``header_seconds`` for the headers; ``body_seconds`` without any data of the body
    (which must also average 1 KiB a second); ``send_seconds`` without the client reading any of the answer;
    ``keep_alive_seconds`` for an idle connection after an answer.

    Keys: ``api_key`` is a single key, ``api_keys_file`` a file of keys (``server.edge.keys_file``), ``admin_key`` a
    key that may also reset the cache, as may keys marked ``admin`` in the file. With any of them set, everything but
    ``/health`` and ``/version`` requires a key, and KV is shared only within a key. Without keys, every client is
    served, all share KV, and any may reset the cache if ``host`` is a loopback address.

    ``share_prefixes``: share KV between all clients, in whole pages. Clients cannot then guess others' prompts token by
    token, but can detect whether a whole guessed page is cached. ``open_metrics``: ``/metrics`` and ``/cache`` need no
    key. ``cors_origins``: allowed browser origins, separated by commas; ``*`` allows all. ``served_model_name``: names
    that clients may give the model, separated by commas, the first of which answers bear; None: its own.

    ``compression``: what is done to the contexts of requests that do not say, unless their key does: ``exact``, or a
    method in the text form of ``policy.compression.asked``, which ``Keyring.of`` reads.

    TLS: ``ssl_certfile`` and ``ssl_keyfile``, in PEM; with ``ssl_ca_certs``, clients must show a certificate that one
    of these signed.

    ``log_format``: of what is logged, on standard error: ``text``, or ``json``, an object per line. ``access_log``: a
    line for every HTTP request.

    ``otlp_traces_endpoint``: where a span of OpenTelemetry for every request is sent, in OTLP over HTTP.

    ``reasoning_parser``: how reasoning is told apart from answers: a name of ``REASONING_PARSERS``; ``auto`` looks at
    the chat template.
    ``sessions_dir``: a directory in which admins may save the KV of texts, and restore it from.

    ``request_log``: a file to which a line without text is added for every answered request, that ``kvloom plan trace``
    reads (``server.admin.request_log``); ``request_log_bytes`` bounds it.

    ``drain_seconds``: how long requests in flight may continue after a signal to stop. ``heartbeat_seconds``: silence
    after which a stream gets a comment, so that proxies keep it open. ``max_request_sequences``: maximum of prompts
    times ``n`` in one request.

    ``max_waiting``: maximum of prompts, of all clients together, that wait for the engine to begin with them; more are
    refused, and told to come again.

    ``requests_per_minute``, ``concurrent_requests``: of each key, unless the file of keys says otherwise for it, or
    without keys of each address: of POST requests below ``/v1/``; None: as many as they like.

    Responses that are kept to be continued or read again, for each key (or for all clients together without keys): at
    most ``stored_responses`` of them, which take ``stored_responses_bytes`` as JSON, conversations included; the oldest
    go first, and every one after ``stored_responses_seconds``. Documents that are kept to be named by their ids: for
    each key as much text as ``stored_documents_bytes``, the oldest go first; with a ``cache_dir`` they outlive the
    server.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 16 * 2**20
    max_request_sequences: int = 256
    max_waiting: int = 4096
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    stored_responses: int = 1000
    stored_responses_bytes: int = 64 * 2**20
    stored_responses_seconds: float = 3600.0
    stored_documents_bytes: int = 64 * 2**20
    max_connections: int = 512
    max_url_bytes: int = 8 * 2**10
    max_headers: int = 100
    max_header_bytes: int = 32 * 2**10
    header_seconds: float = 20.0
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    keep_alive_seconds: int = 60
    drain_seconds: int = 30
    heartbeat_seconds: float = 10.0
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    api_keys_file: str | None = None
    share_prefixes: bool = False
    open_metrics: bool = False
    cors_origins: str | None = None
    served_model_name: str | None = None
    compression: str = "exact"
    request_log: str | None = None
    request_log_bytes: int | str = "1GiB"
    sessions_dir: str | None = None
    reasoning_parser: str = "auto"
    otlp_traces_endpoint: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_ca_certs: str | None = None
    log_format: LogFormat = "text"
    access_log: bool = False

    def __post_init__(self) -> None:
        parse_bytes(self.request_log_bytes)
        if self.otlp_traces_endpoint is not None and not re.match(r"https?://.", self.otlp_traces_endpoint):
            raise ConfigError(
                f"otlp_traces_endpoint: `{self.otlp_traces_endpoint}` is no URL",
                hint="OTLP over HTTP: http://HOST:4318/v1/traces",
            )
        if self.reasoning_parser not in REASONING_PARSERS:
            raise ConfigError(
                f"unknown reasoning_parser `{self.reasoning_parser}`", hint=f"one of {', '.join(REASONING_PARSERS)}"
            )
        if self.log_format not in get_args(LogFormat):
            raise ConfigError(
                f"unknown log_format `{self.log_format}`", hint=f"one of {', '.join(get_args(LogFormat))}"
            )
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("TLS needs both ssl_certfile and ssl_keyfile")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ConfigError("ssl_ca_certs is of no use without ssl_certfile and ssl_keyfile")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, got {self.port}")
        if self.max_body_bytes < 1024:
            raise ConfigError(f"max_body_bytes must be at least 1024, got {self.max_body_bytes}")
        for name in (
            "max_request_sequences",
            "max_waiting",
            "max_connections",
            "max_url_bytes",
            "max_headers",
            "max_header_bytes",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("requests_per_minute", "concurrent_requests"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigError(f"{name} must be at least 1, got {limit}")
        for name in ("stored_responses", "stored_responses_bytes", "stored_documents_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in (
            "header_seconds",
            "body_seconds",
            "send_seconds",
            "keep_alive_seconds",
            "stored_responses_seconds",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds must not be negative, got {self.drain_seconds}")
        if not self.heartbeat_seconds > 0:
            raise ConfigError(f"heartbeat_seconds must be positive, got {self.heartbeat_seconds}")
        if self.api_key == "":
            raise ConfigError("the api key is empty", hint="unset KVLOOM_API_KEY to serve without a key")
        if self.admin_key == "":
            raise ConfigError("the admin key is empty", hint="unset KVLOOM_ADMIN_KEY to serve without one")
        if not all(self.served_names):
            raise ConfigError("served_model_name has an empty name", hint="separate names by commas: name,other-name")
        for origin in self.origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError(
                    f"cors_origins: `{origin}` is not an origin",
                    hint="write it like https://app.example, without a path; * is anywhere",
                )

    @property
    def served_names(self) -> tuple[str, ...]:
        """``served_model_name``, one by one; none when it is not set."""
        said = self.served_model_name
        return () if said is None else tuple(name.strip() for name in said.split(","))

    @property
    def origins(self) -> tuple[str, ...]:
        """``cors_origins``, one by one."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",")) if self.cors_origins else ()
