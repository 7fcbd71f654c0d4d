def isas() -> list[str]: ...
def find_isa(name: str) -> int | None: ...
def default_isa() -> int | None: ...
def weight_kinds() -> list[tuple[str, int, int, int]]: ...
def pack_weight(source: int, kind: int, rows: int, cols: int, packed: int, threads: int) -> None: ...
def gather_rows(
    parts: int, num_parts: int, cols: int, ids: int, count: int, out: int, threads: int
) -> None: ...
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
    isa: int,
) -> None: ...
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
    isa: int,
) -> None: ...
def rope(
    x: int,
    positions: int,
    cos: int,
    sin: int,
    tokens: int,
    heads: int,
    half: int,
    token_stride: int,
    head_stride: int,
    threads: int,
    isa: int,
) -> None: ...
def silu_mul(x: int, out: int, rows: int, width: int, threads: int, isa: int) -> None: ...
def gelu_tanh_mul(x: int, out: int, rows: int, width: int, threads: int, isa: int) -> None: ...
