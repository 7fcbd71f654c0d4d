"""API keys: their names, the salts that separate their KV, and what is done to contexts by default."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError, DataFileError, ParamsError
from kvloom.policy.compression import Compression, parse_compression, text_of
from kvloom.server.edge.keys_file import read_keys
from kvloom.server.edge.limits import NO_LIMITS, Limits

Role = Literal["user", "admin"]

_SALT_LABEL = b"kvloom cache salt 1\0"
"""Sets this use of a key apart from every other. Part of what salts are: changing it empties all caches."""


@dataclass(frozen=True, slots=True)
class Key:
    """``name`` is for logs and fair queueing; ``secret`` is what clients send, and is never shown.

    ``compression``: what is done to contexts unless a request says; None: nothing. ``limits``: of its requests.
    """

    name: str
    secret: str = field(repr=False)
    role: Role = "user"
    compression: Compression | None = None
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        if not self.secret.isprintable() or self.secret != self.secret.strip():
            raise ConfigError(
                f"the key `{self.name}` has control characters, or white space at an end",
                hint="it could not be sent in a header",
            )

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.secret.encode()).digest()

    def salt(self, own: str | None) -> str:
        """The salt that separates this key's KV from all other keys', and within it each of the client's ``own`` salts.

        It depends only on the secret and ``own``, and reveals neither.
        """
        asked = b"\0" if own is None else b"\1" + own.encode()
        return hmac.digest(self.secret.encode(), _SALT_LABEL + asked, "sha256").hex()


class Keyring:
    """All keys of a server. Without any, every client is served, with ``compression`` as its default, and ``limits``
    for every address.
    """

    def __init__(
        self, keys: tuple[Key, ...] = (), compression: Compression | None = None, limits: Limits = NO_LIMITS
    ) -> None:
        """Raises ConfigError when two keys share a name or a secret."""
        self.keys, self.compression, self.limits = keys, compression, limits
        self._digests = [(key, key.digest) for key in keys]
        for before, key in enumerate(keys):
            for other in keys[:before]:
                if key.name == other.name:
                    raise ConfigError(f"two API keys have the name `{key.name}`")
                if key.secret == other.secret:
                    raise ConfigError(f"the API keys `{other.name}` and `{key.name}` are the same")

    @classmethod
    def of(cls, config: ServerConfig) -> Keyring:
        """The keys from the environment and from the file. What a key does not say is as the server's setting says.

        Raises ConfigError or DataFileError.
        """
        keys, default = [], _default(config)
        limits = Limits(config.requests_per_minute, config.concurrent_requests)
        if config.api_key is not None:
            keys.append(Key("default", config.api_key, compression=default, limits=limits))
        if config.admin_key is not None:
            keys.append(Key("admin", config.admin_key, "admin", default, limits))
        if config.api_keys_file is not None:
            path = Path(config.api_keys_file)
            for line in read_keys(path):
                try:
                    own = default if line.compression is None else parse_compression(line.compression)
                    allowed = dataclasses.replace(limits, **line.limits)
                    keys.append(Key(line.name, line.secret, "admin" if line.admin else "user", own, allowed))
                except (ConfigError, ParamsError) as error:
                    raise DataFileError(str(error), path=path, line=line.number, hint=error.hint) from None
        return cls(tuple(keys), default, limits)

    @property
    def compressions(self) -> tuple[Compression, ...]:
        """The different ones that some client has as its default."""
        asked = [key.compression for key in self.keys] if self.keys else [self.compression]
        return tuple({text_of(each): each for each in asked if each is not None}.values())

    def find(self, authorization: bytes) -> Key | None:
        """The key in an ``Authorization`` header's value. Compares in constant time."""
        scheme, _, token = authorization.partition(b" ")
        found = self.secret(token)
        return found if scheme.lower() == b"bearer" else None

    def secret(self, token: bytes) -> Key | None:
        """The key that this is. Compares in constant time."""
        digest = hashlib.sha256(token.strip(b" \t")).digest()
        found = [key for key, known in self._digests if hmac.compare_digest(known, digest)]
        return found[0] if found else None


def _default(config: ServerConfig) -> Compression | None:
    try:
        return parse_compression(config.compression)
    except ParamsError as error:
        raise ConfigError(f"compression `{config.compression}`: {error}", hint=error.hint) from None
