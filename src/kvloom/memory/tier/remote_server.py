"""The few commands that a remote tier needs of a server which speaks the Valkey (Redis) protocol.

name of a value   NAMESPACE:GROUP:KEY      the page key in hexadecimal
its expiry        TTL seconds after its last use
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kvloom.config import RemoteConfig
from kvloom.errors import ConfigError
from kvloom.memory.tier.answer_socket import answering_in_time
from kvloom.memory.tier.base import Fault, Place, TierFault
from kvloom.segment import PageKey

_SCAN_COUNT = 1000  # keys looked at per command: a millisecond of the server's time
_MOST_PARTS = 10**6
_URL_OPTIONS = {"db", "username", "password", "protocol"} | {
    f"ssl_{name}" for name in ("ca_certs", "ca_path", "certfile", "keyfile", "cert_reqs", "check_hostname")
}
_NAME = re.compile(rb"[^:]+:(\d{1,4}):([0-9a-f]{64})")


class RemoteServer:
    """A pool of connections, opened when they are first needed.

    The constructor raises ConfigError; methods raise TierFault: FAILED, SLOW, FULL, or CORRUPT for what is no string of
    bytes. The timeout bounds each wait for the server: to connect, to send, and for the whole of an answer.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self._valkey = _client_library()
        self._client = _client(self._valkey, config.url, config.timeout_seconds)
        self._prefix = f"{config.namespace}:"
        self._ttl_seconds = config.ttl_seconds
        self.timeout_seconds = config.timeout_seconds
        self.address = _without_secrets(config.url)

    def name_of(self, place: Place) -> str:
        return f"{self._prefix}{place.group}:{place.key.hex()}"

    def get(self, place: Place) -> bytes | None:
        """The value, which counts as a use of it."""
        with self._faults():
            value = self._client.getex(self.name_of(place), ex=self._ttl_seconds)
            if not isinstance(value, bytes | None):
                raise TypeError(f"no string of bytes, but {type(value).__name__}")
            return value

    def touch(self, place: Place) -> bool:
        """Count a use. Whether it is there."""
        with self._faults():
            return bool(self._client.expire(self.name_of(place), self._ttl_seconds))

    def put(self, place: Place, value: bytes) -> None:
        with self._faults():
            self._client.set(self.name_of(place), value, ex=self._ttl_seconds)

    def drop(self, places: Iterable[Place]) -> None:
        with self._faults():
            self._client.unlink(*map(self.name_of, places))

    def places(self) -> Iterator[list[Place]]:
        """All places of the namespace, in parts, by one command each: at least those that are there all the while."""
        cursor = 0
        for _ in range(_MOST_PARTS):
            with self._faults():
                cursor, names = self._client.scan(cursor, match=f"{self._prefix}*", count=_SCAN_COUNT)
                part = [place for place in map(_place_of, names) if place is not None]
            yield part
            if cursor == 0:
                return
        raise TierFault(Fault.FAILED, f"`{self.address}`: a scan of the database comes to no end")

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Say with a TierFault what the client library says with its own exceptions."""
        errors = self._valkey.exceptions
        try:
            yield
        except errors.TimeoutError as error:
            raise TierFault(Fault.SLOW, f"`{self.address}` did not answer in time: {error}") from error
        except errors.OutOfMemoryError as error:
            raise TierFault(Fault.FULL, f"`{self.address}` has no memory left: {error}") from error
        except errors.ResponseError as error:
            fault = Fault.CORRUPT if str(error).startswith("WRONGTYPE") else Fault.FAILED
            raise TierFault(fault, f"`{self.address}`: {error}") from error
        except Exception as error:  # whatever the library makes of an answer that is none
            raise TierFault(Fault.FAILED, f"`{self.address}`: {type(error).__name__}: {error}") from error


def _client_library() -> ModuleType:
    try:
        return importlib.import_module("valkey")
    except ModuleNotFoundError:
        raise ConfigError("a remote tier needs the package `valkey`", hint="pip install 'kvloom[valkey]'") from None


def _client(library: ModuleType, url: str, timeout_seconds: float) -> Any:
    for option in set(parse_qs(urlsplit(url).query)) - _URL_OPTIONS:
        raise ConfigError(
            f"the URL of a remote tier sets no `{option}`", hint=f"it may set {', '.join(sorted(_URL_OPTIONS))}"
        )
    try:
        client = library.Valkey.from_url(url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds)
    except (ValueError, TypeError) as error:
        hint = "write it like valkey://HOST:PORT/0, valkeys://USER:PASSWORD@HOST:PORT/0 or unix:///PATH"
        raise ConfigError(f"`{_without_secrets(url)}` is not the URL of a server: {error}", hint=hint) from None
    pool = client.connection_pool
    pool.connection_class = answering_in_time(pool.connection_class)
    return client


def _without_secrets(url: str) -> str:
    """For messages: no user, password or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place_of(name: bytes) -> Place | None:
    """None: something that is not a page, put into our namespace by others."""
    found = _NAME.fullmatch(name)
    return Place(PageKey(bytes.fromhex(found[2].decode())), int(found[1])) if found else None
