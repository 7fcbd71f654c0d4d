"""What ``import kvloom`` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kvloom


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", kvloom.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(kvloom, name).__name__ == name


def test_all_is_complete() -> None:
    assert sorted(kvloom.__all__) == sorted(kvloom._HOMES)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="`kvloom` has no attribute `Unknown`"):
        kvloom.Unknown  # noqa: B018


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'transformers', 'fastapi', 'numpy', 'gguf'}"
    assert run(f"import sys, kvloom; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_engine_loads_nothing_heavy_before_it_is_needed() -> None:
    heavy = "{'transformers', 'gguf', 'fastapi', 'llguidance'}"
    code = f"import sys; from kvloom import LLM, AsyncEngine; print(sorted({heavy} & set(sys.modules)))"
    assert run(code) == "[]"
