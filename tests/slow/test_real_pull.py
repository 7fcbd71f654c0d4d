"""A real pull, through the real pip, into an empty store."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.model.files import store
from kvloom.model.files.loading import load_model, load_tokenizer

pytestmark = pytest.mark.real


class Watcher:
    def __init__(self) -> None:
        self.total: int | None = None
        self.steps: list[int] = []

    def start(self, what: str, total_bytes: int | None) -> None:
        self.total = total_bytes

    def advance(self, num_bytes: int) -> None:
        self.steps.append(num_bytes)

    def finish(self) -> None: ...


def test_pull_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path))
    watcher = Watcher()
    pulled = store.pull("smollm2-135m-instruct", watcher)
    assert sum(watcher.steps) == watcher.total
    manifest = store.resolve("smollm2-135m-instruct")
    tokenizer, model = load_tokenizer(manifest), load_model(manifest, threads=2, activations="float32")
    assert manifest == pulled
    assert tokenizer.vocab_size == model.vocab_size == 49152
