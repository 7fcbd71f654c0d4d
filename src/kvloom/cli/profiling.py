"""``kvloom profile kvzip`` and ``kvloom profile lu``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvloom.cli import backend
from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import say, show
from kvloom.cli.settings import Settings
from kvloom.errors import ConfigError
from kvloom.eval.policy import parse_policy
from kvloom.eval.subject import Subject
from kvloom.learn.kvzap import learn
from kvloom.learn.lu import learn_profile
from kvloom.learn.texts import mixture, passages, texts_of
from kvloom.policy.compression.base import Scorer
from kvloom.policy.compression.predictor import write_predictor
from kvloom.policy.compression.profile import write_profile


@dataclass(frozen=True, slots=True)
class Source:
    """What to learn from. No ``paths``: the mixture of ``learn.texts``."""

    paths: tuple[Path, ...]
    length: int
    count: int
    seed: int

    def texts(self, subject: Subject) -> list[list[int]]:
        if self.paths:
            return texts_of(subject, self.paths, self.length, self.count)
        return mixture(subject, self.length, self.count, self.seed)

    @property
    def about(self) -> dict[str, int | str | list[str]]:
        if self.paths:
            return {"from": [path.name for path in self.paths], "length": self.length}
        return {"from": "mixture", "length": self.length, "seed": self.seed}


def learn_kvzip(
    model: str, source: Source, hidden: int, output: Path | None, as_json: bool, settings: Settings
) -> None:
    """Learn, write the predictor, and print how much of the scores' variance it explains by layer."""
    subject = backend.open_subject(settings.engine(model))
    if 2 * source.length > subject.engine.max_len:
        most = subject.engine.max_len // 2
        raise ConfigError(f"texts of {source.length} tokens cannot be repeated", hint=f"--length {most} at most")
    texts = source.texts(subject)
    with profile_bar() as bar:
        task = bar.add_task("tokens", total=sum(map(len, texts)))
        found = learn(subject, texts, lambda tokens: bar.advance(task, tokens), hidden, **source.about)
    path = output or Path(f"kvzap-{subject.name.replace('/', '-')}.npz")
    write_predictor(found, path)
    explained = found.learned["explained"]
    lines = ["layer  explained", *(f"{layer:>5}  {share:.3f}" for layer, share in explained.items())]
    show({"file": str(path), "explained": explained}, "\n".join(lines), as_json)
    say(f"the predictor is in {path}: --policy kvzap:ratio=0.5,predictor={path}")


def learn_lu(
    model: str, method: str, lengths: tuple[int, ...], count: int, seed: int, output: Path | None, settings: Settings
) -> None:
    """Learn, write the profile, and say how to use it."""
    scorer = _scorer(method)
    subject = backend.open_subject(settings.engine(model))
    texts = {length: passages(subject, length, count, seed) for length in sorted(set(lengths))}
    with profile_bar() as bar:
        task = bar.add_task("tokens", total=sum(len(each.context) for some in texts.values() for each in some))
        found = learn_profile(subject, scorer, texts, lambda tokens: bar.advance(task, tokens))
    path = output or Path(f"lu-{subject.name.replace('/', '-')}-{scorer.name}.json")
    write_profile(found, path)
    policy = f"{method}{',' if ':' in method else ':'}ratio=0.5,allocator=lukv,profile={path}"
    say(f"the profile is in {path}: --policy {policy}")


def _scorer(method: str) -> Scorer:
    """Raises EvalError when there is none, or nothing to divide."""
    compression = parse_policy(f"{method}{',' if ':' in method else ':'}ratio=0.5").compression
    if compression is None:
        raise ConfigError("the exact cache ranks nothing", hint="--method knorm")
    return compression.scorer
