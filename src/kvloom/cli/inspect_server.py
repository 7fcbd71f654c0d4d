"""``kvloom inspect URL``: what a running server has in KV memory, in the words of its window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from kvloom.cli.cache_remote import ask
from kvloom.cli.say import bytes_text, show

Told = dict[str, Any]


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def inspect_server(url: str, as_json: bool) -> None:
    """Of what the key may see. Raises RequestError when there is no answer."""
    told = ask(url, "/window/about") | ask(url, "/window")
    show(told, "\n".join(_lines(told)), as_json)


def _lines(told: Told) -> Iterator[str]:
    memory, totals = told["memory"], told["totals"]
    yield f"model      {told['model']}, contexts of up to {told['max_model_len']:,} tokens"
    yield f"requests   {told['running']:,} run, {told['waiting']:,} wait"
    yield (
        f"memory     {bytes_text(memory['used_bytes'])} of {bytes_text(memory['budget_bytes'])}: "
        f"{bytes_text(memory['held_bytes'])} held, {bytes_text(memory['cached_bytes'])} cached, "
        f"{bytes_text(memory['pinned_bytes'])} pinned"
    )
    for each in memory["formats"]:
        size = bytes_text(each["held_bytes"] + each["cached_bytes"])
        yield f"  {each['name']:<9}{each['codec']}: {size} in {each['pages']:,} pages"
    for each in told["tiers"]:
        faults = sum(each["faults"].values())
        yield (
            f"tier       {each['name']}: {bytes_text(each['used_bytes'])} of {bytes_text(each['budget_bytes'])} in "
            f"{each['pages']:,} pages, {each['loaded_pages']:,} loaded, {faults:,} faults"
        )
    yield f"reused     {totals['hit_tokens']:,} prompt tokens{_of(totals['hits_by_tier'], 'from ')}"
    yield f"computed   {totals['miss_tokens']:,} prompt tokens{_of(totals['misses_by_reason'])}"
    yield f"contexts   {len(told['contexts']):,}, the newest first"
    for each in told["contexts"]:
        yield f"  {each['id']}  {each['status']}  {each['tokens']:,} tokens: {_states(each['stretches'])}"


def _of(counts: dict[str, int], before: str = "") -> str:
    said = ", ".join(f"{count:,} {before}{name}" for name, count in counts.items() if count)
    return f": {said}" if said else ""


def _states(stretches: list[Any]) -> str:
    counts: Counter[str] = Counter()
    for start, stop, state, origin in stretches:
        told = state if state not in ("missing", "tier") or not origin else f"{state} ({origin})"
        counts[told] += stop - start
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())
