"""All clients, one after the other, against one server: what works, what does not, and who was not tried at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.clients.environments import NotInstalled, environment_for
from bench.clients.table import Client
from bench.clients.trial import Cell, Target, try_client
from bench.harness import note
from bench.served import Served
from kvloom.model.files.store import models_dir, pull

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Tried:
    """``cells``: by feature, all of the client's. ``not_run``: why there are none."""

    client: Client
    cells: dict[str, Cell] = field(default_factory=dict)
    not_run: str = ""

    @property
    def works(self) -> int:
        return sum(cell.ok for cell in self.cells.values())


def try_all(clients: Iterable[Client]) -> Iterator[Tried]:
    """Starts the server, and stops it when it is over."""
    with Served(MODEL, "--kv-bytes", "512MiB") as served, tokenizer_directory() as tokenizer:
        target = Target(f"http://{served.host}:{served.port}", MODEL, tokenizer)
        for client in clients:
            yield _tried(client, target)


def _tried(client: Client, target: Target) -> Tried:
    try:
        environment = environment_for(client)
    except NotInstalled as why:
        note(f"{client.name}: not run, {why}")
        return Tried(client, not_run=str(why))
    found = Tried(client, try_client(environment, target))
    environment.tidy()
    for feature, cell in found.cells.items():
        note(f"{client.name}, {feature}: {'works' if cell.ok else 'does not work'}, {cell.detail}")
    return found


@contextmanager
def tokenizer_directory() -> Iterator[Path]:
    """The model's tokenizer as transformers reads it, for clients that count tokens: otherwise they ask a hub."""
    pull(MODEL)
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as place:
        shutil.copy(models_dir() / MODEL / "tokenizer.json", place)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "bos_token": "<|im_start|>",
        }
        (Path(place) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        (Path(place) / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
        yield Path(place)
