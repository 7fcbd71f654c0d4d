"""Documents that a request names by an id, instead of sending them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.engine.chunks.named import NamedDocuments, check_name
from kvloom.errors import RequestError
from kvloom.model.text.documents import document_text
from kvloom.server.dialect.fields import Json


@dataclass(frozen=True, slots=True)
class Naming:
    """What the ids of one caller stand for."""

    documents: NamedDocuments
    owner: str

    def resolve(self, turns: Sequence[Json]) -> None:
        """Give the documents among the parts of ``turns`` that have only an id their texts, in place; those that have
        both are kept under it. Raises RequestError for an id that nothing is kept under.
        """
        for turn in turns:
            content = turn.get("content")
            for part in content if isinstance(content, list) else ():
                if part.get("type") == "document" and part.get("id") is not None:
                    self._resolve(part)

    def _resolve(self, part: Json) -> None:
        """Title and context are kept with the text. A part whose text is known has no id any more: should it come
        again as part of a conversation, it still says the same.
        """
        name = check_name(part.pop("id"))
        if part.get("text") is not None:
            self.documents.keep(self.owner, name, document_text(part))
            return
        found = self.documents.find(self.owner, name)
        if found is None:
            raise RequestError(
                f"there is no document with the id `{name[:80]}`",
                hint="send it once with its text; ids are only for the key that sent them, and the oldest go first",
                param="messages",
            )
        part |= {"text": found, "title": None, "context": None}
