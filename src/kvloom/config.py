"""Every setting, as frozen values. The library's arguments and the CLI's flags are built from these."""

from __future__ import annotations

import math
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from kvloom.errors import ConfigError

KvDtype = Literal["float32", "float16", "bfloat16", "int16", "int8"]
Activations = Literal["float32", "int8"]
GenerationConfig = Literal["auto", "none"]
RetentionName = Literal[
    "lru", "lfu", "fifo", "pgdsf", "max_score", "pensieve", "tail_lru", "pause", "ttl", "asymcache", "survival"
]
LogFormat = Literal["text", "json"]
TierName = Literal["warm", "warm_int8", "disk", "remote"]

DEFAULT_RETENTION: RetentionName = "survival"
"""What serves best over the traces that policies are compared on (``bench.policies``)."""

DEFAULT_KV_DTYPE: KvDtype = "int16"

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_bytes(text: int | str) -> int:
    """Read a size such as ``"2GiB"``, ``"512 MiB"`` or ``1000000``. Raises ConfigError.

    >>> parse_bytes("1.5GiB")
    1610612736
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(text))
        if match is None or match[2].lower() not in _UNITS:
            raise ConfigError(f"cannot read `{text}` as a size in bytes", hint="write it like 2GiB or 512MiB")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise ConfigError(f"a size must be positive, got `{text}`")
    return size


def available_memory_bytes() -> int:
    """Bytes of memory still available to this process: on the machine, or in its container if that has less."""
    return int(min(_machine_bytes(), _container_bytes()))


def _container_bytes() -> float:
    """What the cgroup (v2) leaves; infinity where there is none or it sets no limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return math.inf
    return math.inf if limit == "max" else max(0, int(limit) - used)


def _machine_bytes() -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The main setting is ``kv_bytes``: a hard limit on the data and metadata of all KV.

    ``"auto"`` takes eight full contexts of the model, but at most a quarter of the free memory. ``retention``: which
    reusable pages are evicted first; by default those that pay least for being kept. See ``policy.retention``.
    ``max_pinned_share``: part of ``kv_bytes`` that requests may pin (``CacheParams.pin_s``). ``chunk_share``: part that
    chunks, passages computed alone, do not lose to the KV of texts, nor texts the rest to chunks; what one side leaves
    unused the other has. ``bands``: contiguous ranges of layers whose KV lies in pages of its own; with more than one
    and a tier, a prompt may begin when there is room for one of them. Every page has metadata, so many bands take room.
    """

    kv_bytes: int | str = "auto"
    kv_dtype: KvDtype = DEFAULT_KV_DTYPE
    slab_bytes: int = 2 * 2**20
    retention: RetentionName = DEFAULT_RETENTION
    max_pinned_share: float = 0.25
    bands: int = 1
    chunk_share: float = 0.5

    def __post_init__(self) -> None:
        if self.kv_bytes != "auto":
            parse_bytes(self.kv_bytes)
        if self.kv_dtype not in get_args(KvDtype):
            raise ConfigError(f"unknown kv_dtype `{self.kv_dtype}`", hint=f"one of {', '.join(get_args(KvDtype))}")
        if self.retention not in get_args(RetentionName):
            raise ConfigError(
                f"unknown retention `{self.retention}`", hint=f"one of {', '.join(get_args(RetentionName))}"
            )
        if not 0 <= self.max_pinned_share <= 1:
            raise ConfigError(f"max_pinned_share must be from 0 to 1, got {self.max_pinned_share}")
        if self.bands < 1:
            raise ConfigError(f"bands must be at least 1, got {self.bands}")
        if not 0 <= self.chunk_share <= 1:
            raise ConfigError(f"chunk_share must be from 0 to 1, got {self.chunk_share}")
        if self.slab_bytes < 64 * 2**10 or self.slab_bytes % 4096:
            raise ConfigError(f"slab_bytes must be a multiple of 4096, at least 65536, got {self.slab_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """A server that keeps pages for engines, and speaks the Valkey (Redis) protocol.

    url: ``valkey://HOST:PORT/0``, ``valkeys://USER:PASSWORD@HOST:PORT/0`` (TLS) or ``unix:///PATH``; best with a
    database (the number) for pages alone, because scans look at all keys of it. namespace: begins the names of all
    pages; the engines of a namespace share pages, and clear them for each other. budget_bytes: of what this engine puts
    there. ttl_seconds: how long the server keeps a page after its last use. timeout_seconds: bounds each wait for the
    server. refresh_seconds: how often it is asked which pages others have put there.
    """

    url: str = field(repr=False)
    namespace: str = "kvloom"
    budget_bytes: int | str = "1GiB"
    ttl_seconds: int = 24 * 3600
    timeout_seconds: float = 0.5
    refresh_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not re.fullmatch(
            r"[A-Za-z0-9_.-]{1,64}", self.namespace
        ):  # nothing that a pattern or a name gives a meaning
            raise ConfigError(
                f"`{self.namespace}` cannot be a namespace", hint="1 to 64 letters, digits, and any of `_.-`"
            )
        parse_bytes(self.budget_bytes)
        if not 1 <= self.ttl_seconds <= 10**9:
            raise ConfigError(f"ttl_seconds must be from 1 to a billion, got {self.ttl_seconds}")
        for name in ("timeout_seconds", "refresh_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFaults:
    """What is to go wrong in a tier, for tests of a deployment. Each is the probability per page read or written.

    ``slow``: it takes ``slow_seconds`` longer. ``fail``: the medium reports an error. Reads only: ``short`` and
    ``corrupt``, the page's bytes are really damaged. Writes only: ``full``, there is no room. ``seed``: of all draws.
    """

    tier: TierName
    slow: float = 0.0
    slow_seconds: float = 1.0
    fail: float = 0.0
    short: float = 0.0
    corrupt: float = 0.0
    full: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tier not in get_args(TierName):
            raise ConfigError(f"there is no tier `{self.tier}`", hint=f"one of {', '.join(get_args(TierName))}")
        for name in FAULT_NAMES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability, from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.slow_seconds < math.inf:
            raise ConfigError(f"slow_seconds must not be negative, got {self.slow_seconds}")


FAULT_NAMES = ("slow", "fail", "short", "corrupt", "full")


def parse_faults(text: str) -> TierFaults:
    """Read what is to go wrong in a tier. Raises ConfigError.

    >>> parse_faults("disk:corrupt=0.1,slow=0.5@0.2s,seed=7")
    TierFaults(tier='disk', slow=0.5, slow_seconds=0.2, fail=0.0, short=0.0, corrupt=0.1, full=0.0, seed=7)
    """
    tier, colon, settings = text.partition(":")
    values: dict[str, float] = {}
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        match = re.fullmatch(r"(\w+)\s*=\s*([0-9.]+)(?:@([0-9.]+)s)?", setting)
        if match is None or match[1] not in (*FAULT_NAMES, "seed") or (match[3] and match[1] != "slow"):
            raise ConfigError(f"cannot read `{setting}` as a fault of a tier", hint=_FAULT_HINT)
        if match[1] in values:
            raise ConfigError(f"`{match[1]}` is there twice in `{text}`", hint=_FAULT_HINT)
        try:
            values[match[1]] = int(match[2]) if match[1] == "seed" else float(match[2])
            if match[3]:
                values["slow_seconds"] = float(match[3])
        except ValueError:
            raise ConfigError(f"cannot read a number in `{setting}`", hint=_FAULT_HINT) from None
    if not colon or not set(values) & set(FAULT_NAMES):
        raise ConfigError(f"`{text}` says nothing that is to go wrong in a tier", hint=_FAULT_HINT)
    return TierFaults(tier=tier.strip(), **values)  # type: ignore[arg-type]  # checked there


_FAULT_HINT = (
    "write it like disk:corrupt=0.1,slow=0.5@0.2s with a tier (warm, warm_int8, disk, remote), probabilities from 0 to "
    "1 of slow, fail, short, corrupt or full, and a seed if need be"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierConfig:
    """Where KV is kept that RAM has no room for: nowhere, unless told.

    warm_bytes: of RAM beside ``kv_bytes``, for what is evicted. warm_int8_bytes: of RAM too, for copies in int8 of what
    is not in use any more, about half as large: they are no exact KV, and only for requests that say so
    (``CacheParams.lossy``). cache_dir: a directory for what is not in use any more,
    which outlives the process; of one process at a time. disk_bytes: of files there. remote_url: a server that speaks
    the Valkey (Redis) protocol (``RemoteConfig`` says more). All sizes are hard limits, metadata included.
    tier_faults: what is to go wrong, in the form of ``parse_faults``, several tiers separated by ``;``.
    """

    warm_bytes: int | str | None = None
    warm_int8_bytes: int | str | None = None
    cache_dir: str | None = None
    disk_bytes: int | str = "8GiB"
    remote_url: str | None = field(default=None, repr=False)
    remote_namespace: str = "kvloom"
    remote_bytes: int | str = "1GiB"
    remote_ttl_s: int = 24 * 3600
    remote_timeout_s: float = 0.5
    tier_faults: str | None = None

    def __post_init__(self) -> None:
        for size in (self.warm_bytes, self.warm_int8_bytes, self.disk_bytes, self.remote_bytes):
            if size is not None:
                parse_bytes(size)
        there = {
            "warm": self.warm_bytes,
            "warm_int8": self.warm_int8_bytes,
            "disk": self.cache_dir,
            "remote": self.remote_url,
        }
        for faults in self.faults:
            if there[faults.tier] is None:
                raise ConfigError(f"tier_faults: there is no {faults.tier} tier in which something could go wrong")
        _ = self.remote

    @property
    def remote(self) -> RemoteConfig | None:
        if self.remote_url is None:
            return None
        return RemoteConfig(
            url=self.remote_url,
            namespace=self.remote_namespace,
            budget_bytes=self.remote_bytes,
            ttl_seconds=self.remote_ttl_s,
            timeout_seconds=self.remote_timeout_s,
        )

    @property
    def faults(self) -> tuple[TierFaults, ...]:
        return tuple(parse_faults(text) for text in self.tier_faults.split(";")) if self.tier_faults else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How much runs at once.

    step_tokens: maximum rows computed per step. max_seqs: maximum number of concurrently running sequences.
    max_decode_slowdown: how long a step with prompts may take while answers stream, as a multiple of a step without;
    larger values serve new prompts sooner and make streams less smooth. max_token_latency_s: seconds between two tokens
    of an answer that prompts may not exceed, 99 times of 100; it takes the place of max_decode_slowdown. Where the
    answers alone take longer, prompts are computed a few tokens at a time.
    """

    step_tokens: int = 512
    max_seqs: int = 64
    max_decode_slowdown: float = 2.0
    max_token_latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.step_tokens < 1 or self.max_seqs < 1:
            raise ConfigError("step_tokens and max_seqs must be at least 1")
        if not self.max_decode_slowdown >= 1:
            raise ConfigError(f"max_decode_slowdown must be at least 1, got {self.max_decode_slowdown}")
        if self.max_token_latency_s is not None and not self.max_token_latency_s > 0:
            raise ConfigError(f"max_token_latency_s must be positive, got {self.max_token_latency_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All settings of an engine. ``threads``: None uses all cores available to this process.

    ``activations``: ``"int8"`` rounds them to 8 bits, per group of 32, in products with quantized weights;
    ``"float32"`` is exact. ``generation_config``: sampling defaults for requests that set none; ``"auto"`` uses the
    model's own recommendations, ``"none"`` neutral values.
    """

    model: str
    max_model_len: int | None = None
    threads: int | None = None
    seed: int = 0
    activations: Activations = "int8"
    generation_config: GenerationConfig = "auto"
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    tiers: TierConfig = field(default_factory=TierConfig)

    def __post_init__(self) -> None:
        if self.max_model_len is not None and self.max_model_len < 1:
            raise ConfigError(f"max_model_len must be at least 1, got {self.max_model_len}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")
        if self.activations not in ("float32", "int8"):
            raise ConfigError(f"unknown activations `{self.activations}`", hint="one of float32, int8")
        if self.generation_config not in get_args(GenerationConfig):
            raise ConfigError(f"unknown generation_config `{self.generation_config}`", hint="one of auto, none")


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


def default_threads() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
