"""The C++ extension, and the instruction sets that it can run.

The extension has its own thread pool (``src/csrc/pool.cpp``) and does not link OpenMP: where torch is loaded too, its
runtime is the only one in the process.
"""

from __future__ import annotations

from kvloom import _kernels
from kvloom.errors import ConfigError


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
