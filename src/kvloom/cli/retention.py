"""A map of what is left of a compressed context: a character for every layer and KV head.

It is drawn without colour where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from kvloom.cli.say import bytes_text
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import CompressedContext
from kvloom.errors import ConfigError

NOTHING, EVERYTHING = ".", "#"
LEGEND = f"a KV head keeps {NOTHING} nothing, 0 below 10%, 1 from 10%, ... 9 from 90% of its entries, {EVERYTHING} all"
_COLOURS = ("bright_black", "blue", "blue", "cyan", "cyan", "green", "green", "yellow", "yellow", "red")


@dataclass(frozen=True, slots=True)
class Retention:
    """``entries``: how many every KV head of a layer had; of a layer with a window, what the next token sees.

    ``exact_bytes``: of all their pages, had nothing been removed.
    """

    context: CompressedContext
    entries: Mapping[int, int]
    exact_bytes: int

    @staticmethod
    def of(context: CompressedContext, layout: KvLayout) -> Retention:
        """Raises ConfigError when the context is none of a model with this layout."""
        exact = layout.entries(context.tokens)
        entries = {layer: count for layer, (count, _) in exact.items()}
        heads = {layer: heads for layer, (_, heads) in exact.items()}
        fits = {layer: len(kept) for layer, kept in context.kept.items()} == heads
        if not fits or any(not 0 <= n <= entries[layer] for layer, kept in context.kept.items() for n in kept):
            raise ConfigError(
                f"a context of {context.tokens} tokens in {len(context.kept)} layers that is no context of this model",
                hint="name the model that was served",
            )
        return Retention(context, dict(sorted(entries.items())), layout.dense_bytes(context.tokens))

    @property
    def kept(self) -> int:
        """Entries, of all heads."""
        return sum(map(sum, self.context.kept.values()))

    @property
    def total(self) -> int:
        """Entries of all heads before."""
        return sum(count * len(self.context.kept[layer]) for layer, count in self.entries.items())

    def facts(self) -> dict[str, Any]:
        """As ``--json`` prints it: for every layer how many entries each KV head had, and how many it keeps."""
        context = self.context
        return {
            "method": context.method,
            "params": dict(context.params),
            "ratio": context.ratio,
            "budget": context.budget,
            "times": context.times,
            "tokens": context.tokens,
            "protected": context.protected,
            "entries": {"exact": self.total, "kept": self.kept},
            "bytes": {"exact": self.exact_bytes, "kept": context.bytes},
            "layers": [
                {"layer": layer, "exact": count, "kept": list(context.kept[layer])}
                for layer, count in self.entries.items()
            ],
        }

    def lines(self) -> Iterator[Text]:
        """For people."""
        context = self.context
        removes = {"budget": context.budget} if context.ratio is None else {"ratio": f"{context.ratio:g}"}
        words = {**removes, **context.params}
        params = ",".join(f"{key}={value}" for key, value in words.items() if value != "")
        protected = f", {context.protected:,} of them protected" if context.protected else ""
        yield Text(f"method     {context.method}:{params}")
        yield Text(f"context    {context.tokens:,} tokens{protected}")
        yield Text(f"entries    {self.kept:,} of {self.total:,} stay: {_percent(self.kept, self.total)}")
        sizes = f"{bytes_text(context.bytes)} of {bytes_text(self.exact_bytes)}"
        yield Text(f"bytes      {sizes}: {_percent(context.bytes, self.exact_bytes)}")
        yield Text()
        width = max(len("heads"), *(len(kept) for kept in context.kept.values()))
        yield Text(f"layer  {'heads':<{width}}  {'entries that stay':>19}")
        for layer, count in self.entries.items():
            yield self._line(layer, count, width)
        yield Text()
        yield Text(LEGEND)

    def _line(self, layer: int, count: int, width: int) -> Text:
        kept = self.context.kept[layer]
        line = Text(f"{layer:>5}  ")
        for stays in kept:
            line.append(*mark(stays, count))
        stay, had = sum(kept), count * len(kept)
        line.append(f"{'':<{width - len(kept)}}  {stay:>8,} of {had:>7,}  {_percent(stay, had):>6}")
        return line


def mark(stays: int, had: int) -> tuple[str, str]:
    """A character and its colour.

    >>> [mark(stays, 1000)[0] for stays in (0, 1, 99, 100, 999, 1000)]
    ['.', '0', '0', '1', '9', '#']
    """
    if not stays:
        return NOTHING, _COLOURS[0]
    if stays == had:
        return EVERYTHING, f"bold {_COLOURS[-1]}"
    tenths = 10 * stays // had
    return str(tenths), _COLOURS[tenths]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"
