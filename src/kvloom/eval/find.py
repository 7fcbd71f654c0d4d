"""Runs that lie beside others: the exact one that judges them, that which measures noise, other seeds of a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvloom.errors import DataFileError, EvalError
from kvloom.eval.compare import Comparison, compare
from kvloom.eval.judge import baseline_of, judge_of
from kvloom.eval.observe import same_method
from kvloom.eval.records import Row, Settings, first_settings, read_rows


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a comparison is made from. ``floors``: runs that measure noise. ``used``: directories that nobody named."""

    a: list[Row]
    b: list[Row]
    exact: list[list[Row]]
    floors: list[list[Row]]
    used: list[Path]


def find_runs(a: Path, b: Path, judges: Sequence[Path] = ()) -> Found:
    """Read two runs and those next to them: other seeds of a random policy, and exact runs unless some are named.

    Raises DataFileError when there is no run, or a row cannot be read.
    """
    own_a, own_b = read_rows(a), read_rows(b)
    settings = [rows[0].settings for rows in (own_a, own_b) if rows]
    apart = len(settings) == 2 and same_method(settings[0]) != same_method(settings[1])
    seeds_a, seeds_b = (seeds_beside(place) if apart else [] for place in (a, b))
    found = {place.resolve(): place for place in judges}
    if not judges:
        found = {place.resolve(): place for place in (*_exact(a, b), *exact_beside(a), *exact_beside(b))}
    named = {place.resolve() for place in (a, b, *judges)}
    noise = {place.resolve(): place for place in (*floors_beside(a), *floors_beside(b)) if place.resolve() not in named}
    beside = [p for p in (*seeds_a, *seeds_b, *found.values(), *noise.values()) if p.resolve() not in named]
    return Found(
        a=own_a + [row for place in seeds_a for row in read_rows(place)],
        b=own_b + [row for place in seeds_b for row in read_rows(place)],
        exact=[rows for place in found.values() if (rows := read_rows(place))],
        floors=[rows for place in noise.values() if (rows := read_rows(place))],
        used=beside,
    )


def exact_beside(directory: Path) -> list[Path]:
    """Exact runs in the same parent directory, of the same model and number formats, asked in the same way."""
    return _beside(directory, lambda own, other: other.is_exact and _alike(own, other))


def floors_beside(directory: Path) -> list[Path]:
    """Runs in the same parent directory that drop nothing but move everything, otherwise like this one."""
    return _beside(
        directory, lambda own, other: other.is_floor and own.protocol == other.protocol and _alike(own, other)
    )


def seeds_beside(directory: Path) -> list[Path]:
    """Runs in the same parent directory that differ in the seed of a random policy only."""
    return _beside(
        directory, lambda own, other: (method := same_method(own)) is not None and method == same_method(other)
    )


def _alike(own: Settings, other: Settings) -> bool:
    return all(
        getattr(own, name) == getattr(other, name) for name in ("weights_id", "kv_dtype", "activations", "asked")
    )


def _exact(*places: Path) -> Iterator[Path]:
    for place in places:
        settings = first_settings(place)
        if settings is not None and settings.is_exact:
            yield place


def _beside(directory: Path, wanted: Callable[[Settings, Settings], bool]) -> list[Path]:
    own, found = first_settings(directory), []
    if own is None:
        return []
    for place in sorted(directory.resolve().parent.iterdir()):
        if place.is_dir() and place != directory.resolve():
            try:
                other = first_settings(place)
            except DataFileError:  # irrelevant for a run that was not named
                continue
            if other is not None and wanted(own, other):
                found.append(directory.parent / place.name)
    return found


def comparisons_of(found: Found, common: bool = False) -> list[Comparison]:
    """B against A; then, where a third run is exact and on the same prompts, A and B against that; then noise.

    A run that drops nothing is compared with the exact one, and, as the baseline that shares their noise, with A and B.

    Raises EvalError, as ``compare`` does.
    """
    if not (found.a and found.b):
        raise EvalError("a run has no rows yet")
    settings = found.a[0].settings
    judge = judge_of(found.exact, settings)
    pairs: list[tuple[Sequence[Row], Sequence[Row]]] = [(found.a, found.b)]
    baseline = baseline_of(found.exact, found.a)
    if baseline is not None and not (settings.is_exact or found.b[0].settings.is_exact):
        pairs += [(baseline, found.a), (baseline, found.b)]
    floor = baseline_of(found.floors, found.a)
    if floor is not None:
        others = (found.a, found.b, *([] if baseline is None else [baseline]))
        compressed = [rows for rows in others if not rows[0].settings.is_floor]
        pairs += [(rows, floor) if rows[0].settings.is_exact else (floor, rows) for rows in compressed]
    return [compare(a, b, judge, common) for a, b in pairs]
