"""API keys: their names, and the salts that separate their KV."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError, DataFileError
from kvloom.server.edge.keys_file import read_keys

Role = Literal["user", "admin"]

_SALT_LABEL = b"kvloom cache salt 1\0"
"""Sets this use of a key apart from every other. Part of what salts are: changing it empties all caches."""


@dataclass(frozen=True, slots=True)
class Key:
    """``name`` is for logs and fair queueing; ``secret`` is what clients send, and is never shown."""

    name: str
    secret: str = field(repr=False)
    role: Role = "user"

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
    """All keys of a server. Without any, every client is served."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        """Raises ConfigError when two keys share a name or a secret."""
        self.keys = keys
        self._digests = [(key, key.digest) for key in keys]
        for before, key in enumerate(keys):
            for other in keys[:before]:
                if key.name == other.name:
                    raise ConfigError(f"two API keys have the name `{key.name}`")
                if key.secret == other.secret:
                    raise ConfigError(f"the API keys `{other.name}` and `{key.name}` are the same")

    @classmethod
    def of(cls, config: ServerConfig) -> Keyring:
        """The keys from the environment and from the file. Raises ConfigError or DataFileError."""
        keys = []
        if config.api_key is not None:
            keys.append(Key("default", config.api_key))
        if config.admin_key is not None:
            keys.append(Key("admin", config.admin_key, "admin"))
        if config.api_keys_file is not None:
            path = Path(config.api_keys_file)
            for line in read_keys(path):
                try:
                    keys.append(Key(line.name, line.secret, "admin" if line.admin else "user"))
                except ConfigError as error:
                    raise DataFileError(str(error), path=path, line=line.number, hint=error.hint) from None
        return cls(tuple(keys))

    def find(self, authorization: bytes) -> Key | None:
        """The key in a header's value. Compares in constant time."""
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip(b" \t")).digest()
        found = [key for key, known in self._digests if hmac.compare_digest(known, digest)]
        return found[0] if found and scheme.lower() == b"bearer" else None
