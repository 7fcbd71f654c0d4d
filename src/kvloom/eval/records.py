"""Results on disk: one JSON line per answer, appended as soon as it is there, so that a killed run goes on.

Every row carries the settings that it was made with. A directory holds rows of one setting only. Rows that are kept for
good may be packed with gzip; they are read all the same, and a run goes on beside them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kvloom.config import Activations, KvDtype
from kvloom.errors import DataFileError, EvalError, RunMismatch
from kvloom.eval.policy import EXACT, FLOOR, QueryProtocol

ROWS = "rows.jsonl"
PACKED = "rows.jsonl.gz"
Key = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What results depend on, speed included. ``weights_id``: hex digest. ``data``: digests of files the user named.

    ``in_flight``: prompts that shared the engine; times per token are those of such company. ``code``: digest of the
    policy's code and profile, see ``identity``. ``chat``: digest of what a chat template puts around a prompt, empty
    without: a protocol of its own. ``wording`` and ``haystack``: what the offline tasks are made of. Their
    defaults are those of rows from before there was a choice.
    """

    model: str
    weights_id: str
    kv_dtype: KvDtype
    activations: Activations
    policy: str
    params: Mapping[str, int | float | str]
    protocol: QueryProtocol
    seed: int
    in_flight: int
    threads: int
    versions: Mapping[str, str]
    data: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    chat: str = ""
    wording: str = "own"
    haystack: str = "annals"

    @property
    def label(self) -> str:
        """Policy and parameters, as ``parse_policy`` reads them; the query-aware column is marked."""
        params = ",".join(f"{name}={value}" for name, value in self.params.items())
        aware = " (query-aware)" if self.protocol == "query-aware" else ""
        return self.policy + (f":{params}" if params else "") + aware

    @property
    def title(self) -> str:
        """The label behind the model's name."""
        return f"{self.model}: {self.label}"

    @property
    def is_exact(self) -> bool:
        """Whether nothing is done to the context: such runs judge others."""
        return self.policy == EXACT.name

    @property
    def is_floor(self) -> bool:
        """Whether nothing is dropped, but all is moved: such runs measure noise."""
        return self.policy == FLOOR

    @property
    def asked(self) -> tuple[str, ...]:
        """How prompts were made: runs that differ here answered other prompts, whatever their numbers say."""
        return self.chat, self.wording, self.haystack, self.versions.get("tasks", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer: what was asked, how it scored, what it cost (see ``answering.Reply``).

    ``control``: what the answer to another prompt of the same task would have scored here, None for the first: a task
    in which that is no worse tells nothing about the model. ``depth``: where the needle lay, 0 to 1, if there is one.
    ``document``: names the text that was asked about; rows of one document are not independent. Empty in old rows.
    ``context_bytes_per_token``: None in old rows. ``kl``: nats, the mean KL divergence of the distributions from which
    the exact answer's tokens come; None: nobody looked.
    """

    settings: Settings
    task: str
    group: str
    length: int
    index: int
    turn: int
    score: float
    control: float | None
    output: str
    answers: tuple[str, ...]
    depth: float | None
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int
    computed_tokens: int
    ttft_s: float
    ms_per_token: float | None
    kv_bytes_per_token: float
    peak_kv_bytes: int
    document: str = ""
    context_bytes_per_token: float | None = None
    kl: float | None = None

    @property
    def key(self) -> Key:
        return self.task, self.length, self.index, self.turn


class RunStore:
    """The rows of one directory, open for more. A context manager.

    Opening it drops a last line that was cut off by a kill. Raises RunMismatch when rows of other settings are there,
    DataFileError when a line cannot be read, EvalError while another process has it open.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.settings = directory, settings
        path = directory / ROWS
        self._file = path.open("a", encoding="utf-8")
        try:
            self._lock()
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed, or its process ends
        except BlockingIOError:
            hint = "wait for it, or give another --output"
            raise EvalError(f"another run is writing to `{self.directory}`", hint=hint) from None

    def _read(self, path: Path) -> None:
        _drop_unfinished_line(path)
        self.rows = {row.key: row for row in read_rows(self.directory)}
        for row in self.rows.values():
            _check_same(row.settings, self.settings, self.directory)

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def append(self, row: Row) -> None:
        """On disk when this returns."""
        self._file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows[row.key] = row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read_rows(directory: Path) -> list[Row]:
    """All rows of a run, packed ones first. Raises DataFileError, with the line, and when there is no run."""
    files = _files(directory)
    if not files:
        hint = "`kvloom eval run --output DIR` makes one"
        raise DataFileError("no run found", path=directory / ROWS, hint=hint)
    rows = list({row.key: row for path in files for row in _parsed(path)}.values())  # once, if it is packed as well
    if rows and any(row.settings != rows[0].settings for row in rows):
        raise RunMismatch(f"`{directory}` mixes rows of different settings")
    return rows


def first_settings(directory: Path) -> Settings | None:
    """Of the rows of a run; None when there is none, or no run. Raises DataFileError when a row cannot be read."""
    for path in _files(directory):
        for row in _parsed(path):
            return row.settings
    return None


def _files(directory: Path) -> list[Path]:
    return [path for path in (directory / PACKED, directory / ROWS) if path.exists()]


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(f"cannot be read: {error}", path=path) from None


def _parsed(path: Path) -> Iterator[Row]:
    data = _bytes(path)
    if not data:
        return
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            fields: dict[str, Any] = json.loads(line)
            settings = Settings(**fields.pop("settings"))
            yield Row(settings=settings, **(fields | {"answers": tuple(fields["answers"])}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = "delete the line: its answer is computed again"
            raise DataFileError(f"not a row of results ({error})", path=path, line=number, hint=hint) from None


def _drop_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def _check_same(stored: Settings, wanted: Settings, directory: Path) -> None:
    before, now = dataclasses.asdict(stored), dataclasses.asdict(wanted)
    changed = [f"{name} {before[name]!r} -> {now[name]!r}" for name in now if before[name] != now[name]]
    if changed:
        raise RunMismatch(
            f"`{directory}` holds rows of other settings: {'; '.join(changed)}",
            hint="give another --output, or the previous settings",
        )
