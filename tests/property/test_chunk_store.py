"""Whatever is asked of texts and chunks, in whatever order and with however little room: answers are right, what is
said to be there is there, and every byte is accounted for.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import tiny
from dict_tier import DictTier
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks import Chunks, computed_alone
from kvloom.engine.driving import Driver
from kvloom.engine.params import SamplingParams
from kvloom.engine.tiers import tiers as tiers_of

WINDOWS = {"dense": (None, None), "hybrid": (24, None)}
TEXTS = [tiny.random_prompt(length, seed) for seed, length in enumerate((5, 16, 33, 48, 70, 100))]
TEXTS += [TEXTS[5][:60], TEXTS[4][:32] + TEXTS[1]]
ORACLES = {
    (name, n): tiny.oracle(windows, text, 2) for name, windows in WINDOWS.items() for n, text in enumerate(TEXTS)
}
TWO = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
numbers = st.integers(0, len(TEXTS) - 1)
salts = st.sampled_from([None, None, "mine"])


class ChunkStore(RuleBasedStateMachine):
    @initialize(name=st.sampled_from(sorted(WINDOWS)), share=st.sampled_from([0.0, 0.5, 1.0]), tier=st.booleans())
    def begin(self, name: str, share: float, tier: bool) -> None:
        self.name, self.ids = name, itertools.count()
        self.tier = DictTier() if tier else None
        self.engine = tiny.make_engine(
            WINDOWS[name], kv_bytes=400_000, chunk_share=share, tiers=[self.tier] if self.tier else []
        )
        self.chunks = Chunks(self.engine, tiny.CharTokenizer(), Driver(self.engine).compute)
        self.files = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        if hasattr(self, "files"):
            self.files.cleanup()

    @rule(asked=st.lists(numbers, min_size=1, max_size=4), salt=salts)
    def add(self, asked: list[int], salt: str | None) -> None:
        there = {n: self.chunks.find(TEXTS[n], salt=salt) for n in asked}
        for n, added in zip(asked, self.chunks.add([TEXTS[n] for n in asked], salt=salt), strict=True):
            found = there[n]
            assert added.tokens == len(TEXTS[n])
            if found is not None and found.kept:
                assert added.computed == 0, "what is there is not computed"

    @rule(n=numbers, salt=salts)
    def bring(self, n: int, salt: str | None) -> None:
        self.chunks.bring(TEXTS[n], salt=salt)
        found = self.chunks.find(TEXTS[n], salt=salt)
        assert found is not None
        assert found.in_ram, "there is room for one"

    @rule(n=numbers, salt=salts, alone=st.booleans())
    def ask(self, n: int, salt: str | None, alone: bool) -> None:
        cache = computed_alone(salt) if alone else CacheParams(salt=salt)
        done = tiny.run(self.engine, {f"ask{next(self.ids)}": TEXTS[n]}, TWO, cache=cache)
        (answer,) = done.values()
        assert answer.tokens[0] == ORACLES[self.name, n]

    @rule(n=numbers, salt=salts)
    def through_a_file(self, n: int, salt: str | None) -> None:
        """What was imported is as good as computed: this model turns nothing, and numbers are as they are."""
        (path,) = self.chunks.export_to(Path(self.files.name), TEXTS[n], salt=salt)
        (imported,) = self.chunks.import_from(path, salt=salt)
        assert imported.kept_as == "chunk"
        found = self.chunks.find(TEXTS[n], salt=salt)
        assert found is not None
        assert found.in_ram

    @rule()
    def forget(self) -> None:
        """Of RAM alone."""
        self.engine.tiers.flush(10)
        self.engine.ledger.reset()

    @rule(salt=salts)
    def listed(self, salt: str | None) -> None:
        for each in self.chunks.ls(salt=salt):
            found = self.chunks.find(list(each.passage.tokens), salt=salt)
            assert found is not None
            assert found.in_ram

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()
            assert self.engine.ledger.events.faults == 0


@pytest.fixture(autouse=True, scope="module")
def patient() -> Iterator[None]:
    """A busy machine may take its time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)
        yield


TestChunkStore = ChunkStore.TestCase
TestChunkStore.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
