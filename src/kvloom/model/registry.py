"""Which family runs which architecture."""

from __future__ import annotations

from kvloom.errors import UnsupportedModel
from kvloom.model.family import Family
from kvloom.model.gemma3 import GEMMA3
from kvloom.model.llama import LLAMA
from kvloom.model.qwen2 import QWEN2
from kvloom.model.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, QWEN2, QWEN3, GEMMA3)}


def family_of_gguf(architecture: str, origin: str) -> Family:
    """The family of a GGUF's ``general.architecture``. Raises UnsupportedModel."""
    return _find(architecture, origin, {name: family for family in FAMILIES.values() for name in family.gguf_names})


def family_of_hf(model_type: str, origin: str) -> Family:
    """The family of a config.json's ``model_type``. Raises UnsupportedModel."""
    return _find(model_type, origin, {name: family for family in FAMILIES.values() for name in family.hf_names})


def _find(name: str, origin: str, known: dict[str, Family]) -> Family:
    if name not in known:
        raise UnsupportedModel(
            f"`{origin}` has architecture `{name}`, which kvloom does not support",
            hint=f"it runs {', '.join(sorted(known))}",
        )
    return known[name]
