"""How much is computed again, by loading and by a target, and the profiles behind targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.fusion import fusion_of, parse_fusion, text_of
from kvloom.policy.fusion.profile import Curve, Profile, read_profile, shipped_profiles, write_profile
from kvloom.policy.fusion.ratio import ForTarget, WhileLoading

CURVE = Curve((0.0, 0.1, 0.5, 1.0), (0.4, 0.2, 0.1, 0.0))
PROFILE = Profile("w", "t", {"a3:check_layer=1": CURVE, "epic:tokens=8": CURVE})
SECONDS = st.floats(0, 1e4)


@given(SECONDS, SECONDS, SECONDS, st.floats(0, 1))
def test_the_slower_loading_is_the_more_is_computed(load: float, more: float, computing: float, least: float) -> None:
    rule = WhileLoading(least)
    ratio = rule.ratio(load, computing)
    assert least <= ratio <= 1
    assert ratio <= rule.ratio(load + more, computing)
    if ratio > least:
        assert ratio * computing <= load * (1 + 1e-9)


def test_a_fusion_takes_what_loading_allows() -> None:
    fusion = parse_fusion("a3:ratio=loading,least=0.1")
    assert (fusion.ratio, fusion.rule) == (0.1, WhileLoading(0.1))
    found = fusion.after_loading(0.25, 0.5)
    assert text_of(found) == "a3:ratio=0.5,check_layer=1"
    assert fusion.for_model("w") is fusion
    fixed = fusion_of("a3", 0.2)
    assert fixed.after_loading(9.0, 1.0) is fixed


@given(st.floats(0, 1))
@example(0.3999365036821395)
def test_a_curve_keeps_its_target_with_the_least_that_does(kl: float) -> None:
    ratio = CURVE.ratio_for(kl)
    at = [CURVE.kl[n] for n, known in enumerate(CURVE.ratios) if known >= ratio]
    assert at[0] <= kl + 1e-9
    assert ratio <= next(known for known, there in zip(CURVE.ratios, CURVE.kl, strict=True) if there <= kl)


def test_what_cannot_be_met_is_everything() -> None:
    assert Curve((0.0, 1.0), (0.4, 0.2)).ratio_for(0.1) == 1.0
    assert CURVE.ratio_for(0.15) == pytest.approx(0.3)
    assert CURVE.ratio_for(0.4) == 0.0


def test_a_target_becomes_a_ratio_by_the_profile_of_the_selector(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_profile(PROFILE, path)
    fusion = parse_fusion(f"a3:target=0.15,profile={path}")
    assert fusion.rule == ForTarget(0.15, path)
    assert fusion.for_model("w").ratio == pytest.approx(0.3)
    assert fusion.for_model("w").rule is None
    assert parse_fusion(f"epic:tokens=8,target=0.2,profile={path}").for_model("w").ratio == pytest.approx(0.1)
    for wrong, weights in ((fusion, "other"), (parse_fusion(f"a3:check_layer=2,target=0.2,profile={path}"), "w")):
        with pytest.raises(ParamsError):
            wrong.for_model(weights)
    with pytest.raises(ParamsError, match="no profile ships"):
        fusion_of("a3", target=0.1).for_model("nobody's")


def test_a_target_that_cannot_be_met_is_refused() -> None:
    profile = Profile("w", "t", {"epic": Curve((0.0, 1.0), (0.4, 0.2))})
    assert profile.ratio_for("w", "epic", 0.2) == 1.0
    with pytest.raises(ParamsError, match=r"as close as 0\.2000"):
        profile.ratio_for("w", "epic", 0.19)


def test_profiles_are_read_as_written(tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "p.json")
    again = read_profile(tmp_path / "p.json")
    assert (again.weights, again.texts, again.curves) == (PROFILE.weights, PROFILE.texts, PROFILE.curves)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "other"},
        {"version": 2},
        {"made_for": {"weights": 3, "texts": "t"}},
        {"curves": {"a3": {"ratios": [0, 1], "kl": [0.1, 0.2]}}},
        {"curves": {"a3": {"ratios": [0, 0.5], "kl": [0.2, 0.1]}}},
        {"curves": {"a3": {"ratios": [0, 1], "kl": [0.2]}}},
        {"curves": {"a3": {"ratios": [0, 1], "kl": ["x", 0]}}},
        {"curves": []},
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, damage: dict) -> None:
    path = tmp_path / "p.json"
    write_profile(PROFILE, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(DataFileError):
        read_profile(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_neither_is_any_other_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataFileError):
        read_profile(path)
    with pytest.raises(DataFileError, match="cannot be read"):
        read_profile(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "text",
    [
        "a3:ratio=loading,least=0.05,check_layer=2",
        "a3+epic:target=0.02,check_layer=1,tokens=8",
        "a3:target=0.1,profile=f",
    ],
)
def test_rules_are_read_as_shown(text: str) -> None:
    fusion = parse_fusion(text)
    assert parse_fusion(text_of(fusion)) == fusion


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("a3:ratio=0.1,target=0.1", "target"),
        ("a3:least=0.1", "least"),
        ("a3:ratio=0.2,least=0.1", "least"),
        ("a3:ratio=loading,least=2", "least"),
        ("a3:target=-1", "target"),
        ("a3:target=nan", "target"),
        ("a3:profile=f", "profile"),
        ("a3:ratio=slowly", "ratio"),
        ("reuse:ratio=loading", "ratio"),
        ("reuse:target=0.1", "ratio"),
        ("a3:name=1", "name"),
    ],
)
def test_what_is_half_a_rule_is_refused(text: str, param: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_fusion(text)
    assert caught.value.param == param


def test_profiles_that_ship_are_whole() -> None:
    for profile in shipped_profiles():
        assert {"a3:check_layer=1", "a3+epic:check_layer=1", "epic", "fusionrag", "prophetkv"} <= set(profile.curves)
    assert shipped_profiles()


def test_what_ships_says_how_much_a_target_takes() -> None:
    (profile,) = shipped_profiles()
    near, far = (fusion_of("prophetkv", target=target).for_model(profile.weights) for target in (0.03, 0.06))
    assert 0.1 < far.ratio < near.ratio < 0.6
    with pytest.raises(ParamsError, match="comes as close as"):
        fusion_of("epic", target=0.02).for_model(profile.weights)
