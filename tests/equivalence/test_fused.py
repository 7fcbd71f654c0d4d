"""All layers in one call equal the same layers operator by operator, bit for bit: hidden states, and the KV written."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import transformers
from ggml_blocks import random_raw

import tiny
import tiny_decoder
from bench.full_cache import FullCache
from equivalence.test_families import CASES, Case, our_model, random_model, save_tokenizer
from equivalence.test_gguf_models import WIDE
from equivalence.test_gguf_models import tiny as tiny_llama
from kvloom.arrays import Bytes, Floats
from kvloom.attend.cpu import CpuAttend
from kvloom.attend.plan import ByHead, Contiguous, Group, Ints, Part, Rotations
from kvloom.attend.reference import ReferenceAttend
from kvloom.config import DEFAULT_KV_DTYPE, Activations, CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.factory import make_engine
from kvloom.engine.params import SamplingParams
from kvloom.errors import InternalError
from kvloom.eval.single import SingleSequence
from kvloom.kernels import isas
from kvloom.model import ops
from kvloom.model.base import Indices
from kvloom.model.decoder import Decoder
from kvloom.model.files.convert import Origin, convert
from kvloom.model.files.loading import load_model
from kvloom.model.fused import FusedDecoder, fuse
from kvloom.model.layers import Block, GatedMlp, PreNormBlock, Projection
from kvloom.model.ops import Precision
from kvloom.model.weight import Weight
from kvloom.policy.compression import compression_of
from kvloom.policy.retention.lru import LeastRecentlyUsed
from tiny_gguf import write_gguf

VOCAB, LENGTH = 96, 44
CHUNKS = [31, 1, 1, 11]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_model(tmp_path: Path) -> Decoder:
    return load(CASES[0], tmp_path)


def load(case: Case, directory: Path) -> Decoder:
    random_model(case).save_pretrained(directory / "hf")
    save_tokenizer(directory / "hf")
    model = our_model(directory / "hf", directory / "ours")
    assert isinstance(model, Decoder)
    assert model.fused is not None, "every family that is here now can be described"
    return model


def tokens() -> Indices:
    return np.random.default_rng(7).integers(0, 80, LENGTH)


def run(model: Decoder, chunks: list[int]) -> tuple[Floats, Bytes]:
    """Hidden states of all rows, and the memory with all KV."""
    cache, start, hidden = FullCache(model.kv_map, LENGTH), 0, []
    attend = CpuAttend(cache.memory, threads=2)
    for size in chunks:
        hidden.append(model.forward(tokens()[start : start + size], cache.plan(start, start + size), attend))
        start += size
    return np.concatenate(hidden), cache.memory


def apart(model: Decoder) -> Decoder:
    return dataclasses.replace(model, fused=None)


def again(model: Decoder, blocks: tuple[Block, ...]) -> FusedDecoder | None:
    return fuse(model.spec, model.embedding, model.head, blocks, model.norm, model.ropes, threads=1)


@pytest.mark.parametrize("chunks", [[LENGTH], CHUNKS], ids=["whole", "chunked"])
def test_fused_equals_op_by_op(model: Decoder, chunks: list[int]) -> None:
    hidden, memory = run(model, chunks)
    expected, expected_memory = run(apart(model), chunks)
    assert np.array_equal(hidden, expected)
    assert np.array_equal(memory, expected_memory)
    assert np.array_equal(model.logits(hidden), apart(model).logits(hidden))


@pytest.mark.parametrize("isa", isas())
def test_on_every_instruction_set(model: Decoder, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = run(model, [LENGTH])
    monkeypatch.setenv("KVLOOM_ISA", isa)
    fused = again(model, model.blocks)
    assert np.array_equal(run(dataclasses.replace(model, fused=fused), [LENGTH])[0], expected)


@pytest.mark.parametrize("wanted", [[], [0], [43], [3, 17, 18, 40], list(range(LENGTH))], ids=str)
def test_only_wanted_rows_come_back_but_all_kv_is_written(model: Decoder, wanted: list[int]) -> None:
    expected, expected_memory = run(model, [LENGTH])
    for runner in (model, apart(model)):
        cache = FullCache(model.kv_map, LENGTH)
        rows = np.array(wanted, np.int64)
        attend = CpuAttend(cache.memory, threads=2)
        hidden = runner.forward(tokens(), cache.plan(0, LENGTH), attend, rows)
        assert np.array_equal(hidden, expected[rows])
        scores = runner.scores(tokens(), cache.plan(0, LENGTH), attend, rows)
        assert np.array_equal(scores.logits_RV, model.logits(expected[rows]))
        assert scores.argmax_R == scores.logits_RV.argmax(axis=1).tolist()
        assert np.array_equal(cache.memory, expected_memory)


def test_the_last_layer_attends_for_wanted_rows_alone(model: Decoder) -> None:
    """The first row sees one page, the last one all that its window shows it."""

    def read(wanted: list[int]) -> int:
        before = model.kv_bytes_read()
        cache = FullCache(model.kv_map, LENGTH)
        model.forward(tokens(), cache.plan(0, LENGTH), CpuAttend(cache.memory, threads=2), np.array(wanted, np.int64))
        return model.kv_bytes_read() - before

    assert read([]) < read([0]) < read([0, LENGTH - 1]) <= read(list(range(LENGTH)))


@pytest.mark.parametrize("chunk", [1, 9])
def test_parts_of_every_kind(model: Decoder, chunk: int) -> None:
    """Tables, then lists by head over the same pages: even and not, with holes, and with turned queries."""
    cache, start = FullCache(model.kv_map, LENGTH), LENGTH - chunk
    attend = CpuAttend(cache.memory, threads=2)
    model.forward(tokens()[:start], cache.plan(0, start), attend)
    plan = cache.plan(start, LENGTH)
    plain = model.forward(tokens()[start:], plan, attend)
    groups = tuple(with_lists_by_head(model, index, group) for index, group in enumerate(plan.groups))
    plan = dataclasses.replace(plan, groups=groups)
    hidden = model.forward(tokens()[start:], plan, attend)
    last = model.forward(tokens()[start:], plan, attend, np.array([chunk - 1]))
    assert np.array_equal(last, hidden[-1:])
    assert np.array_equal(hidden, apart(model).forward(tokens()[start:], plan, attend))
    assert not np.array_equal(hidden, plain)
    reference = apart(model).forward(tokens()[start:], plan, ReferenceAttend(cache.memory))
    np.testing.assert_allclose(reference, hidden, atol=1e-4, rtol=0)


def with_lists_by_head(model: Decoder, index: int, group: Group) -> Group:
    (dense,) = group.parts
    slots, heads = len(dense.format.layers), dense.format.heads
    described = model.blocks[dense.format.layers[0]].parts()
    assert described is not None
    shifts = np.array([0, 5, -3], np.int32)
    rotations = Rotations(shifts, *described.attention.rope.turns(shifts))
    lists, pages = slots * heads, dense.page_ids_P.size
    page_ids_P = np.tile(dense.page_ids_P, lists)
    even = np.arange(lists + 1, dtype=np.int32) * np.int32(pages)
    uneven = even.copy()
    uneven[1:-1] -= 1
    part = Part(dense.format, ByHead(even, slots, heads), Contiguous(starts_of(even)), page_ids_P)
    masks_P = np.random.default_rng(index).integers(0, 2**16, page_ids_P.size, np.uint16)
    turns_L = (np.arange(lists) % 3).astype(np.int32)
    parts = (
        dense,
        dataclasses.replace(part, turns_L=turns_L),
        dataclasses.replace(part, masks_P=masks_P),
        dataclasses.replace(part, lists=ByHead(uneven, slots, heads), entries=Contiguous(starts_of(uneven))),
    )
    return dataclasses.replace(group, parts=parts, rotations=rotations)


def starts_of(bounds: Ints) -> Ints:
    """Every list begins at position 0."""
    return np.concatenate([np.arange(last - first, dtype=np.int32) * 16 for first, last in itertools.pairwise(bounds)])


def test_many_requests_at_once(model: Decoder) -> None:
    """Through the engine: prompts of many lengths in small steps, prefix hits among them, scores compared with ==."""
    prompts = {f"r{n}": tokens()[: 5 + 4 * n].tolist() for n in range(9)}

    def scores(runner: Decoder) -> dict[str, list]:
        config = EngineConfig(
            model="m",
            cache=CacheConfig(kv_bytes="8MiB", slab_bytes=64 * 1024),
            scheduler=SchedulerConfig(step_tokens=24),
        )
        attend = lambda arena: CpuAttend(arena.memory, threads=2)  # noqa: E731
        engine = make_engine(runner, tiny.CharTokenizer(), config, attend, LeastRecentlyUsed())
        params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=2, prompt_logprobs=0)
        done = tiny.run(engine, prompts, params)
        return {
            name: [(d.token_ids, d.logprobs) for u in request.updates for d in u.deltas]
            + [request.updates[-1].prompt_logprobs]
            for name, request in done.items()
        }

    assert scores(model) == scores(apart(model))


def test_the_workspace_grows_and_is_given_back(small_model: Decoder) -> None:
    assert small_model.fused is not None
    kernel = small_model.fused.kernel
    run(small_model, [LENGTH])
    large = kernel.workspace_bytes()
    run(small_model, [1] * LENGTH)
    assert kernel.workspace_bytes() == large, "one small step is no reason to let go"
    for _ in range(6):
        run(small_model, [1] * LENGTH)
    assert 0 < kernel.workspace_bytes() < large


def test_seconds_are_counted_per_operator(small_model: Decoder) -> None:
    assert small_model.fused is not None
    before = small_model.fused.kernel.seconds()
    small_model.logits(run(small_model, [LENGTH])[0])
    after = small_model.fused.kernel.seconds()
    assert set(after) == {"embed", "norm", "linear", "heads", "write", "attend", "observe", "head", "argmax"}
    unasked = {"observe", "argmax"}
    assert {name for name in after if after[name] > before[name]} == set(after) - unasked


class Odd(PreNormBlock):
    """A block that the table has no words for."""

    def parts(self) -> None:
        return None


def test_a_block_that_cannot_be_described_runs_op_by_op(small_model: Decoder) -> None:
    first, *others = small_model.blocks
    assert isinstance(first, PreNormBlock)
    odd = Odd(first.attn_norm, first.attention, first.mlp_norm, first.mlp)
    blocks = (odd, *others)
    assert again(small_model, blocks) is None
    mixed = dataclasses.replace(small_model, blocks=blocks, fused=None)
    assert np.array_equal(run(mixed, [LENGTH])[0], run(small_model, [LENGTH])[0])


def test_another_backend_runs_op_by_op(small_model: Decoder) -> None:
    cache = FullCache(small_model.kv_map, LENGTH)
    hidden = small_model.forward(tokens(), cache.plan(0, LENGTH), ReferenceAttend(cache.memory))
    np.testing.assert_allclose(hidden, run(small_model, [LENGTH])[0], atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused(small_model: Decoder) -> None:
    assert small_model.fused is not None
    cache = FullCache(small_model.kv_map, LENGTH)
    attend, plan = CpuAttend(cache.memory, threads=1), cache.plan(0, LENGTH)
    with pytest.raises(InternalError, match="vocabulary"):
        small_model.forward(np.full(LENGTH, VOCAB), plan, attend)
    for rows in ([LENGTH], [-1]):
        with pytest.raises(InternalError, match="wanted"):
            small_model.forward(tokens(), plan, attend, np.array(rows))
    with pytest.raises(InternalError, match="ascend"):
        small_model.forward(tokens(), plan, attend, np.array([3, 2]))
    fewer = dataclasses.replace(plan, layers=plan.layers[:-1])
    with pytest.raises(InternalError, match="number of layers"):
        small_model.forward(tokens(), fewer, attend)
    with pytest.raises(InternalError, match="int64"):
        small_model.forward(tokens().astype(np.int32), plan, attend)
    with pytest.raises(InternalError, match="one token per row"):
        small_model.forward(tokens()[1:], plan, attend)
    first = small_model.blocks[0]
    assert isinstance(first, PreNormBlock)
    block = dataclasses.replace(first, attention=dataclasses.replace(first.attention, kv_heads=0, heads=2))
    with pytest.raises(AssertionError, match="32 x 64 is wanted"):
        again(small_model, (block,))


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    case = Case("long", transformers.LlamaConfig, {"max_position_embeddings": 512, "num_hidden_layers": 1}, {None})
    return load(case, tmp_path_factory.mktemp("long"))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("activations", ["float32", "int8", "int16"])
@pytest.mark.parametrize(
    ("kinds", "hidden"),
    [
        (("Q4_1", "Q4_1", "Q4_1"), 288),
        (("Q8_0", "Q5_0", "Q4_K"), 256),
        (("F16", "Q4_0", "F32"), 160),  # floats beside bytes, before and after the gate
        (("Q4_0", "Q4_0", "F16"), 72),  # no whole panels, and columns that cannot go as bytes
        (("F32", "BF16", "Q8_0"), 32),
    ],
    ids=str,
)
def test_mlps_of_mixed_weights(
    kinds: tuple[str, str, str],
    hidden: int,
    activations: Precision,
    isa: str,
    long_model: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gated panel by panel or all at once, the bits are the same: over several blocks of rows, and for one row."""
    monkeypatch.setenv("KVLOOM_ISA", isa)
    width = long_model.embedding.cols
    gate, up = (random_weight(kind, hidden, width) for kind in kinds[:2])
    for gated in (ops.silu_mul, ops.gelu_tanh_mul):
        mlp = GatedMlp(
            Projection(Weight.concat([gate, up]), np.linspace(-1, 1, 2 * hidden, dtype=np.float32), 2, activations),
            Projection(random_weight(kinds[2], width, hidden), None, 2, activations),
            gated,
        )
        blocks = tuple(dataclasses.replace(block, mlp=mlp) for block in prenorm(long_model))
        fused = dataclasses.replace(long_model, blocks=blocks, fused=again(long_model, blocks))
        assert fused.fused is not None
        ids = np.random.default_rng(3).integers(0, VOCAB, 310)
        for length in (310, 1):
            assert np.array_equal(hidden_of(fused, ids[:length]), hidden_of(apart(fused), ids[:length]))


def random_weight(kind: str, rows: int, cols: int) -> Weight:
    return Weight.pack(random_raw(kind, rows, cols, 0), kind, (rows, cols))


def prenorm(model: Decoder) -> list[PreNormBlock]:
    return [block for block in model.blocks if isinstance(block, PreNormBlock)]


def hidden_of(model: Decoder, ids: Indices) -> Floats:
    cache = FullCache(model.kv_map, len(ids))
    return model.forward(ids, cache.plan(0, len(ids)), CpuAttend(cache.memory, threads=2))


@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q8_0"])
def test_quantized_weights(kind: str, activations: Activations, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_llama(transformers.LlamaConfig(**WIDE)), "llama", kind)
    (tmp_path / "ours").mkdir()
    manifest = convert(tmp_path / "tiny.gguf", tmp_path / "ours", Origin("tiny", "test"))
    model = load_model(manifest, threads=2, activations=activations)
    assert isinstance(model, Decoder)
    hidden, memory = run(model, CHUNKS)
    expected, expected_memory = run(apart(model), CHUNKS)
    assert np.array_equal(hidden, expected)
    assert np.array_equal(memory, expected_memory)
    assert np.array_equal(model.logits(hidden), apart(model).logits(hidden))


@pytest.mark.parametrize("windows", [(None, None), (24, None, 24)], ids=str)
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_lists_that_a_table_continues(windows: tiny_decoder.Windows, drop: float) -> None:
    """A context in pages of single heads, of unequal number: the bits are those of op by op, and of dense pages."""
    model, prompt = tiny_decoder.decoder(windows), tiny.random_prompt(330, 5)
    found = {}
    for name, runner, share in (("fused", model, drop), ("apart", apart(model), drop), ("dense", model, None)):
        engine = tiny.make_engine(windows, model=runner, kv_dtype=DEFAULT_KV_DTYPE)
        sequence = SingleSequence(engine, 330)
        sequence.append(prompt[:275])
        if share is not None:
            sequence.compress(compression_of("random", share))
        rest = np.concatenate(list(sequence.score(prompt[275:327])))
        found[name] = np.concatenate([rest, *(sequence.append([token])[None] for token in prompt[327:])])
    assert np.array_equal(found["fused"], found["apart"])
    assert np.array_equal(found["fused"], found["dense"]) == (drop == 0)
