"""``kvloom profile fusion``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvloom.cli import backend
from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import say, show
from kvloom.cli.settings import Settings
from kvloom.errors import ConfigError
from kvloom.eval.subject import Subject
from kvloom.learn import fusion
from kvloom.learn.texts import Passage, passages, texts_of
from kvloom.policy.fusion import parse_fusion
from kvloom.policy.fusion.profile import Profile, write_profile

SELECTORS = ("a3", "cacheblend", "epic", "fusionrag", "prophetkv", "a3+epic")
GOES_ON = 64
"""Tokens at the end of a text that are read after the others."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What to learn from. No ``paths``: the mixture of ``learn.texts``."""

    paths: tuple[Path, ...]
    length: int
    document: int
    count: int
    seed: int

    def passages(self, subject: Subject) -> list[Passage]:
        if not self.paths:
            return passages(subject, self.length, self.count, self.seed)
        whole = texts_of(subject, self.paths, self.length + GOES_ON, self.count)
        return [Passage(tuple(text[:-GOES_ON]), (tuple(text[-GOES_ON:]),)) for text in whole]


def learn_fusion(
    model: str, selectors: tuple[str, ...], cut: Cut, output: Path | None, as_json: bool, settings: Settings
) -> None:
    """Learn, write the profile, print it, and say how to use it."""
    fusions = list(map(parse_fusion, selectors or SELECTORS))
    if 2 * cut.document > cut.length:
        raise ConfigError(
            f"a context of {cut.length} tokens is no two documents of {cut.document}", hint="a smaller --document"
        )
    subject = backend.open_subject(settings.engine(model))
    read = cut.passages(subject)
    with profile_bar() as bar:
        task = bar.add_task("tokens", total=sum(len(each.context) for each in read))
        found = fusion.learn_fusion(
            subject.engine, fusions, read, cut.document, lambda tokens: bar.advance(task, tokens)
        )
    path = output or Path(f"fusion-{subject.name.replace('/', '-')}.json")
    write_profile(found, path)
    kl = {name: dict(zip(map(str, curve.ratios), curve.kl, strict=True)) for name, curve in found.curves.items()}
    show({"file": str(path), "kl": kl}, "\n".join(profile_lines(found)), as_json)
    say(f"the profile is in {path}: fusion {fusions[0].name}:target=0.02,profile={path}")


def profile_lines(profile: Profile) -> list[str]:
    """Mean KL, nats per token, for people."""
    width = max(map(len, profile.curves))
    first = next(iter(profile.curves.values()))
    lines = [f"{'KL':<{width}}  " + "  ".join(f"{ratio:>6.0%}" for ratio in first.ratios)]
    for name, curve in profile.curves.items():
        lines.append(f"{name:<{width}}  " + "  ".join(f"{kl:6.4f}" for kl in curve.kl))
    return lines
