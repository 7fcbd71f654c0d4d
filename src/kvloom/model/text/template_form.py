"""What a chat template expects of the messages, read from its own text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import jinja2
from jinja2 import nodes
from jinja2.ext import do, loopcontrols

_GENERATION = re.compile(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}")


@dataclass(frozen=True, slots=True)
class TemplateForm:
    """Whether contents may be lists of parts, whether they may be texts, and whether the role `developer` is known."""

    reads_parts: bool
    reads_texts: bool
    knows_developer: bool


@lru_cache(maxsize=8)
def template_form(template: str) -> TemplateForm:
    """Analyse a template. One that distinguishes texts from lists takes either; a broken one counts as taking texts."""
    try:
        tree = jinja2.Environment(extensions=[loopcontrols, do]).parse(_GENERATION.sub("", template))
        parts = _walks_parts(tree)
    except (jinja2.TemplateSyntaxError, RecursionError):
        return TemplateForm(False, True, False)
    asks = any(test.name == "string" for test in tree.find_all(nodes.Test))
    return TemplateForm(parts, asks or not parts, "developer" in template)


def _walks_parts(tree: nodes.Template) -> bool:
    """Whether the template loops over a message's content, or indexes its first part."""
    names = set(_content_names(tree))
    if any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For)):
        return True
    looked = (node for kind in (nodes.Getitem, nodes.Getattr) for node in tree.find_all(kind))
    return any(_looks_into_first_part(node, names) for node in looked)


def _content_names(tree: nodes.Template) -> Iterator[str]:
    """Variables that receive a content: by assignment, or as a macro's argument of that name."""
    for macro in tree.find_all(nodes.Macro):
        yield from (argument.name for argument in macro.args if argument.name == "content")
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, set()):
            yield assign.target.name


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, nodes.Filter) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
        return _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    return _key(node) == "content"


def _looks_into_first_part(node: nodes.Node, names: set[str]) -> bool:
    if _key(node) not in ("type", "text"):
        return False
    first = getattr(node, "node", None)
    if not isinstance(first, nodes.Getitem) or not isinstance(first.arg, nodes.Const):
        return False
    return isinstance(first.arg.value, int) and _is_content(first.node, names)


def _key(node: nodes.Node | None) -> str | None:
    """``x`` of ``a.x`` and of ``a['x']``."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        return node.arg.value
    return None
