"""The documents of a prompt, from look-up until all that is coming of them is there; while the prompt waits, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kvloom.engine.kv.document import DocumentKv
from kvloom.engine.kv.fused import Read
from kvloom.engine.kv.sequence import SequenceKv
from kvloom.segment import PageId, Span


@dataclass(slots=True, eq=False)
class Documents:
    """``each``: ascending. ``load``: what is begun for one, to have tiers deliver what they have: the seconds that this
    is expected to take.
    """

    each: list[DocumentKv]
    load: Callable[[SequenceKv], float]
    spans: tuple[Span, ...] = field(init=False)
    _found: dict[DocumentKv, int] = field(default_factory=dict)
    _loading_s: dict[DocumentKv, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spans = tuple(document.span for document in self.each)

    # -- while the prompt waits ------------------------------------------------------------------------------------

    def load_ahead(self, load: Callable[[SequenceKv], float | None]) -> bool:
        """Hold those that are there, and those that tiers have, once they have come. False: there is no room for one.

        ``load``: as ``self.load``, of all that RAM lacks of a document; None: there is no room. Nobody waits for what
        a prompt is to compute that waits itself, so a document of which something has to be computed is left alone.
        """
        for document in [each for each in self.each if not each.begun and each.begin()]:
            seconds = load(document.kv) if document.kv.missing else 0.0
            if seconds is None:
                return False
            if document.kv.missing:
                document.let_go()
            else:
                self._note(document, seconds)
        return True

    def let_go_of(self, kv: SequenceKv) -> None:
        """Of a document that a tier did not deliver: it is looked up again when the prompt starts."""
        document = next(each for each in self.each if each.kv is kv)
        self._forget(document)

    def give_up(self) -> bool:
        """Hold nothing until the prompt starts. False: nothing was held."""
        begun = [document for document in self.each if document.begun]
        for document in begun:
            self._forget(document)
        return bool(begun)

    # -- when it has started ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """What was loaded ahead takes no more time."""
        for document, seconds in self._loading_s.items():
            load = document.kv.load
            self._loading_s[document] = 0.0 if load is None else seconds * load.left / len(load.targets)

    def look_up(self) -> None:
        """Hold what there is of all of them, and have the rest loaded."""
        for document in [each for each in self.each if not each.begun and each.begin()]:
            self._note(document, self.load(document.kv))

    def make_room(self) -> bool:
        """For what is to be computed, or left by a compression. False: there is none."""
        for document in self.each:
            if document.begun and not document.make_room():
                return False
            if document.compressing:
                return True  # one at a time, and a little of it in every step
        return True

    @property
    def compressing(self) -> bool:
        return any(document.compressing for document in self.each)

    @property
    def complete(self) -> bool:
        return all(document.complete for document in self.each)

    @property
    def computing(self) -> DocumentKv | None:
        """The first that can be computed now."""
        return next((document for document in self.each if document.left), None)

    def reads(self) -> list[Read]:
        """When they are complete."""
        return [read for document in self.each for read in document.reads()]

    @property
    def found(self) -> int:
        """How many of their tokens were there, or on their way, when they were looked up."""
        return sum(self._found.values())

    @property
    def loading_s(self) -> float:
        """Seconds that loading was expected to take when the prompt started."""
        return sum(self._loading_s.values())

    # -- what they hold --------------------------------------------------------------------------------------------

    @property
    def texts(self) -> Sequence[SequenceKv]:
        return [document.kv for document in self.each]

    def release(self) -> None:
        for document in self.each:
            document.kv.release()
        self.each = []

    def abandon(self) -> None:
        """As ``release``, after a failure, whatever the state."""
        for document in self.each:
            document.kv.abandon()
        self.each = []

    def holdings(self) -> Iterator[tuple[PageId, str]]:
        for document in self.each:
            yield from document.kv.holdings()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _note(self, document: DocumentKv, loading_s: float) -> None:
        self._loading_s[document] = loading_s
        self._found[document] = len(document.span) - document.lacking

    def _forget(self, document: DocumentKv) -> None:
        document.let_go()
        self._loading_s.pop(document, None)
        self._found.pop(document, None)
