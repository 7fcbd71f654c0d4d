"""Types of the C++ extension. Addresses are integers: see src/csrc/bindings.cpp."""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int32]
_Indices = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]
_Bytes = npt.NDArray[np.uint8]
_Masks = npt.NDArray[np.uint16]
_Spans = list[tuple[int, int]]

def isas() -> list[str]: ...
def default_isa() -> str: ...

class Rows: ...
class PageKind: ...
class Rotations: ...
class Part: ...
class Writes: ...

class Group:
    @property
    def reads(self) -> int: ...

class WorkPlan:
    @property
    def kv_bytes(self) -> int: ...

def lay_rows(sequences: list[_Spans]) -> tuple[bytearray, int]: ...
def lay_pages(
    sequences: list[_Spans], tables: list[tuple[array[int], bytearray]], window: int | None
) -> tuple[bytearray, int]: ...
def bind_rows(positions: _Ints, seq_rows: _Ints) -> Rows: ...
def page_kind(
    *,
    memory: int,
    memory_bytes: int,
    codec: str,
    lists: int,
    entries: int,
    slots: int,
    heads: int,
    k_dim: int,
    v_dim: int,
    k_bytes: int,
    v_bytes: int,
    window: int,
    slot_bytes: int,
    head_bytes: int,
    page_bytes: int,
) -> PageKind: ...
def bind_rotations(shifts: _Ints, cos: _Floats, sin: _Floats) -> Rotations: ...
def bind_part(
    rows: Rows,
    kind: PageKind,
    page_ids: _Ints,
    list_bounds: _Ints,
    page_starts: _Ints | None,
    page_masks: _Masks | None,
    list_turns: _Ints | None,
    rotations: Rotations | None,
) -> Part: ...
def bind_writes(rows: Rows, kind: PageKind, row_pages: _Ints, row_slots: _Ints) -> Writes: ...
def bind_group(rows: Rows, parts: list[Part], writes: list[Writes], seams: list[tuple[int, int, _Ints]]) -> Group: ...
def write(group: Group, layer_slot: int, rows: int, k: int, v: int, threads: int, isa: str = "") -> None: ...
def work_plan_slot(group: Group, read: int, layer_slot: int) -> int: ...
def make_work_plan(rows: Rows, group: Group, read: int, layer_slot: int, q_heads: int, threads: int) -> WorkPlan: ...
def attend(
    rows: Rows,
    group: Group,
    read: int,
    work_plan: WorkPlan,
    layer_slot: int,
    scale: float,
    q: int,
    out: int,
    lse: int,
    merge: bool,
    threads: int,
    isa: str = "",
) -> None: ...

class Observer:
    def __init__(self) -> None: ...
    def add_tally(
        self,
        rows: Rows,
        sequence: int,
        chosen: _Ints,
        layers: Sequence[int],
        reduce: int,
        first_column: int,
        running: _Doubles,
        counted: _Indices,
    ) -> None: ...
    def add_record(
        self, rows: Rows, sequence: int, chosen: _Ints, layers: Sequence[int], places: _Indices, queries: _Floats
    ) -> None: ...

def observe(
    observer: Observer,
    rows: Rows,
    group: Group,
    layer: int,
    layer_slot: int,
    scale: float,
    q_heads: int,
    q: int,
    lse: int,
    threads: int,
    isa: str = "",
) -> None: ...
def gather(
    *,
    memory: _Bytes,
    codec: str,
    k_dim: int,
    v_dim: int,
    bounds: _Indices,
    leads: _Ints,
    cells: _Indices,
    slots: _Ints,
    positions: _Ints,
    biases: _Floats,
    changed: _Indices,
    k: _Floats,
    v: _Floats,
    pages: _Bytes,
    masks: _Masks,
    threads: int,
    isa: str = "",
) -> None: ...
def read(
    *,
    memory: _Bytes,
    codec: str,
    k_dim: int,
    v_dim: int,
    keys: bool,
    cells: _Indices,
    slots: _Ints,
    out: _Floats,
    threads: int,
    isa: str = "",
) -> None: ...
def nearest(
    x: _Floats,
    rows: _Indices,
    bounds: _Indices,
    others: _Indices,
    other_bounds: _Indices,
    nearest: _Indices,
    cosines: _Floats,
    threads: int,
    isa: str = "",
) -> None: ...
def weigh(
    x: _Floats,
    rows: _Indices,
    bounds: _Indices,
    queries: _Floats,
    logs: _Floats,
    weights: _Floats,
    threads: int,
    isa: str = "",
) -> None: ...
def sum_rows(
    x: _Floats, rows: _Indices, shares: _Floats, bounds: _Indices, out: _Floats, threads: int, isa: str = ""
) -> None: ...
def multiply(a: _Doubles, b: _Doubles, out: _Doubles, threads: int, isa: str = "") -> None: ...
def solve(a: _Doubles, y: _Doubles, threads: int, isa: str = "") -> None: ...
def weight_kinds() -> list[tuple[str, int, int, int]]: ...
def pack_weight(source: int, kind: int, rows: int, cols: int, packed: int, threads: int) -> None: ...
def gather_rows(parts: int, num_parts: int, cols: int, ids: int, count: int, out: int, threads: int) -> bool: ...
def linear(
    x: int,
    parts: int,
    bias: int,
    out: int,
    rows: int,
    cols: int,
    outputs: int,
    num_parts: int,
    threads: int,
    planes: int,
    isa: str = "",
) -> None: ...
def peak_read(memory: int, bytes: int, piece_bytes: int, threads: int, isa: str = "") -> int: ...
def peak_multiply_floats(turns: int, threads: int, isa: str = "") -> int: ...
def peak_multiply_bytes(turns: int, threads: int, isa: str = "") -> int: ...
def rms_norm(
    x: int,
    add: int,
    weight: int,
    out: int,
    outer: int,
    inner: int,
    width: int,
    outer_stride: int,
    inner_stride: int,
    eps: float,
    threads: int,
    isa: str = "",
) -> None: ...
def rope(
    x: int,
    positions: int,
    cos: int,
    sin: int,
    num_positions: int,
    tokens: int,
    heads: int,
    half: int,
    token_stride: int,
    head_stride: int,
    threads: int,
    isa: str = "",
) -> bool: ...
def silu_mul(x: int, out: int, rows: int, width: int, threads: int, isa: str = "") -> None: ...
def gelu_tanh_mul(x: int, out: int, rows: int, width: int, threads: int, isa: str = "") -> None: ...
def argmax(x: int, out: int, rows: int, width: int, threads: int, isa: str = "") -> None: ...

class LinearMap: ...
class NormWeight: ...
class DecoderLayer: ...

class KvPlaces:
    def __init__(self) -> None: ...
    def add(self, group: int, slot: int, owns: bool, scale: float) -> None: ...

class Decoder:
    def __init__(
        self, embed: LinearMap, head: LinearMap, embed_scale: float, norm: NormWeight, threads: int, isa: str = ""
    ) -> None: ...
    def add_layer(self, layer: DecoderLayer) -> None: ...
    def embed(self, tokens: _Indices, out: _Floats) -> None: ...
    def run(
        self,
        x: _Floats,
        rows: Rows,
        groups: Sequence[Group],
        kv: KvPlaces,
        ropes: list[tuple[int, int, int, int]],
        wanted: _Indices,
        observer: Observer | None,
        out: _Floats,
        first: int,
        last: int,
    ) -> None: ...
    def forward(
        self,
        tokens: _Indices,
        rows: Rows,
        groups: Sequence[Group],
        kv: KvPlaces,
        ropes: list[tuple[int, int, int, int]],
        wanted: _Indices,
        observer: Observer | None,
        out: _Floats,
    ) -> None: ...
    def scores(
        self,
        tokens: _Indices,
        rows: Rows,
        groups: Sequence[Group],
        kv: KvPlaces,
        ropes: list[tuple[int, int, int, int]],
        wanted: _Indices,
        observer: Observer | None,
        out: _Floats,
    ) -> list[int]: ...
    def logits(self, x: _Floats, out: _Floats) -> None: ...
    def seconds(self) -> dict[str, float]: ...
    def kv_bytes_read(self) -> int: ...
    def workspace_bytes(self) -> int: ...

def last_position(rows: Rows) -> int: ...
def linear_map(*, parts: int, num_parts: int, bias: int, cols: int, outputs: int, planes: int) -> LinearMap: ...
def norm_weight(weight: int, eps: float) -> NormWeight: ...
def decoder_layer(
    *,
    attn_norm: NormWeight,
    q_norm: NormWeight,
    k_norm: NormWeight,
    post_attn_norm: NormWeight,
    mlp_norm: NormWeight,
    post_mlp_norm: NormWeight,
    qkv: LinearMap,
    o: LinearMap,
    gate_up: LinearMap,
    down: LinearMap,
    gate: int,
    rope: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> DecoderLayer: ...
