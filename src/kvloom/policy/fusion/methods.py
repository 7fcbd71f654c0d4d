"""The ways to choose, by name, and how people ask for one in text: ``name:parameter=value,...``.

Several names joined by ``+`` share one budget: ``a3+epic:ratio=0.15,tokens=8``. In place of a number the ratio may be
what loading allows, ``a3:ratio=loading,least=0.1``, or what a target demands, ``a3:target=0.02``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from kvloom.errors import ParamsError
from kvloom.policy.fusion.a3 import A3
from kvloom.policy.fusion.base import Scorer
from kvloom.policy.fusion.cacheblend import CacheBlend
from kvloom.policy.fusion.epic import Epic
from kvloom.policy.fusion.fusion import Fusion
from kvloom.policy.fusion.fusionrag import FusionRag
from kvloom.policy.fusion.prophetkv import ProphetKv
from kvloom.policy.fusion.ratio import USUAL, ForTarget, Rule, WhileLoading
from kvloom.policy.fusion.recompute import Recompute

SELECTORS: Mapping[str, type[A3 | CacheBlend | Epic | FusionRag | ProphetKv | Recompute]] = MappingProxyType(
    {
        "a3": A3,
        "cacheblend": CacheBlend,
        "epic": Epic,
        "fusionrag": FusionRag,
        "prophetkv": ProphetKv,
        "recompute": Recompute,
    }
)

REUSE = "reuse"
"""Nothing is computed again."""

LOADING = "loading"
"""In place of a ratio: ``WhileLoading``."""

_RATIOS = {"recompute": 1.0}
"""Unless told."""


def fusion_of(
    name: str,
    /,
    ratio: float | Literal["loading"] | None = None,
    check_layer: int = 1,
    *,
    least: float | None = None,
    target: float | None = None,
    profile: Path | None = None,
    **params: int,
) -> Fusion:
    """A fusion by the name of its selector, or the names of several. Raises ParamsError, ``param`` being what is wrong.

    ``ratio``: ``"loading"`` with ``least``, and ``target`` with ``profile``, are rules: see ``WhileLoading`` and
    ``ForTarget``.

    >>> fusion_of("a3", 0.2).ratio
    0.2
    >>> fusion_of("reuse").ratio
    0.0
    >>> fusion_of("a3", "loading", least=0.1).ratio
    0.1
    """
    rule = _rule(ratio, least, target, profile)
    if name == REUSE:
        if params or ratio or rule is not None:
            raise ParamsError(f"`{REUSE}` computes nothing again, and has no parameters", param="ratio")
        return Fusion(name=name, scorers=(), ratio=0.0, check_layer=check_layer)
    names = name.split("+")
    if len(set(names)) < len(names):
        raise ParamsError(f"a selector is there twice in `{name}`", param="selector")
    scorers: list[Scorer] = []
    taken: dict[str, int] = {}
    for one in names:
        cls = _known(one)
        given = {each.name: params[each.name] for each in fields(cls) if each.name in params}
        taken |= given
        scorers.append(cls(**given))
    excess = [key for key in params if key not in taken]
    if excess:
        raise ParamsError(f"`{name}` has no parameter `{excess[0]}`", param=excess[0])
    usual = _RATIOS.get(name, USUAL)
    if rule is not None:
        usual = rule.least if isinstance(rule, WhileLoading) else 0.0
    return Fusion(
        name=name,
        scorers=tuple(scorers),
        ratio=usual if ratio is None or isinstance(ratio, str) else ratio,
        check_layer=check_layer,
        params=MappingProxyType(taken),
        rule=rule,
    )


def _rule(
    ratio: float | Literal["loading"] | None, least: float | None, target: float | None, profile: Path | None
) -> Rule | None:
    """Raises ParamsError when it is said twice how much is computed again, or half."""
    if target is not None and ratio is not None:
        raise ParamsError("a target says how much is computed again, and so does a ratio", param="target")
    if target is None and profile is not None:
        raise ParamsError("a profile says which ratio meets a target, but there is none", param="profile")
    if ratio != LOADING and least is not None:
        raise ParamsError(f"least is what is computed again however fast loading is: ratio={LOADING}", param="least")
    if target is not None:
        return ForTarget(target, profile)
    if ratio == LOADING:
        return WhileLoading(USUAL if least is None else least)
    if isinstance(ratio, str):
        raise ParamsError(f"ratio must be a number from 0 to 1, or `{LOADING}`, got {ratio!r}", param="ratio")
    return None


_READ: Mapping[str, Callable[[str], object]] = {"ratio": float, "least": float, "target": float, "profile": Path}
"""Numbers and files, by name: all others are whole numbers."""


def parse_fusion(text: str) -> Fusion:
    """Read ``name:parameter=value,...``. Raises ParamsError.

    >>> parse_fusion("a3+epic:ratio=0.2,tokens=8") == fusion_of("a3+epic", 0.2, tokens=8)
    True
    """
    name, _, rest = text.partition(":")
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator:
            raise ParamsError(f"fusion `{name}`: `{part}` is not of the form parameter=value", param=key)
        if key in values:
            raise ParamsError(f"fusion `{name}`: {key} is there twice", param=key)
        try:
            values[key] = value if (key, value) == ("ratio", LOADING) else _READ.get(key, int)(value)
        except ValueError:
            raise ParamsError(f"fusion `{name}`: cannot read `{value}` as {key}", param=key) from None
    return fusion_of(name, **values)


def text_of(fusion: Fusion) -> str:
    """What ``parse_fusion`` reads.

    >>> text_of(fusion_of("epic", tokens=8))
    'epic:ratio=0.15,check_layer=1,tokens=8'
    """
    if fusion.name == REUSE:
        return REUSE
    shown = {**_ratio_words(fusion), "check_layer": fusion.check_layer, **fusion.params}
    return f"{fusion.name}:{','.join(f'{key}={value}' for key, value in shown.items())}"


def _ratio_words(fusion: Fusion) -> dict[str, object]:
    match fusion.rule:
        case None:
            return {"ratio": f"{fusion.ratio:g}"}
        case WhileLoading(least):
            return {"ratio": LOADING, "least": f"{least:g}"}
        case ForTarget(kl, profile):
            return {"target": f"{kl:g}"} | ({} if profile is None else {"profile": profile})


def _known(name: str) -> type[A3 | CacheBlend | Epic | FusionRag | ProphetKv | Recompute]:
    cls = SELECTORS.get(name)
    if cls is None:
        raise ParamsError(f"unknown selector `{name}`", hint=f"{REUSE}, or of {', '.join(SELECTORS)}", param="selector")
    return cls
