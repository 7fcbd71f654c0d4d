"""Names of split GGUF files: ``name-00001-of-00003.gguf`` and its companions."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SplitName:
    """Part ``number`` (from 1) of ``count``. ``stem`` may hold folders."""

    stem: str
    number: int
    count: int

    @staticmethod
    def parse(name: str) -> SplitName | None:
        """None when ``name`` is not the name of a part."""
        match = _PATTERN.fullmatch(name)
        return None if match is None else SplitName(match[1], int(match[2]), int(match[3]))

    def part(self, number: int) -> str:
        return f"{self.stem}-{number:05d}-of-{self.count:05d}.gguf"

    @property
    def first(self) -> str:
        return self.part(1)

    @property
    def parts(self) -> list[str]:
        """All names, in order."""
        return [self.part(number) for number in range(1, self.count + 1)]
