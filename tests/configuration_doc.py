"""``docs/configuration.md`` from the config dataclasses. ``python -m tests.configuration_doc`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kvloom.cli.settings import HELP, IN_FILE, SETTINGS, Setting
from kvloom.config import CacheConfig, EngineConfig, EventsConfig, SchedulerConfig, ServerConfig, TierConfig
from tests.generated_doc import Generated, cell, table

_PARTS = {
    EngineConfig: "Engine",
    CacheConfig: "KV memory",
    SchedulerConfig: "Scheduling",
    TierConfig: "Tiers",
    ServerConfig: "Server",
    EventsConfig: "Events about stored KV",
}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def page() -> Generated:
    return Generated("configuration.md", "configuration_doc", "\n".join(_sections()))


def _sections() -> Iterator[str]:
    for owner, heading in _PARTS.items():
        yield f"## {heading}\n"
        mine = [setting for setting in SETTINGS.values() if setting.owner is owner]
        yield table("setting", "flag", "type", "default", "meaning", rows=map(_row, mine))


def _row(setting: Setting) -> tuple[str, ...]:
    name = setting.name
    flag = ", ".join(f"`{each}`" for each in setting.flag.split("/")) if name in HELP else "file only"
    default = "" if setting.default is None else f"`{_toml(setting.default)}`"
    return f"`{name}`", flag, _type(setting), default, cell(HELP.get(name) or IN_FILE[name])


def _type(setting: Setting) -> str:
    hint = get_type_hints(setting.owner)[setting.name]
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    return " or ".join(_WORDS[kind] for kind in setting.kinds)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    page().write()
