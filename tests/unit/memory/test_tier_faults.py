"""The text form of injected faults."""

from __future__ import annotations

import re

import pytest

from kvloom.config import TierFaults, parse_faults
from kvloom.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("disk:corrupt=0.1", TierFaults(tier="disk", corrupt=0.1)),
        ("warm:fail=1", TierFaults(tier="warm", fail=1.0)),
        ("remote:slow=.5@0.2s", TierFaults(tier="remote", slow=0.5, slow_seconds=0.2)),
        (
            " disk : short=0.25, full=0.5 , slow=1,seed=7 ",
            TierFaults(tier="disk", short=0.25, full=0.5, slow=1.0, seed=7),
        ),
    ],
)
def test_what_is_read(text: str, faults: TierFaults) -> None:
    assert parse_faults(text) == faults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disk", "says nothing"),
        ("disk:", "says nothing"),
        ("disk:seed=1", "says nothing"),
        ("", "says nothing"),
        ("tape:fail=1", "no tier `tape`"),
        ("disk:melt=1", "`melt=1`"),
        ("disk:fail=often", "`fail=often`"),
        ("disk:fail=1.1", "from 0 to 1"),
        ("disk:fail=-1", "`fail=-1`"),
        ("disk:fail=1@2s", "`fail=1@2s`"),
        ("disk:slow=1@2", "`slow=1@2`"),
        ("disk:slow=1.2.3", "`slow=1.2.3`"),
        ("disk:fail=1,seed=1.5", "`seed=1.5`"),
        ("disk:fail=1,fail=0", "`fail` is there twice"),
        ("disk:tier=1,fail=1", "`tier=1`"),
        ("disk:slow_seconds=1,fail=1", "`slow_seconds=1`"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_faults(text)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="must not be negative"):
        TierFaults(tier="disk", slow_seconds=-1.0)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        TierFaults(tier="disk", short=float("nan"))
