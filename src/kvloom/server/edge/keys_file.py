"""The file of API keys.

    # a comment
    alice  s3cret-of-alice
    batch  s3cret-of-batch  compression=kvzap:ratio=0.8,allocator=lukv
    ops    s3cret-of-ops    admin  compression=exact

A line is a name and a key; then, in any order, ``admin`` for those who may reset the cache, and what is done to the
contexts of requests that do not say, where it is not the server's default.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from kvloom.errors import DataFileError

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_FORM = "a line is a name, a key and, where they apply, the words admin and compression=METHOD:..."
_COMPRESSION = "compression="
_OTHERS_READ = 0o004


@dataclass(frozen=True, slots=True)
class KeyLine:
    """The content of line ``number``. ``compression``: as it was written, None where nothing was."""

    number: int
    name: str
    secret: str = field(repr=False)
    admin: bool = False
    compression: str | None = None


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
    if not 2 <= len(fields) <= 4:
        raise DataFileError(f"has {len(fields)} words, expected 2 to 4", path=path, line=number, hint=_FORM)
    if not _NAME.fullmatch(fields[0]):
        hint = "up to 64 letters, digits and any of . _ @ -"
        raise DataFileError("the first word is not a valid name", path=path, line=number, hint=hint)
    name, secret, *marks = fields
    said = [mark.removeprefix(_COMPRESSION) for mark in marks if mark.startswith(_COMPRESSION)]
    admin = marks.count("admin")
    if admin > 1 or len(said) > 1 or admin + len(said) < len(marks):
        says = "after name and key can only come `admin` and `compression=...`, each once"
        raise DataFileError(says, path=path, line=number, hint=_FORM)
    return KeyLine(number, name, secret, admin=admin == 1, compression=said[0] if said else None)
