"""Flags of ``vllm serve``: taken, translated, or refused by name. The page about vLLM has the same tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kvloom.cli import main
from kvloom.cli.vllm_flags import REFUSED, RENAMED, SWITCHES, VALUES, in_our_words
from kvloom.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "from-vllm.md"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--max-num-seqs 8", "--max-seqs 8"),
        ("--max_num_seqs=8", "--max-seqs 8"),
        ("--max-num-batched-tokens 256", "--step-tokens 256"),
        ("--kv-cache-memory-bytes 2GiB", "--kv-bytes 2GiB"),
        ("--kv-cache-dtype auto", ""),
        ("--kv-cache-dtype int8", "--kv-dtype int8"),
        ("--block-size 16 --dtype auto -tp 1", ""),
        ("--enable-prefix-caching --enable-chunked-prefill --trust-remote-code", ""),
        ("--no-trust-remote-code --disable-log-stats", ""),
        ("mock --max-model-len 100 --served-model-name a", "mock --max-model-len 100 --served-model-name a"),
        ("--seed -1", "--seed -1"),
        ("--kv-events-config {}", ""),
        ('--kv-events-config {"enable_kv_cache_events":false,"publisher":"zmq"}', ""),
        ('--kv-events-config {"enable_kv_cache_events":true}', "--kv-events-endpoint tcp://*:5557"),
        ('--kv-events-config={"enable_kv_cache_events":true,"publisher":"null"}', ""),
        ('--allowed-origins ["https://a","https://b"]', "--cors-origins https://a,https://b"),
    ],
)
def test_flags_are_translated(theirs: str, ours: str) -> None:
    assert in_our_words(theirs.split()) == ours.split()


def test_all_of_a_configuration_of_events() -> None:
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:6000",
        "replay_endpoint": "tcp://*:6001",
        "topic": "kv",
        "buffer_steps": 7,
        "hwm": 8,
        "max_queue_size": 9,
    }
    ours = (
        "--kv-events-endpoint tcp://*:6000 --kv-events-replay-endpoint tcp://*:6001 --kv-events-topic kv "
        "--kv-events-buffer-steps 7 --kv-events-hwm 8 --kv-events-queue 9"
    )
    assert in_our_words(["--kv-events-config", json.dumps(config)]) == ours.split()


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ("--tensor-parallel-size 2", "can only be 1 here, got `2`"),
        ("--no-enable-prefix-caching", "cannot be turned off"),
        ("--enable-lora", "LoRA is not supported"),
        ("--gpu-memory-utilization 0.9", "`--gpu-memory-utilization` is a flag of vLLM"),
        ("--kv-cache-dtype fp8", "cannot be `fp8` here"),
        ("--max-num-seqs", "needs a value"),
        ("--kv-events-config nonsense", "is not valid JSON"),
        ("--kv-events-config []", "must be an object"),
        ('--kv-events-config {"end_point":"x"}', "has no `end_point`"),
        ('--kv-events-config {"publisher":"kafka","enable_kv_cache_events":true}', "no publisher `kafka`"),
        ("--allowed-origins https://a", "is not valid JSON"),
    ],
)
def test_what_cannot_be_had_is_refused(theirs: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        in_our_words(theirs.split())
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_flag_that_nobody_knows_is_answered_with_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "mock", "--max-num-seq", "3"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "--max-num-seq" in told
    assert "--max-seqs" in told


def test_the_page_has_all_flags() -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("## Flags of `vllm serve`") :]
    section = section[: section.index("\n## ", 3)]
    told = dict(re.findall(r"^\| `--([\w-]+)` \| (.*) \|$", section, re.MULTILINE))
    assert told.keys() == RENAMED.keys() | VALUES.keys() | SWITCHES.keys() | REFUSED.keys() | {"kv-events-config"}
    assert all(told[name] == f"`--{ours}`" for name, ours in RENAMED.items())
    assert all(told[name] == "only " + ", ".join(f"`{value}`" for value in values) for name, values in VALUES.items())
    assert all(told[name] == says for name, says in REFUSED.items())
