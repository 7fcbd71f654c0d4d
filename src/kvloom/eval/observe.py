"""From rows to observations: groups a prompt's answers under all seeds, and averages the turns of a sample."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kvloom.eval.clusters import Observed
from kvloom.eval.records import Key, Row, Settings

CellKey = tuple[str, int]
"""(task, length)"""

Prompt = tuple[Row, ...]
"""The answers to one prompt, one for every seed of the policy."""

LEAST_SEEDS = 3
"""Of a random policy: fewer say too little about the variation between seeds."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """All answers of one policy. ``seeds``: of the policy, 1 if it is deterministic. ``holes``: missing answers."""

    settings: Settings
    seeds: int
    prompts: Mapping[Key, Prompt]
    holes: int

    @property
    def label(self) -> str:
        """The policy's specification, and the number of seeds if there are several."""
        if self.seeds == 1:
            return self.settings.label
        params = {name: value for name, value in self.settings.params.items() if name != "seed"}
        return f"{dataclasses.replace(self.settings, params=params).label} ({self.seeds} seeds)"

    @property
    def too_few_seeds(self) -> bool:
        return "seed" in self.settings.params and self.seeds < LEAST_SEEDS

    def cells(self) -> dict[CellKey, list[Prompt]]:
        """Prompts by (task, length), in an order that depends on them alone."""
        found: dict[CellKey, list[Prompt]] = defaultdict(list)
        for key, prompt in sorted(self.prompts.items(), key=lambda item: (item[0][1], item[0][0], item[0][2:])):
            found[key[0], key[1]].append(prompt)
        return dict(found)


def method_of(rows: Sequence[Row]) -> Method:
    """Combine the answers of a policy; the rows may come from several runs that differ only in its seed.

    A prompt that was not answered under every seed is excluded, and its answers counted as holes. At least one row.
    """
    by_prompt: dict[Key, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_prompt[row.key][_seed(row.settings)] = row
    seeds = sorted({seed for answers in by_prompt.values() for seed in answers})
    whole = {key: answers for key, answers in by_prompt.items() if len(answers) == len(seeds)}
    return Method(
        settings=rows[0].settings,
        seeds=len(seeds),
        prompts={key: tuple(answers[seed] for seed in seeds) for key, answers in whole.items()},
        holes=sum(len(seeds) - len(answers) for answers in by_prompt.values()),
    )


def methods_of(runs: Iterable[Sequence[Row]]) -> list[list[Row]]:
    """Rows of runs, grouped where they differ only in the seed of a random policy."""
    found: dict[object, list[Row]] = {}
    for number, rows in enumerate(runs):
        found.setdefault(same_method(rows[0].settings) or number, []).extend(rows)
    return list(found.values())


def observe(prompts: Iterable[Prompt], values: Callable[[Prompt], tuple[float, ...] | None]) -> list[Observed]:
    """One observation per sample, its turns averaged; prompts without values are left out.

    A sample whose row names no document is a document of its own.
    """
    found: dict[tuple[Key, int], list[tuple[float, ...]]] = defaultdict(list)
    names: dict[tuple[Key, int], str] = {}
    for prompt in prompts:
        numbers = values(prompt)
        if numbers is not None:
            first = prompt[0]
            sample = (*first.key[:3], 0), first.settings.seed
            found[sample].append(numbers)
            own = "/".join(map(str, (*first.key[:3], first.settings.seed)))
            names[sample] = next((row.document for row in prompt if row.document), own)
    return [
        (names[sample], tuple(fmean(of_seed) for of_seed in zip(*turns, strict=True)))
        for sample, turns in found.items()
    ]


def scores(prompt: Prompt) -> tuple[float, ...]:
    """The score under each seed."""
    return tuple(row.score for row in prompt)


def over_control(prompt: Prompt) -> tuple[float, ...] | None:
    """How much better than another sample's answer, under each seed; None where there is no other."""
    pairs = [(row.score, row.control) for row in prompt]
    return None if any(control is None for _, control in pairs) else tuple(s - (c or 0.0) for s, c in pairs)


def same_method(settings: Settings) -> str | None:
    """Equal for runs that differ only in the policy's seed and in speed. None when nothing is random."""
    if "seed" not in settings.params:
        return None
    fields = dataclasses.asdict(settings)
    fields["params"] = {name: value for name, value in settings.params.items() if name != "seed"}
    return repr(sorted((name, value) for name, value in fields.items() if name not in ("in_flight", "threads")))


def _seed(settings: Settings) -> str:
    return str(settings.params.get("seed"))
