"""``kvloom bench``: a progress bar on standard error; the table, or one JSON object, on standard output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvloom.bench.bounds import Bound, Demand
from kvloom.bench.limits import Limits, measure_limits
from kvloom.bench.measuring import Row, check_fits, measure
from kvloom.bench.replay import Replay, Replayed
from kvloom.bench.trace import read_trace
from kvloom.bench.workloads import Workload
from kvloom.cli import backend
from kvloom.cli.settings import Settings
from kvloom.config import EngineConfig, default_threads, processor
from kvloom.engine.stats import EngineStats


def bench(model: str, workloads: Sequence[Workload], rounds: int, settings: Settings, as_json: bool) -> None:
    """Run workloads and print what came out. Raises ConfigError when one does not fit into the engine."""
    config = settings.engine(model)
    loaded = backend.load_engine(config)
    check_fits(workloads, loaded.engine)
    limits = measure_limits(config.threads or default_threads())
    bound = Bound(Demand.of(loaded.manifest, config.cache), limits)
    with progress("tokens", rounds * sum(workload.output_tokens for workload in workloads)) as advance:
        rows = measure(loaded.engine, workloads, rounds, bound, advance)
    facts = circumstances(loaded.manifest.name, config, limits) | {"rounds": rounds}
    if as_json:
        figures = [dataclasses.asdict(row) | {"median": row.median, "share_of_limit": row.share} for row in rows]
        print(json.dumps(facts | {"figures": figures, "engine": dataclasses.asdict(loaded.engine.stats())}, indent=2))
        return
    _print(rates_table(rows), facts)


def bench_trace(model: str, file: Path, limit: int | None, speed: float, settings: Settings, as_json: bool) -> None:
    """Replay a trace and print what came out. Raises TraceError before the model is loaded."""
    requests = read_trace(file, limit)
    config = settings.engine(model)
    loaded = backend.load_engine(config)
    limits = measure_limits(config.threads or default_threads())
    with progress("requests", len(requests)) as advance:
        result = Replayed(on_end=lambda: advance(1))
        seconds = Replay(loaded.engine, result, speed).run(requests)
    facts = circumstances(loaded.manifest.name, config, limits) | {"trace": str(file), "speed": speed}
    figures = trace_figures(result, seconds, len(requests), loaded.engine.stats())
    if as_json:
        print(json.dumps(facts | {"figures": figures}, indent=2))
        return
    table = Table("", "", title=f"{file.name}, {speed:g} times as fast as recorded")
    for name, value in figures.items():
        table.add_row(name, "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    _print(table, facts)


def trace_figures(result: Replayed, seconds: float, requests: int, stats: EngineStats) -> dict[str, float | int | None]:
    """By name; None where no request came so far. Latencies in seconds."""
    return {
        "requests": requests,
        "refused, too long": result.refused,
        "seconds": seconds,
        "input tokens per second": result.input_tokens / seconds,
        "output tokens per second": result.output_tokens / seconds,
        "input tokens": result.input_tokens,
        "input tokens reused": result.cached_tokens,
        "first token, median, s": _percentile(result.ttft_s, 50),
        "first token, p99, s": _percentile(result.ttft_s, 99),
        "between tokens, median, s": _percentile(result.gaps_s, 50),
        "between tokens, p99, s": _percentile(result.gaps_s, 99),
        "preemptions": stats.preemptions,
    }


def circumstances(model: str, config: EngineConfig, limits: Limits) -> dict[str, Any]:
    """What every result says beside its figures."""
    return {
        "model": model,
        "processor": processor(),
        "threads": config.threads or default_threads(),
        "kv_dtype": config.cache.kv_dtype,
        "limits": dataclasses.asdict(limits),
    }


def rates_table(rows: Sequence[Row]) -> Table:
    table = Table("workload", "unit", "median", "least", "most", "share of limit")
    for row in rows:
        values = [f"{value:,.1f}" for value in (row.median, min(row.values), max(row.values))]
        table.add_row(row.name, row.unit, *values, f"{row.share:.0%}")
    return table


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; yields what to call with the number that came."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _print(table: Table, facts: dict[str, Any]) -> None:
    console, limits = Console(), facts["limits"]
    console.print(table)
    console.print(
        f"{facts['model']}, {facts['processor']}, {facts['threads']} threads. Measured limits: memory read "
        f"{limits['read_gb_s']:.1f} GB/s, float32 products {limits['sgemm_gflop_s']:.0f} GFLOP/s."
    )


def _percentile(values: list[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return median(values) if percent == 50 else quantiles(values, n=100, method="inclusive")[percent - 1]
