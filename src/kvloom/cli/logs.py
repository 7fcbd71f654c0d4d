"""What the process of a server logs, on standard error: text for people, or an object per line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kvloom.cli.say import say
from kvloom.config import ServerConfig

_WARNING = "warning: "


@contextmanager
def logging_of(config: ServerConfig) -> Iterator[Callable[[str], None]]:
    """Logging as the settings say, while this is open. Yields what says a line to whoever runs the server."""
    as_json = config.log_format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    ours, access = logging.getLogger("kvloom"), logging.getLogger("kvloom.access")
    before = ours.propagate, access.level
    ours.addHandler(handler)
    ours.propagate = False
    access.setLevel(logging.INFO if config.access_log else logging.WARNING)
    try:
        yield _say_json if as_json else say
    finally:
        ours.removeHandler(handler)
        ours.propagate = before[0]
        access.setLevel(before[1])


class JsonLines(logging.Formatter):
    """time, level, logger, message; the ``fields`` of whoever logs; exception, if there was one."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _say_json(line: str) -> None:
    level = "warning" if line.startswith(_WARNING) else "info"
    when = datetime.now(UTC).isoformat(timespec="milliseconds")
    words = " ".join(line.removeprefix(_WARNING).split())
    say(json.dumps({"time": when, "level": level, "logger": "kvloom.serve", "message": words}, ensure_ascii=False))
