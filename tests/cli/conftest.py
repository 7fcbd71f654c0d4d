"""The command line over a tiny engine and a manifest made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvloom.cli import backend
from kvloom.config import EngineConfig
from kvloom.errors import ModelNotFound
from kvloom.model.files.manifest import Manifest, TensorEntry, WeightFile
from kvloom.model.files.progress import Progress
from kvloom.model.spec import ModelSpec, RopeSpec
from kvloom.model.text.rules import TextRules
from tests.server.echo_engine import EchoEngine

SPEC = ModelSpec(
    family="gemma3",
    width=64,
    num_layers=3,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ffn_width=128,
    vocab_size=1000,
    context_length=8192,
    norm_eps=1e-6,
    windows=(512, 512, None),
    rope=RopeSpec(64, 10_000.0),
    attn_scale=0.125,
)


def manifest(directory: Path) -> Manifest:
    return Manifest(
        name="mock",
        source="made by hand",
        directory=directory,
        files=(WeightFile("weights.gguf", 4096),),
        weights_id="ab" * 32,
        spec=SPEC,
        tensors={
            "embed": TensorEntry(0, "Q8_0", (1000, 64), 0, 68_000),
            "norm": TensorEntry(0, "F32", (64,), 68_000, 256),
            "block.0.norm": TensorEntry(0, "F32", (64,), 68_256, 256),
        },
        text=TextRules(eos_token_ids=(2,), bos_token_id=1, special_tokens={}, chat_template=None),
    )


class Backend:
    """Stands in for the model store, and opens tiny engines. ``opened``: the configs that they should have had."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.make_engine: Callable[[], EchoEngine] = lambda: EchoEngine(max_model_len=512)
        self.engines: list[EchoEngine] = []
        self.opened: list[EngineConfig] = []

    @property
    def engine(self) -> EchoEngine:
        """The one that was opened last."""
        return self.engines[-1]

    def resolve(self, name: str) -> Manifest:
        if name != "mock":
            raise ModelNotFound(f"no model `{name}`: here are mock", hint=f"kvloom pull {name}")
        return manifest(self.directory)

    def pull(self, name: str, progress: Progress) -> Manifest:
        found = self.resolve(name)
        progress.start("weights", 100)
        progress.advance(100)
        progress.finish()
        progress.start("tokenizer", None)
        progress.finish()
        return found

    def open_engine(self, config: EngineConfig) -> EchoEngine:
        self.resolve(config.model)
        self.opened.append(config)
        self.engines.append(self.make_engine())
        return self.engine


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Backend]:
    made = Backend(tmp_path)
    for name in ("resolve", "pull", "open_engine"):
        monkeypatch.setattr(backend, name, getattr(made, name))
    monkeypatch.delenv("KVLOOM_DEBUG", raising=False)
    monkeypatch.delenv("KVLOOM_API_KEY", raising=False)
    monkeypatch.delenv("KVLOOM_ADMIN_KEY", raising=False)
    yield made
    for engine in made.engines:
        engine.close()
