"""``kvloom eval run`` and ``kvloom eval sweep``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvloom.cli import backend
from kvloom.cli.eval_progress import RunBar, minutes_text
from kvloom.cli.say import say
from kvloom.cli.settings import Settings
from kvloom.errors import ConfigError
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.choose import choose_tasks, digests, parse_data
from kvloom.eval.estimate import calibrate, pending
from kvloom.eval.find import exact_beside, floors_beside
from kvloom.eval.frame import frame_of
from kvloom.eval.policy import QueryProtocol, parse_policy
from kvloom.eval.records import Row, RunStore
from kvloom.eval.report.gather import gather
from kvloom.eval.report.markdown import markdown
from kvloom.eval.report.write import write_report
from kvloom.eval.run import Work, check_lengths, run, settings_of
from kvloom.eval.subject import Subject
from kvloom.eval.sweep import Reach, reach
from kvloom.eval.tasks.material import OWN, Material

_SWEEP_FROM = 256


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the user asks for. No ``tasks``: all that need no file. No ``lengths``: doubling up to the model's end.

    No ``chat``: in a chat if the model has a template for it.
    """

    model: str
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    samples: int
    policy: str
    query_aware: bool = False
    chat: bool | None = None
    wording: str = OWN.wording
    haystack: str = OWN.haystack

    @property
    def protocol(self) -> QueryProtocol:
        return "query-aware" if self.query_aware else "query-agnostic"

    @property
    def directory(self) -> Path:
        """Where the run goes when no place is named."""
        said = {None: "", True: "chat", False: "no-chat"}[self.chat]
        marks = ["query-aware" if self.query_aware else "", said]
        marks += [self.wording if self.wording != OWN.wording else ""]
        marks += [self.haystack if self.haystack != OWN.haystack else ""]
        name = "-".join(filter(None, (self.model, self.policy, *marks)))
        return Path("eval-runs") / re.sub(r"[^\w.=-]+", "-", name).strip("-")


def run_benchmarks(
    request: RunRequest,
    data: Sequence[str],
    in_flight: int,
    output: Path | None,
    estimate_only: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Run, write the report on all rows of the directory beside them, and print it."""
    place = output or request.directory
    _run(request, data, in_flight, place, settings, estimate_only)
    if estimate_only:
        return
    report = gather([place], exact_beside(place), floors_beside(place))
    files = write_report(report, place)
    print(report.to_json() if as_json else markdown(report))
    say(f"rows and report are in {files[0].parent}")


def run_sweep(
    request: RunRequest, data: Sequence[str], in_flight: int, output: Path | None, as_json: bool, settings: Settings
) -> None:
    """Run the exact cache over lengths, and say up to which the model works."""
    place = output or request.directory.with_name(request.directory.name + "-sweep")
    found = reach(_run(request, data, in_flight, place, settings))
    print(
        json.dumps([dataclasses.asdict(each) for each in found], indent=2) if as_json else "\n".join(map(_line, found))
    )


def _run(
    request: RunRequest,
    data: Sequence[str],
    in_flight: int,
    place: Path,
    settings: Settings,
    estimate_only: bool = False,
) -> list[Row]:
    policy, files = parse_policy(request.policy), parse_data(data)
    material = Material(request.wording, request.haystack)
    tasks = choose_tasks(request.tasks, files, material)
    config = settings.engine(request.model)
    subject = backend.open_subject(config)
    lengths = request.lengths or _doubling(subject.engine.max_len)
    check_lengths(lengths, subject)
    frame = frame_of(subject, request.chat)
    work = Work(tasks=tasks, lengths=lengths, count=request.samples, seed=config.seed, frame=frame)
    answerer = EngineAnswers(subject, in_flight, policy, request.protocol)
    made_with = settings_of(
        subject,
        policy,
        seed=config.seed,
        protocol=request.protocol,
        in_flight=answerer.in_flight,
        data=digests(files),
        frame=frame,
        material=material,
    )
    say(f"prompts are {'plain text to continue' if frame is None else 'chat messages'}")
    with RunStore(place, made_with) as store:
        prompts = _say_estimate(work, subject, store)
        if not estimate_only:
            with RunBar(prompts, place) as bar:
                run(work, subject, answerer, store, bar)
        wanted = {task.name for task in tasks}
        return [row for row in store.rows.values() if row.task in wanted and row.length in lengths]


def _say_estimate(work: Work, subject: Subject, store: RunStore) -> int:
    """Say how long it will take; the number of prompts left."""
    if store.rows:
        say(f"{len(store.rows)} answers already exist")
    made_with = store.settings
    left = pending(work, subject, store)
    if not left.prompts:
        say("nothing is left to answer")
        return 0
    estimate = left.at(calibrate(subject, max(work.lengths), made_with.in_flight))
    say(
        f"{left.prompts} prompts, {estimate.prompt_tokens:,} prompt tokens, at most {estimate.new_tokens:,} answer "
        f"tokens: {minutes_text(estimate.least_s)} to {minutes_text(estimate.most_s)}, by how long the answers are"
    )
    return left.prompts


def _doubling(limit: int) -> tuple[int, ...]:
    lengths = []
    length = _SWEEP_FROM
    while length <= limit:
        lengths.append(length)
        length *= 2
    if not lengths:
        raise ConfigError(f"the model is limited to {limit} tokens: there is nothing to sweep")
    return tuple(lengths)


def _line(each: Reach) -> str:
    scores = ", ".join(f"{length}: {100 * score.mean:.0f}%" for length, score in each.scores)
    if each.effective_length is None:
        return f"{each.task}: the model cannot do this at any length ({scores})"
    end = f"stops at {each.stops_at}" if each.stops_at else "works as far as was tried"
    return f"{each.task}: works up to {each.effective_length} tokens, {end} ({scores})"
