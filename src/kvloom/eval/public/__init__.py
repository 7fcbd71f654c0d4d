"""Public benchmarks, from a local path or through ``datasets``: one small loader per family.

Data and metrics are the authors'; the wording of the prompts is ours. Scores therefore compare policies and models
with each other, but not with the authors' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from kvloom.errors import EvalError
from kvloom.eval.public import hundred_longbench, infinitebench, longbench, longbench_v2, loogle, nolima, oolong
from kvloom.eval.public.base import PublicTask


class Family(Protocol):
    """A benchmark that consists of parts."""

    @property
    def PARTS(self) -> tuple[str, ...]: ...  # noqa: N802
    @property
    def task(self) -> Callable[[str, Path | None], PublicTask]: ...


FAMILIES: Mapping[str, Family] = {
    "longbench": longbench,
    "longbench_v2": longbench_v2,
    "infinitebench": infinitebench,
    "loogle": loogle,
    "nolima_public": nolima,
    "hundred_longbench": hundred_longbench,
    "oolong_public": oolong,
}


def load_family(name: str, part: str | None, path: Path | None) -> list[PublicTask]:
    """Tasks of a family: one part, or all. Data is read when the first sample is generated. Raises EvalError."""
    family = FAMILIES[name]
    if part is not None and part not in family.PARTS:
        raise EvalError(f"`{name}` has no part `{part}`", hint=f"its parts are {', '.join(family.PARTS)}")
    return [family.task(each, path) for each in family.PARTS if part in (None, each)]
