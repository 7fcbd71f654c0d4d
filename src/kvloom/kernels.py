"""The compiled kernels and the instruction sets that they can use here."""

from __future__ import annotations

from functools import cache

import torch  # noqa: F401  (first: its OpenMP runtime then serves the kernels too)

from kvloom import _kernels
from kvloom.errors import ConfigError

kernels = _kernels


def isas() -> tuple[str, ...]:
    """Instruction sets that this machine runs, best first. Results do not depend on the choice."""
    return tuple(_kernels.isas())


@cache
def isa_code(name: str | None = None) -> int:
    """The kernels' number for an instruction set; by default KVLOOM_ISA's, or else the best one.

    Raises ConfigError when this machine cannot run it.
    """
    code = _kernels.default_isa() if name is None else _kernels.find_isa(name)
    if code is None:
        raise ConfigError(
            f"instruction set {name or 'in KVLOOM_ISA'} cannot run here; possible: {', '.join(isas())}",
            hint="unset KVLOOM_ISA to take the best one",
        )
    return code
