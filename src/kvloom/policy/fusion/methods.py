"""The ways to choose, by name, and how people ask for one in text: ``name:parameter=value,...``.

Several names joined by ``+`` share one budget: ``a3+epic:ratio=0.15,tokens=8``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType

from kvloom.errors import ParamsError
from kvloom.policy.fusion.a3 import A3
from kvloom.policy.fusion.base import Scorer
from kvloom.policy.fusion.cacheblend import CacheBlend
from kvloom.policy.fusion.epic import Epic
from kvloom.policy.fusion.fusion import Fusion
from kvloom.policy.fusion.fusionrag import FusionRag
from kvloom.policy.fusion.prophetkv import ProphetKv
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

_RATIO, _RATIOS = 0.15, {"recompute": 1.0}
"""Unless told."""


def fusion_of(name: str, /, ratio: float | None = None, check_layer: int = 1, **params: int) -> Fusion:
    """A fusion by the name of its selector, or the names of several. Raises ParamsError, ``param`` being what is wrong.

    >>> fusion_of("a3", 0.2).ratio
    0.2
    >>> fusion_of("reuse").ratio
    0.0
    """
    if name == REUSE:
        if params or ratio:
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
    usual = _RATIOS.get(name, _RATIO)
    return Fusion(
        name=name,
        scorers=tuple(scorers),
        ratio=usual if ratio is None else ratio,
        check_layer=check_layer,
        params=MappingProxyType(taken),
    )


def parse_fusion(text: str) -> Fusion:
    """Read ``name:parameter=value,...``. Raises ParamsError.

    >>> parse_fusion("a3+epic:ratio=0.2,tokens=8") == fusion_of("a3+epic", 0.2, tokens=8)
    True
    """
    name, _, rest = text.partition(":")
    values: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator:
            raise ParamsError(f"fusion `{name}`: `{part}` is not of the form parameter=value", param=key)
        if key in values:
            raise ParamsError(f"fusion `{name}`: {key} is there twice", param=key)
        try:
            values[key] = float(value) if key == "ratio" else int(value)
        except ValueError:
            raise ParamsError(f"fusion `{name}`: cannot read `{value}` as {key}", param=key) from None
    ratio = values.pop("ratio", None)
    return fusion_of(name, ratio, **{key: int(value) for key, value in values.items()})


def text_of(fusion: Fusion) -> str:
    """What ``parse_fusion`` reads.

    >>> text_of(fusion_of("epic", tokens=8))
    'epic:ratio=0.15,check_layer=1,tokens=8'
    """
    if fusion.name == REUSE:
        return REUSE
    shown: dict[str, object] = {"ratio": f"{fusion.ratio:g}", "check_layer": fusion.check_layer, **fusion.params}
    return f"{fusion.name}:{','.join(f'{key}={value}' for key, value in shown.items())}"


def _known(name: str) -> type[A3 | CacheBlend | Epic | FusionRag | ProphetKv | Recompute]:
    cls = SELECTORS.get(name)
    if cls is None:
        raise ParamsError(f"unknown selector `{name}`", hint=f"{REUSE}, or of {', '.join(SELECTORS)}", param="selector")
    return cls
