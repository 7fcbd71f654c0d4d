"""The file of API keys.

    # a comment
    alice  s3cret-of-alice
    batch  s3cret-of-batch  compression=kvzap:ratio=0.8,allocator=lukv
    ops    s3cret-of-ops    admin  compression=exact
    guest  s3cret-of-guest  requests_per_minute=60  concurrent_requests=2

A line is a name and a key; then, in any order, ``admin`` for those who may reset the cache, what is done to the
contexts of requests that do not say, and limits, where these are not the server's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvloom.errors import DataFileError

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_FORM = (
    "a line is a name, a key and, where they apply, the words admin, compression=METHOD:..., requests_per_minute=N and "
    "concurrent_requests=N"
)
_COMPRESSION = "compression"
_SAID = {_COMPRESSION, "requests_per_minute", "concurrent_requests"}
_WORDS = "`admin` and " + ", ".join(f"`{name}=...`" for name in sorted(_SAID))
_OTHERS_READ = 0o004


@dataclass(frozen=True, slots=True)
class KeyLine:
    """The content of line ``number``. ``compression``: as it was written, None where nothing was. ``limits``: those
    that it sets.
    """

    number: int
    name: str
    secret: str = field(repr=False)
    admin: bool = False
    compression: str | None = None
    limits: Mapping[str, int] = field(default_factory=dict)


def read_keys(path: Path) -> list[KeyLine]:
    """Raises DataFileError, which gives the line number and never a key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError:
        raise DataFileError("is not UTF-8 text", path=path) from None
    lines: dict[str, KeyLine] = {}
    owners: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        fields = raw.split()
        if not fields or fields[0].startswith("#"):
            continue
        line = _line(path, number, fields)
        if line.name in lines:
            said = f"the name `{line.name}` was used in line {lines[line.name].number}"
            raise DataFileError(said, path=path, line=number)
        if line.secret in owners:
            raise DataFileError(f"the key already belongs to `{owners[line.secret]}`", path=path, line=number)
        lines[line.name], owners[line.secret] = line, line.name
    if not lines:
        raise DataFileError("has no keys", path=path, hint=_FORM)
    return list(lines.values())


def readable_by_others(path: Path) -> bool:
    """Whether every user of this machine can read the keys."""
    return bool(path.stat().st_mode & _OTHERS_READ)


def _line(path: Path, number: int, fields: list[str]) -> KeyLine:
    if not 2 <= len(fields) <= 3 + len(_SAID):
        raise DataFileError(
            f"has {len(fields)} words, expected 2 to {3 + len(_SAID)}", path=path, line=number, hint=_FORM
        )
    if not _NAME.fullmatch(fields[0]):
        hint = "up to 64 letters, digits and any of . _ @ -"
        raise DataFileError("the first word is not a valid name", path=path, line=number, hint=hint)
    name, secret, *marks = fields
    admin = marks.count("admin")
    said = [mark.partition("=") for mark in marks if mark != "admin"]
    names = [setting for setting, _, _ in said]
    if admin > 1 or len({*names}) < len(names) or not {*names} <= _SAID or not all(equals for _, equals, _ in said):
        says = f"after name and key can only come {_WORDS}, each once"
        raise DataFileError(says, path=path, line=number, hint=_FORM)
    values = {setting: value for setting, _, value in said}
    compression = values.pop(_COMPRESSION, None)
    if not all(re.fullmatch(r"[1-9][0-9]{0,8}", value) for value in values.values()):
        raise DataFileError("a limit is a whole number, at least 1", path=path, line=number, hint=_FORM)
    limits = {setting: int(value) for setting, value in values.items()}
    return KeyLine(number, name, secret, admin=admin == 1, compression=compression, limits=limits)
