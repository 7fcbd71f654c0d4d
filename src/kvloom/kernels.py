"""The door to the C++ extension: says what it can run, and copies pages.

The extension has its own team of threads (``src/csrc/pool.cpp``) and links no OpenMP: torch's is the only one in the
process.
"""

from __future__ import annotations

import torch

from kvloom import _kernels
from kvloom.errors import ConfigError, InternalError
from kvloom.memory.arena import GRAIN_BYTES

__all__ = ["choose_isa", "copy_pages", "isas"]


def isas() -> tuple[str, ...]:
    """Instruction sets that this machine can run, best first; the last one is always ``"portable"``."""
    return tuple(_kernels.isas())


def choose_isa(name: str | None = None) -> str:
    """Return ``name`` if this machine can run it. None takes KVLOOM_ISA when that is set, else the best.

    Raises ConfigError.
    """
    try:
        chosen = _kernels.default_isa() if name is None else name
    except ValueError as error:
        raise ConfigError(str(error), hint="unset KVLOOM_ISA to take the best") from None
    if chosen not in isas():
        raise ConfigError(f"instruction set `{chosen}` cannot run here", hint=f"one of {', '.join(isas())}")
    return chosen


def copy_pages(
    memory: torch.Tensor, sources_N: torch.Tensor, targets_N: torch.Tensor, page_bytes: int, threads: int = 1
) -> None:
    """Copy whole pages inside ``memory`` (uint8): page ``sources_N[i]`` to ``targets_N[i]``. int32 page ids.

    No target may overlap a source or another target. Raises InternalError for a page outside of the memory.
    """
    assert memory.dtype == torch.uint8
    assert memory.is_contiguous()
    for ids_N in (sources_N, targets_N):
        assert ids_N.dtype == torch.int32
        assert ids_N.is_contiguous()
        assert ids_N.shape == sources_N.shape
        if ids_N.numel() == 0:
            return
        low, high = (int(end) for end in ids_N.aminmax())
        if low < 0 or high * GRAIN_BYTES + page_bytes > memory.numel():
            raise InternalError(f"pages {low}..{high} do not all lie in a memory of {memory.numel()} bytes")
    addresses = (memory.data_ptr(), sources_N.data_ptr(), targets_N.data_ptr())
    _kernels.copy_pages(*addresses, sources_N.numel(), page_bytes, threads)
