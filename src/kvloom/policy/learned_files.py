"""What was learned beforehand about a model, in files: those that ship with kvloom, and how one says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kvloom.errors import DataFileError

_SHIPPED = Path(__file__).parent / "learned"

Found = TypeVar("Found")


def shipped_files(pattern: str) -> tuple[Path, ...]:
    """Those whose names match ``pattern``, in order."""
    return tuple(sorted(_SHIPPED.glob(pattern)))


def read_profile_file(path: Path, format: str, version: int, made_of: Callable[[dict[str, Any]], Found]) -> Found:
    """What ``made_of`` makes of a JSON object that says this ``format`` and ``version``. Raises DataFileError."""
    try:
        shown = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(shown, dict) or shown.get("format") != format:
            raise DataFileError(f"is no profile: it does not say `{format}`", path=path)
        if shown.get("version") != version:
            hint = "make it again with this version of kvloom"
            raise DataFileError(f"is of version {shown.get('version')!r}, this reads {version}", path=path, hint=hint)
        return made_of(shown)
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataFileError(f"is no profile: {error}", path=path) from error
