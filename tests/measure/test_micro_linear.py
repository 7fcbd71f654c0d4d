"""The micro benchmark of the matrix product, on small matrices; and the limits that it is compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import micro_linear
from bench.micro_linear import Timed, copies_in, random_weight
from bench.peaks import Peaks
from kvloom import _kernels
from kvloom.arrays import aligned_bytes
from kvloom.kernels import isas

PEAKS = Peaks(20.0, 1000.0, 8000.0, 300.0, 2000.0)
NO_TILES = replace(PEAKS, tiles_gop_s=None)


def test_one_row_is_judged_by_bytes_and_many_by_operations() -> None:
    one = Timed(seconds=1e-3, rows=1, outputs=1000, cols=1000, packed_bytes=10**7)
    many = Timed(seconds=1e-3, rows=256, outputs=1000, cols=1000, packed_bytes=10**7)
    assert one.shares(PEAKS) == "50% of reading"
    assert many.shares(PEAKS) == "51% of dot products, 6% of tiles"
    assert many.shares(NO_TILES) == "51% of dot products"


def test_copies_lie_one_behind_the_other_and_are_equal() -> None:
    weight = random_weight("Q6_K", 64, 512, 1)
    memory = aligned_bytes(5 * weight.nbytes + 100)
    copies = copies_in(memory, weight)
    assert len(copies) == 5
    assert np.diff([copy.parts[0].packed.ctypes.data for copy in copies]).tolist() == [weight.nbytes] * 4
    assert all(np.array_equal(copy.dequantize(), weight.dequantize()) for copy in copies)


@pytest.mark.parametrize("isa", isas())
def test_every_byte_is_read_once(isa: str) -> None:
    """The sum of what was read, as 32-bit numbers, whatever the pieces are."""
    words = np.random.default_rng(5).integers(0, 1000, 64 * 16, dtype=np.int32)
    memory = aligned_bytes(words.nbytes)
    memory[:] = words.view(np.uint8)
    for piece, threads in ((64, 1), (256, 2), (1000 * 64, 2), (64 * 9, 1)):
        found = _kernels.peak_read(memory.ctypes.data, memory.size, piece, threads, isa)
        assert found == int(words.sum()), (piece, threads)


@pytest.mark.parametrize("isa", isas())
def test_operations_are_counted_by_the_width_of_a_vector(isa: str) -> None:
    lanes = {"amx": 16, "avx512vnni": 16, "avx512": 16, "avx2": 8, "portable": 4, "neon": 4}[isa]
    assert _kernels.peak_multiply_floats(1, 1, isa) == 2 * 12 * lanes
    tiles = 2 * 4 * 16 * 16 * 64
    assert _kernels.peak_multiply_bytes(1, 1, isa) == (tiles if isa == "amx" else 8 * 12 * lanes)


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_linear, "measure_peaks", lambda memory, threads: PEAKS)
    monkeypatch.setattr(micro_linear, "_SECONDS", 0.001)
    micro_linear.main(["--kind", "Q4_K", "--shape", "64x256", "--rows", "1", "64", "--memory-mib", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert "20.0 GB/s read, 1000 GOP/s in dot products of bytes, 8000 in AMX tiles of bytes" in printed[0]
    assert "tiles" not in str(NO_TILES)
    assert [line.split(" | ")[2] for line in printed[4:]] == ["1", "64"]
