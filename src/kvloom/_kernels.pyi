"""Types of the C++ extension. Addresses are integers: see src/csrc/bindings.cpp."""

def isas() -> list[str]: ...
def default_isa() -> str: ...

class Rows: ...

class Part:
    def bind_writes(
        self, row_pages: int, row_slots: int, rows: int, page_bytes: int, memory_bytes: int
    ) -> None: ...

def bind_rows(*, positions: int, seq_rows: int, rows: int, seqs: int) -> Rows: ...
def bind_part(
    *,
    memory: int,
    memory_bytes: int,
    number: int,
    ragged: bool,
    heads: int,
    k_dim: int,
    v_dim: int,
    window: int,
    cell_bytes: int,
    page_bytes: int,
    page_ids: int,
    page_marks: int,
    page_lists: int,
    num_pages: int,
    num_lists: int,
) -> Part: ...
def write(rows: Rows, part: Part, layer_slot: int, k: int, v: int, threads: int, isa: str = "") -> None: ...
def attend(
    rows: Rows,
    part: Part,
    layer_slot: int,
    q_heads: int,
    scale: float,
    q: int,
    out: int,
    lse: int,
    merge: bool,
    threads: int,
    isa: str = "",
) -> None: ...
def copy_pages(
    memory: int, sources: int, targets: int, count: int, page_bytes: int, threads: int
) -> None: ...
