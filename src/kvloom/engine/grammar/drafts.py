"""Which draft a schema says that it is written in: people write the name in more ways than the library knows."""

from __future__ import annotations

import re
from typing import Any

_SAID = re.compile(r"https?://(?:www\.)?json-schema\.org/(?:(draft-0[467]|draft/2019-09|draft/2020-12)/)?schema#?")


def with_known_draft(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` itself, its draft in the usual words. The name without a draft means the latest, as none does.

    >>> with_known_draft({"$schema": "https://json-schema.org/draft-07/schema"})
    {'$schema': 'http://json-schema.org/draft-07/schema#'}
    >>> with_known_draft({"$schema": "http://json-schema.org/schema#"})
    {}
    """
    said = schema.get("$schema")
    found = _SAID.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        return schema
    draft = found[1]
    if draft is None:
        del schema["$schema"]
    elif draft.startswith("draft/"):
        schema["$schema"] = f"https://json-schema.org/{draft}/schema"
    else:
        schema["$schema"] = f"http://json-schema.org/{draft}/schema#"
    return schema
