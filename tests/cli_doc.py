"""``docs/cli.md`` from the command's own parser. ``python -m tests.cli_doc`` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from kvloom.cli.app import app
from kvloom.cli.settings import HELP, SETTINGS
from tests.generated_doc import Generated, cell, table

_WORDS = {str: "text", int: "whole number", float: "number", Path: "path"}


def page() -> Generated:
    return Generated("cli.md", "cli_doc", "\n".join(_verbs(get_command(app), "kvloom")))


def _verbs(command: Any, name: str) -> Iterator[str]:
    depth = "#" * min(4, 1 + len(name.split()))
    yield f"{depth} `{name}`\n"
    yield _text(command.help) + "\n"
    if not hasattr(command, "commands"):
        yield f"    {_usage(command, name)}\n"
        yield from _described(command)
        return
    below = ((f"{name} {word}", each.help) for word, each in command.commands.items())
    rows = ((f"[`{each}`](#{_anchor(each)})", _first(says)) for each, says in below)
    yield table("command", "what it does", rows=rows)
    yield from _described(command)
    for word, each in command.commands.items():
        yield from _verbs(each, f"{name} {word}")


def _described(command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if arguments:
        yield table("argument", "meaning", rows=((_told(each), cell(each.help or "")) for each in arguments))
    options = [each for each in command.params if each.param_type_name == "option"]
    own = [each for each in options if not _is_setting(each)]
    if own:
        yield table("option", "value", "default", "meaning", rows=map(_row, own))
    settings = [f"`{each.opts[0]}`" for each in options if _is_setting(each)]
    if settings:
        yield f"Settings ([what they mean](configuration.md)): {', '.join(settings)}.\n"


def _is_setting(option: Any) -> bool:
    setting = SETTINGS.get(option.name)
    return setting is not None and option.help == HELP.get(option.name)


def _row(option: Any) -> tuple[str, str, str, str]:
    flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    return flags, _value(option), _default(option), cell(option.help or "")


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    kind = option.type_descriptor.annotation
    return _WORDS[get_args(kind)[0] if option.multiple else kind] + (", may be repeated" if option.multiple else "")


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return cell(option.show_default)
    if option.required:
        return "required"
    if option.default is None or option.default is False or option.show_default is False:
        return ""
    return f"`{option.default}`"


def _usage(command: Any, name: str) -> str:
    given = [_name(each) for each in command.params if each.param_type_name == "argument"]
    required = [each.opts[0] for each in command.params if each.param_type_name == "option" and each.required]
    return " ".join((name, "[OPTIONS]", *(f"{flag} VALUE" for flag in required), *given))


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _told(argument: Any) -> str:
    """Bars would end the cell."""
    return " or ".join(f"`{part}`" for part in _name(argument).split("|"))


def _text(help_text: str | None) -> str:
    """A paragraph each."""
    return "\n\n".join(" ".join(part.split()) for part in (help_text or "").split("\n\n"))


def _first(help_text: str | None) -> str:
    return cell((help_text or "").split("\n\n")[0])


def _anchor(heading: str) -> str:
    return re.sub(r"\s+", "-", heading)


if __name__ == "__main__":
    page().write()
