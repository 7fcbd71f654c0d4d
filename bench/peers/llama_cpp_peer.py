"""llama.cpp through llama-cpp-python's C bindings, as its own server drives it: many sequences in one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from bench.peers.base import Facts, Setup
from kvloom.bench.target import Answer

_BATCH = 2048
_SLOTS = 64


def open_peer(setup: Setup, flash: bool = True) -> LlamaCpp:
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(setup.gguf).encode(), params)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {setup.gguf}")
    kv_width = llama_cpp.llama_model_n_head_kv(model) * _head_dim(llama_cpp, model)
    facts = Facts(
        version=f"llama-cpp-python {version('llama-cpp-python')}",
        settings=f"weights as in the file, KV in float16, flash attention {'on' if flash else 'off'}; a KV stream for "
        "each sequence where they share nothing, one stream for all where they share a prefix",
        weight_bytes=setup.gguf.stat().st_size,
        kv_token_bytes=2 * 2 * llama_cpp.llama_model_n_layer(model) * kv_width,
    )
    peer = LlamaCpp(llama_cpp, model, setup, flash, facts)
    peer.open_context(1, setup.kv_tokens)
    return peer


def _head_dim(lib: Any, model: Any) -> int:
    import ctypes

    for key in (b"llama.attention.key_length", b"gemma3.attention.key_length"):
        text = ctypes.create_string_buffer(32)
        if lib.llama_model_meta_val_str(model, key, text, 32) > 0:
            return int(text.value)
    return int(lib.llama_model_n_embd(model) // lib.llama_model_n_head(model))


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a batch. ``wanted``: its logits are."""

    token: int
    position: int
    slot: int
    wanted: bool


@dataclass(slots=True)
class LlamaCpp:
    """``slots``: sequence number to the tokens whose KV it holds."""

    lib: Any
    model: Any
    setup: Setup
    flash: bool
    facts: Facts
    context: Any = None
    streams: int = 0
    batch: Any = None
    slots: dict[int, list[int]] = field(default_factory=dict)

    def reset(self) -> None:
        self.lib.llama_memory_clear(self._memory, False)
        self.slots.clear()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        started = time.perf_counter()
        source, common = self._longest_common(prompts)
        slots = self._take_slots(prompts, source, common)
        rows = [
            Row(token, position, slot, position == len(prompt) - 1)
            for slot, prompt in zip(slots, prompts, strict=True)
            for position, token in list(enumerate(prompt))[common:]
        ]
        answers = {slot: Answer([], []) for slot in slots}
        while rows:
            for start in range(0, len(rows), _BATCH):
                for slot, token in self._decode(rows[start : start + _BATCH]):
                    answers[slot].tokens.append(token)
                    answers[slot].times_s.append(time.perf_counter() - started)
            rows = [
                Row(answer.tokens[-1], len(self.slots[slot]), slot, True)
                for slot, answer in answers.items()
                if len(answer.tokens) < num_new
            ]
        return list(answers.values())

    def expect(self, apart: int, longest: int) -> None:
        """As one starts llama.cpp's server for its load: so many parallel sequences, of that length."""
        if apart != self.streams:
            self.open_context(apart, longest)

    def open_context(self, streams: int, longest: int) -> None:
        """One KV buffer for all sequences (``streams`` 1), or one for each: attention passes over all of a buffer."""
        lib = self.lib
        if self.context:
            lib.llama_free(self.context)
        params = lib.llama_context_default_params()
        params.n_ctx = max(self.setup.kv_tokens, streams * (longest + 1))
        params.n_batch = _BATCH
        params.n_seq_max = _SLOTS if streams == 1 else streams
        params.kv_unified = streams == 1
        params.swa_full = False
        params.n_threads = params.n_threads_batch = self.setup.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.streams = streams
        self.slots.clear()
        self.batch = self.batch or lib.llama_batch_init(_BATCH, 0, 1)

    @property
    def _memory(self) -> Any:
        return self.lib.llama_get_memory(self.context)

    def _longest_common(self, prompts: Sequence[Sequence[int]]) -> tuple[int | None, int]:
        """The slot that shares most with all prompts, and how much; at least one token of each is left to compute."""
        best: tuple[int | None, int] = None, 0
        for slot, held in self.slots.items():
            common = min(_leading(held, prompt[:-1]) for prompt in prompts)
            if common > best[1]:
                best = slot, common
        return best

    def _take_slots(self, prompts: Sequence[Sequence[int]], source: int | None, common: int) -> list[int]:
        """A lone prompt goes on where its beginning is; several copy the beginning's entries, not its bytes."""
        if source is not None and len(prompts) == 1:
            self.lib.llama_memory_seq_rm(self._memory, source, common, -1)
            self.slots[source] = self.slots[source][:common]
            return [source]
        taken = [slot for slot in range(_SLOTS) if slot not in self.slots][: len(prompts)]
        for slot in taken:
            if source is not None:
                self.lib.llama_memory_seq_cp(self._memory, source, slot, 0, common)
            self.slots[slot] = self.slots[source][:common] if source is not None else []
        return taken

    def _decode(self, rows: list[Row]) -> list[tuple[int, int]]:
        """Run one batch; (slot, most likely next token) of every row that wants it."""
        batch = self.batch
        for n, row in enumerate(rows):
            batch.token[n], batch.pos[n] = row.token, row.position
            batch.n_seq_id[n], batch.seq_id[n][0], batch.logits[n] = 1, row.slot, row.wanted
            self.slots[row.slot].append(row.token)
        batch.n_tokens = len(rows)
        status = self.lib.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return [(row.slot, self._argmax(n)) for n, row in enumerate(rows) if row.wanted]

    def _argmax(self, row: int) -> int:
        vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        logits = np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, row), shape=(vocab,))
        return int(logits.argmax())


def _leading(left: Sequence[int], right: Sequence[int]) -> int:
    count = min(len(left), len(right))
    return next((n for n in range(count) if left[n] != right[n]), count)
