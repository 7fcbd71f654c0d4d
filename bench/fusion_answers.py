"""Every way to fuse answers the same prompts, each prepared once; answers are kept by way, as the judge reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.fusion_records import directory_of, policy_of, rows_at
from bench.fusion_tasks import LENGTH, Asking, Question
from bench.side_by_side import JUDGE_SEED, SEED
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.eval.dictated import exact_answer, heard
from kvloom.eval.frame import Frame, frame_of
from kvloom.eval.policy import EXACT
from kvloom.eval.records import Row, RunStore
from kvloom.eval.run import settings_of
from kvloom.eval.subject import Subject
from kvloom.policy.fusion import Fusion, parse_fusion


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question in tokens. ``documents``: where they lie in it."""

    question: Question
    tokens: list[int]
    documents: tuple[tuple[int, int], ...]

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=self.question.max_new_tokens)


def prepared(question: Question, subject: Subject, frame: Frame | None) -> Prepared:
    """Opening, documents and question are tokenized each by itself: a document's tokens are the same in any prompt."""
    encode = subject.tokenizer.encode
    header = "" if frame is None else frame.header
    tokens = encode(header + question.opening, add_special_tokens=frame is None)
    documents = []
    for text in question.documents:
        ids = encode(text, add_special_tokens=False)
        documents.append((len(tokens), len(tokens) + len(ids)))
        tokens = tokens + ids
    asked = question.question if frame is None else question.question.rstrip() + frame.footer
    return Prepared(question, tokens + encode(asked + question.begins, add_special_tokens=False), tuple(documents))


def digest_of(fusion: Fusion) -> str:
    """Of the code of its scorers: rows of other code are another run."""
    sources = sorted({inspect.getsource(sys.modules[type(each).__module__]) for each in fusion.scorers})
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's below ``place``, a directory for each way. ``ways``: as ``parse_fusion`` reads them."""

    subject: Subject
    place: Path
    ways: tuple[str, ...]
    frame: Frame | None = None
    _last: dict[tuple[str, int], str] = field(default_factory=dict)

    @staticmethod
    def of(subject: Subject, place: Path, ways: Iterable[str]) -> Answers:
        """The subject's engine fuses from now on whether that is faster or not."""
        subject.engine.intake.worth = lambda cache, prompt_tokens: True
        return Answers(subject, place, tuple(ways), frame_of(subject))

    @property
    def fusions(self) -> list[Fusion]:
        return list(map(parse_fusion, self.ways))

    def answer(self, task: Asking, indices: Iterable[int]) -> int:
        """What is not there yet; how many questions that were."""
        wanted = list(indices)
        with ExitStack() as stack:
            exact = stack.enter_context(self._store(None, SEED))
            stores = [stack.enter_context(self._store(fusion, SEED)) for fusion in self.fusions]
            missing = [n for n in wanted if any(_key(task, n) not in store for store in (exact, *stores))]
            for question in self._questions(task, SEED, missing):
                self._ask(task, question, exact, stores)
        return len(missing)

    def judge(self, task: Asking, count: int) -> None:
        """Exact answers to other questions, by which it is chosen what counts."""
        with self._store(None, JUDGE_SEED) as store:
            missing = [n for n in range(count) if _key(task, n) not in store]
            for question in self._questions(task, JUDGE_SEED, missing):
                it = prepared(question, self.subject, self.frame)
                said = exact_answer(self.subject.engine, it.tokens, it.params)
                store.append(self._row(store, task, it, said.text, len(said.answer), said.metrics))

    def fewest(self) -> list[Row]:
        """Of the way that has answered least."""
        return min((rows_at(self.place, fusion) for fusion in self.fusions), key=len, default=[])

    # -- inside ----------------------------------------------------------------------------------------------------

    def _questions(self, task: Asking, seed: int, indices: Sequence[int]) -> Iterator[Question]:
        if indices:
            wanted = set(indices)
            made = task.questions(max(indices) + 1, seed, self.subject.text_length)
            yield from (question for question in made if question.index in wanted)

    def _ask(self, task: Asking, question: Question, exact: RunStore, stores: Sequence[RunStore]) -> None:
        it, key = prepared(question, self.subject, self.frame), _key(task, question.index)
        engine = self.subject.engine
        said = exact_answer(engine, it.tokens, it.params)
        pairs = [(fusion, store) for fusion, store in zip(self.fusions, stores, strict=True) if key not in store]
        ways = [CacheParams(fusion=fusion, documents=it.documents) for fusion, _ in pairs]
        for (_, store), each in zip(pairs, heard(engine, it.tokens, it.params, ways, said), strict=True):
            store.append(self._row(store, task, it, each.text, len(each.answer), each.metrics, each.kl))
        if key not in exact:
            exact.append(self._row(exact, task, it, said.text, len(said.answer), said.metrics, 0.0))

    def _row(
        self,
        store: RunStore,
        task: Asking,
        it: Prepared,
        output: str,
        answer_tokens: int,
        metrics: RequestMetrics,
        kl: float | None = None,
    ) -> Row:
        """Times are left out: they would be those of a crowd."""
        question, name = it.question, (str(store.directory), task.name)
        last = self._last.get(name)
        self._last[name] = output
        return Row(
            settings=store.settings,
            task=task.name,
            group=task.group,
            length=LENGTH,
            index=question.index,
            turn=0,
            score=task.score(question, output),
            control=None if last is None else task.score(question, last),
            output=output,
            answers=question.answers,
            depth=None,
            prompt_tokens=len(it.tokens),
            answer_tokens=answer_tokens,
            cached_tokens=metrics.cached_tokens,
            computed_tokens=metrics.computed_tokens,
            ttft_s=0.0,
            ms_per_token=None,
            kv_bytes_per_token=metrics.kv_bytes / len(it.tokens),
            peak_kv_bytes=0,
            document=question.about,
            kl=kl,
        )

    def _store(self, fusion: Fusion | None, seed: int) -> RunStore:
        policy = EXACT if fusion is None else policy_of(fusion)
        settings = settings_of(self.subject, policy, seed=seed, in_flight=1, frame=self.frame)
        code = "" if fusion is None else digest_of(fusion)
        return RunStore(directory_of(self.place, fusion, seed), dataclasses.replace(settings, code=code))


def _key(task: Asking, index: int) -> tuple[str, int, int, int]:
    return task.name, LENGTH, index, 0
