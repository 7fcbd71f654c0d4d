"""Settings of what keeps KV that RAM has no room for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from kvloom.config.machine import parse_bytes
from kvloom.errors import ConfigError

TierName = Literal["warm", "warm_int8", "disk", "remote"]


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
