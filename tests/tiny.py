"""A small random transformer, a character tokenizer and an engine around them: real attention, no files, milliseconds.

Every row is computed on its own, so a row's bits cannot depend on its neighbours: what differs between two runs is
then the engine's doing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.observe import NOBODY, Observers, asked_of
from kvloom.attend.plan import Plan
from kvloom.attend.reference import ReferenceAttend
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine import factory
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine, Tokenizer
from kvloom.engine.params import SamplingParams
from kvloom.engine.retention import make_retention
from kvloom.memory.arena import Arena
from kvloom.memory.tier.base import Tier
from kvloom.model.base import Indices, Logits, Model, Scores
from kvloom.model.kv_map import KvMap, LayerKv
from kvloom.policy.actions import Drop
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import Given

__all__ = ["Drop", "Engine"]

GIVEN = Given(PrefillCost(0.0, 1e-3, 1e-5))
"""What retention policies are made from, where there is no model: the cost of a token doubles in 100 positions."""

WIDTH, HEADS, KV_HEADS, DIM, VOCAB = 32, 4, 2, 16, 97


@dataclass
class TinyModel:
    """``windows``: one entry per layer, None for full attention."""

    windows: tuple[int | None, ...] = (None, None)
    vocab_size: int = VOCAB
    context_length: int = 512
    seed: int = 7
    rows: list[int] = field(default_factory=list)  # rows of every forward call, for assertions

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.seed)

        def weight(rows: int, cols: int) -> torch.Tensor:
            return torch.randn(rows, cols, generator=g) / math.sqrt(cols)

        self.embedding = torch.randn(VOCAB, WIDTH, generator=g)
        self.head = weight(VOCAB, WIDTH) * 3
        kv = KV_HEADS * DIM
        self.blocks = [
            (
                weight(HEADS * DIM, WIDTH) * 2,
                weight(kv, WIDTH) * 2,
                weight(kv, WIDTH),
                weight(WIDTH, HEADS * DIM),
            )
            for _ in self.windows
        ]
        self.kv_map = KvMap(
            tuple(LayerKv(n, KV_HEADS, DIM, DIM, DIM**-0.5, window) for n, window in enumerate(self.windows))
        )
        self.weights_id = f"tiny-{self.windows}-{self.seed}"

    query_heads = HEADS
    width = WIDTH

    @property
    def layer_parameters(self) -> int:
        return sum(weight.numel() for block in self.blocks for weight in block)

    def turn(self, layer: int) -> npt.NDArray[np.float64]:
        return np.zeros(0)

    def output_map(self, layer: int) -> Floats:
        return self.blocks[layer][3].view(WIDTH, HEADS, DIM).permute(1, 2, 0).numpy()

    def embed(self, tokens_T: Indices) -> Floats:
        return self.embedding[tokens_T].numpy()

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: Attend,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        h, asked = torch.from_numpy(x_TC), asked_of(plan, observers)
        for layer in layers:
            if layer == 0:
                angles = torch.from_numpy(plan.positions_T)[:, None] * torch.exp(-torch.arange(WIDTH // 2) * 0.6)
                h = h + torch.cat([angles.sin(), angles.cos()], dim=1)
            wq, wk, wv, wo = self.blocks[layer]
            x = h / h.norm(dim=1, keepdim=True) * math.sqrt(WIDTH)
            k, v = (_rows(w, x).view(-1, KV_HEADS, DIM).numpy() for w in (wk, wv))
            attend.write(k, v, plan, layer)
            q = _rows(wq, x).view(-1, HEADS, DIM).numpy()
            out, lse = attend.attend(q, plan, layer)
            if asked:
                attend.observe(q, lse, plan, layer, asked)
            h = h + _rows(wo, torch.from_numpy(out).reshape(len(h), -1))
        return h.numpy() if rows_R is None else h.numpy()[rows_R]

    def logits(self, x_RC: Floats) -> Logits:
        return _rows(self.head, torch.from_numpy(self.normed(x_RC))).numpy()

    def normed(self, x_RC: Floats) -> Floats:
        hidden = torch.from_numpy(x_RC)
        return (hidden / hidden.norm(dim=1, keepdim=True) * math.sqrt(WIDTH)).numpy()

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: Attend,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        self.rows.append(len(tokens_T))
        return self.run(self.embed(tokens_T), plan, attend, range(len(self.blocks)), rows_R, observers)

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        return Scores.of(self.logits(self.forward(tokens_T, plan, attend, rows_R, observers)))


def _rows(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([weight @ row for row in x]) if len(x) else x.new_empty(0, len(weight))


class CharStream:
    def push(self, token_id: int) -> str:
        return CharTokenizer.token_text(token_id)

    def flush(self) -> str:
        return ""


class CharTokenizer:
    chat_template: str | None = None

    """Token t is the character chr(32 + t); token 0 ends a text."""

    eos_token_ids = frozenset({0})
    special_token_ids = frozenset({0})
    bos_token_id = None
    vocab_size = VOCAB
    lead: tuple[int, ...] = ()
    identity = "5c" * 32

    @staticmethod
    def token_text(token_id: int) -> str:
        return chr(32 + token_id)

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        return [ord(character) - 32 for character in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.token_text(token) for token in ids)

    def described(self) -> dict[str, object]:
        named = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"))
        rest = {"tokenizer_class": "Characters", "chat_template": self.chat_template, "add_bos_token": False}
        return named | rest | {"added_tokens_decoder": {}}

    def chat_prompt(
        self,
        messages: list[dict],
        add_generation_prompt: bool = True,
        chat_template_kwargs: dict | None = None,
        tools: list[dict] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        return "".join(f"{message['role']}: {message['content']} " for message in messages)

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()

    def stream(self, skip_special_tokens: bool, after: list[int] | tuple[int, ...] = ()) -> CharStream:
        return CharStream()


def make_engine(
    windows: tuple[int | None, ...] = (None, None),
    *,
    kv_bytes: int | str = "4MiB",
    step_tokens: int = 64,
    max_seqs: int = 64,
    max_decode_slowdown: float = 2.0,
    max_token_latency_s: float | None = None,
    kv_dtype: str = "float32",
    retention: str = "lru",
    max_pinned_share: float = 0.25,
    session_share: float = 0.75,
    chunk_share: float = 0.5,
    activations: str = "int8",
    seed: int = 0,
    reference: bool = False,
    model: Model | None = None,
    tokenizer: Tokenizer | None = None,
    max_model_len: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    tiers: Sequence[Tier] = (),
    lead: Sequence[int] = (),
    bands: int = 1,
) -> Engine:
    """An engine with small slabs, over TinyModel unless told otherwise. ``reference``: attend in plain torch."""
    config = EngineConfig(
        model="tiny",
        max_model_len=max_model_len,
        seed=seed,
        activations=activations,
        cache=CacheConfig(
            kv_bytes=kv_bytes,
            kv_dtype=kv_dtype,
            slab_bytes=64 * 1024,
            retention=retention,
            max_pinned_share=max_pinned_share,
            bands=bands,
            session_share=session_share,
            chunk_share=chunk_share,
        ),
        scheduler=SchedulerConfig(
            step_tokens=step_tokens,
            max_seqs=max_seqs,
            max_decode_slowdown=max_decode_slowdown,
            max_token_latency_s=max_token_latency_s,
        ),
    )

    def attend(arena: Arena) -> Attend:
        return ReferenceAttend(arena.memory) if reference else CpuAttend(arena.memory, threads=1)

    model = model or TinyModel(windows)
    policy = make_retention(retention, model)
    return factory.make_engine(
        model,
        tokenizer or CharTokenizer(),
        config,
        attend,
        policy,
        clock,
        tier_factory=lambda formats: tiers,
        lead=tuple(lead),
    )


@dataclass
class Done:
    """A finished request, gathered from its updates."""

    tokens: dict[int, list[int]]
    text: dict[int, str]
    reasons: dict[int, str | None]
    updates: list


def run(
    engine: Engine,
    prompts: dict[str, list[int]],
    params: SamplingParams | None = None,
    check: bool = True,
    cache: CacheParams | None = None,
) -> dict[str, Done]:
    """Submit all prompts together and step to the end, auditing the ledger after every step."""
    greedy = params or SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    for name, prompt in prompts.items():
        engine.submit(name, list(prompt), greedy, cache=cache)
    return drain(engine, list(prompts), check)


def drain(engine: Engine, names: list[str], check: bool = True) -> dict[str, Done]:
    done = {name: Done({}, {}, {}, []) for name in names}
    steps = 0
    while engine.has_work:
        if not engine.runnable:
            engine.sleep(0.5)
        for update in engine.step():
            into = done[update.request_id]
            into.updates.append(update)
            for delta in update.deltas:
                into.tokens.setdefault(delta.index, []).extend(delta.token_ids)
                into.text[delta.index] = into.text.get(delta.index, "") + delta.text
                into.reasons[delta.index] = delta.finish_reason
        if check:
            engine.check()
        steps += 1
        assert steps < 5000, "the engine does not come to an end"
    return done


class DenseAttend:
    """Keeps all KV of one sequence in plain lists: the oracle, sharing no code with pages or kernels."""

    def __init__(self) -> None:
        self.kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        self.kv[layer] = torch.from_numpy(k_TKD), torch.from_numpy(v_TKD)

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        k, v = (x.repeat_interleave(q_THD.shape[1] // x.shape[1], dim=1) for x in self.kv[layer])
        window = self.windows[layer]
        rows = torch.arange(len(q_THD))
        hidden = rows[None, :] > rows[:, None]
        if window is not None:
            hidden |= rows[None, :] <= rows[:, None] - window
        scores = torch.einsum("thd,shd->hts", torch.from_numpy(q_THD), k) * DIM**-0.5
        scores = scores.masked_fill(hidden, -torch.inf)
        out = torch.einsum("hts,shd->thd", scores.softmax(-1), v)
        return out.numpy(), torch.logsumexp(scores, -1).T.numpy()

    windows: tuple[int | None, ...] = ()


@dataclass
class _Positions:
    positions_T: np.ndarray


def oracle(windows: tuple[int | None, ...], prompt: list[int], count: int) -> list[int]:
    """Greedy continuation with everything recomputed for every token."""
    model, tokens = TinyModel(windows), list(prompt)
    for _ in range(count):
        attend = DenseAttend()
        attend.windows = windows
        hidden = model.forward(np.array(tokens), _Positions(np.arange(len(tokens))), attend)
        tokens.append(int(model.logits(hidden[-1:])[0].argmax()))
    return tokens[len(prompt) :]


def forget_results(engine: Engine) -> None:
    """Drop what compressions have left of contexts: their exact KV stays."""
    for block in list(engine.ledger.events.idle_blocks.values()):
        if block.format.labelled:
            engine.ledger.apply(Drop(block.page))
    engine.check()


def random_prompt(length: int, seed: int) -> list[int]:
    """Tokens 1 to 96: never end-of-text."""
    return torch.randint(1, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def abort_after(
    engine: Engine, steps: int, prompt: list[int], params: SamplingParams, cache: CacheParams | None = None
) -> None:
    """Submit a prompt and abort it after so many steps: nothing is held then. The ledger is audited all the while."""
    engine.submit("aborted", prompt, params, cache=cache)
    for _ in range(steps):
        engine.step()
        engine.check()
    engine.abort("aborted")
    engine.check()
    assert engine.ledger.held_pages == 0
