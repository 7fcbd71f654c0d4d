"""Pages that are made from the code say what it says now."""

from __future__ import annotations

import re

import pytest

from tests import cli_doc, configuration_doc, metrics_doc
from tests.generated_doc import Generated


@pytest.mark.parametrize("module", [cli_doc, configuration_doc, metrics_doc], ids=lambda module: module.__name__)
def test_the_page_is_the_codes(module) -> None:
    page: Generated = module.page()
    assert page.path.read_text(encoding="utf-8") == page.written, f"run `python -m {module.__name__}`"
    assert module.__name__ == f"tests.{page.module}"


def test_everything_is_there() -> None:
    """Of the code's lists, some that are sure to be known."""
    cli = cli_doc.page().body
    assert "### `kvloom serve`" in cli
    assert "#### `kvloom chunks import`" in cli
    assert "| `--quiet` |" in cli
    settings = configuration_doc.page().body
    assert '| `kv_bytes` | `--kv-bytes` | whole number or text | `"auto"` | Memory for KV' in settings
    assert "| `drain_seconds` | file only | whole number | `30` |" in settings
    metrics = metrics_doc.page().body
    row = re.search(r"^\| `kvloom:tier_faults_total` \| counter \| (.*) \| .+ \|$", metrics, re.MULTILINE)
    assert row is not None
    assert row[1] == "`model_name`, `tier`, `fault`"
    assert "| `vllm:time_to_first_token_seconds` | histogram | `model_name`, `engine` |" in metrics
