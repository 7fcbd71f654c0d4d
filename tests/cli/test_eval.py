"""``kvloom eval``: every verb from its flags to what it prints, on the tiny engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvloom.cli import backend
from kvloom.config import EngineConfig
from kvloom.errors import ConfigError, ModelNotFound
from kvloom.eval import choose
from kvloom.eval.records import ROWS
from kvloom.eval.run import Work
from kvloom.eval.subject import Subject
from toy_tasks import ToyNeedle, ToyShape, tiny_subject

from .test_errors import fails
from .test_verbs import invoke


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The model `tiny`, two toy tasks, and a directory of one's own."""

    def open_subject(config: EngineConfig) -> Subject:
        if config.model != "tiny":
            raise ModelNotFound(f"no model `{config.model}`")
        return tiny_subject()

    monkeypatch.setattr(backend, "open_subject", open_subject)
    monkeypatch.setattr(
        choose, "make_tasks", lambda files, material: {task.name: task for task in (ToyNeedle(), ToyShape())}
    )
    monkeypatch.delenv("KVLOOM_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = ("eval", "run", "tiny", "--length", "60", "--samples", "3", "--in-flight", "2")


def test_run_prints_a_report_and_keeps_the_rows(tiny: Path) -> None:
    result = invoke(*RUN, "--output", "out")
    assert result.exit_code == 0
    assert result.stdout.startswith("# Long-context evaluation")
    assert "| toy_needle | 60 | 3 |" in result.stdout
    assert "6 prompts, " in result.stderr
    assert len((tiny / "out" / ROWS).read_text().splitlines()) == 6
    assert (tiny / "out" / "report.json").exists()
    again = invoke(*RUN, "--output", "out", "--json")
    assert "6 answers already exist" in again.stderr
    assert "nothing is left to answer" in again.stderr
    assert json.loads(again.stdout)["summaries"][0]["settings"]["model"] == "tiny"
    assert len((tiny / "out" / ROWS).read_text().splitlines()) == 6


def test_policies_get_directories_of_their_own_and_can_be_compared(tiny: Path) -> None:
    invoke(*RUN)
    assert invoke(*RUN, "--policy", "random:ratio=0.9", "--query-aware").exit_code == 0
    exact, damaged = "eval-runs/tiny-exact", "eval-runs/tiny-random-ratio=0.9-query-aware"
    text = invoke("eval", "compare", exact, damaged).stdout
    assert "## tiny: random:ratio=0.9,seed=0 (query-aware) against exact" in text
    assert "Also different: protocol: query-agnostic against query-aware." in text
    (found,) = json.loads(invoke("eval", "compare", exact, damaged, "--json").stdout)
    assert found["bytes_ratio"] < 0.8
    result = invoke("eval", "report", exact, damaged, "--output", "both")
    assert result.stdout.strip() == "both/report.md"
    assert "against exact" in (tiny / "both" / "report.md").read_text()
    assert json.loads(invoke("eval", "report", exact, "--output", "both", "--json").stdout)["unjudged"] == []


def test_two_lossy_runs_are_judged_by_the_exact_one_beside_them(tiny: Path) -> None:
    for policy in ("exact", "random:ratio=0.9", "random:ratio=0.2"):
        assert invoke(*RUN, "--policy", policy).exit_code == 0
    more, less = "eval-runs/tiny-random-ratio=0.9", "eval-runs/tiny-random-ratio=0.2"
    result = invoke("eval", "compare", more, less)
    assert "with eval-runs/tiny-exact" in result.stderr
    titles = [line for line in result.stdout.splitlines() if line.startswith("## ")]
    assert titles == [
        "## tiny: random:ratio=0.2,seed=0 against random:ratio=0.9,seed=0",
        "## tiny: random:ratio=0.9,seed=0 against exact",
        "## tiny: random:ratio=0.2,seed=0 against exact",
    ]
    assert "has 1 of 3 seeds" in result.stdout
    assert invoke("eval", "compare", more, less, "--judge", "eval-runs/tiny-exact").stdout == result.stdout
    assert "| tiny: random:ratio=0.9,seed=0 |" in (tiny / more / "report.md").read_text()  # beside the exact run


def test_missing_answers_are_refused_or_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for policy in ("exact", "random:ratio=0.5"):
        invoke(*RUN, "--policy", policy)
    rows = tiny / "eval-runs" / "tiny-random-ratio=0.5" / ROWS
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    asked = ("eval", "compare", "eval-runs/tiny-exact", "eval-runs/tiny-random-ratio=0.5")
    code, said = fails(capsys, *asked)
    assert code == 2
    assert said[0].startswith("error: 1 prompts of 1 cells were answered in one run only")
    assert said[1].endswith("--common")
    assert "1 prompts that only the first has answered" in invoke(*asked, "--common").stdout


def test_an_estimate_alone_runs_nothing(tiny: Path) -> None:
    result = invoke(*RUN, "--estimate-only", "--output", "out")
    assert "6 prompts, " in result.stderr
    assert result.stdout == ""
    assert (tiny / "out" / ROWS).read_text() == ""


def test_an_interrupted_run_says_what_is_kept(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score, calls = ToyNeedle.score, []

    def interrupted(self, sample, turn, output):
        calls.append(sample.index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, sample, turn, output)

    monkeypatch.setattr(ToyNeedle, "score", interrupted)
    code, said = fails(capsys, *RUN, "--output", "out")
    assert code == 130
    assert any(line.startswith("stopped: ") and "are kept in out" in line for line in said)
    monkeypatch.setattr(ToyNeedle, "score", score)
    assert invoke(*RUN, "--output", "out").exit_code == 0
    assert len((tiny / "out" / ROWS).read_text().splitlines()) == 6


def test_a_task_that_does_not_fit_is_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def samples(self, *, length, count, seed, text_length):
        raise ConfigError(f"needs more than {length} tokens")

    monkeypatch.setattr(ToyNeedle, "samples", samples)
    monkeypatch.setattr(ToyShape, "samples", samples)
    code, said = fails(capsys, *RUN, "--output", "out")
    assert code == 2
    assert "toy_needle at 60 is skipped: needs more than 60 tokens" in said


def test_sweep_says_how_far_the_model_goes(tiny: Path) -> None:
    result = invoke("eval", "sweep", "tiny", "--task", "toy", "--length", "60", "--length", "90", "--samples", "3")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["toy_needle", "toy_shape"]
    found = json.loads(invoke("eval", "sweep", "tiny", "--task", "toy", "--samples", "1", "--json").stdout)
    assert [length for length, _ in found[0]["scores"]] == [256, 512] or [n for n, _ in found[0]["scores"]] == [256]


def test_fidelity_of_the_exact_cache_is_zero(tiny: Path) -> None:
    (tiny / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 12)
    asked = ("eval", "fidelity", "tiny", "text.txt", "--tokens", "120", "--pieces", "2")
    found = json.loads(invoke(*asked, "--json").stdout)
    assert (found["pieces"], found["kl"]["mean"], found["top1_agreement"]["mean"]) == (2, 0.0, 1.0)
    damaged = json.loads(invoke(*asked, "--policy", "random:ratio=0.5", "--json").stdout)
    assert damaged["kl"]["mean"] > 0.01
    assert damaged["bytes_ratio"] < 0.8
    assert damaged["floor"]["kl"]["mean"] < damaged["kl"]["mean"]
    assert "noise floor         KL " in invoke(*asked, "--policy", "random:ratio=0.5").stdout
    exact = invoke(*asked).stdout
    assert "KL (nats/token)     0.000000" in exact
    assert "noise floor" not in exact


def test_fidelity_without_files_is_on_texts_that_need_their_context(tiny: Path) -> None:
    asked = ("eval", "fidelity", "tiny", "--tokens", "512", "--pieces", "2")
    found = json.loads(invoke(*asked, "--policy", "random:ratio=0.5", "--json").stdout)
    assert (found["texts"], found["pieces"]) == ("made", 2)
    assert found["near"]["tokens"] == 64
    assert len(found["code"]) == 16
    assert "recall" in invoke(*asked).stdout


def test_trust_prints_what_was_compared(tiny: Path) -> None:
    result = invoke("eval", "trust", "tiny", "--length", "96")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 9
    assert all("identical tokens, " in line and "from the cache" in line for line in result.stdout.splitlines())
    assert json.loads(invoke("eval", "trust", "tiny", "--length", "96", "--json").stdout)["holds"]


def test_trust_fails_when_a_cell_does_not_hold(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvloom.eval.trust.situations import SITUATIONS, Cell

    monkeypatch.setitem(SITUATIONS, "fork", lambda setting: Cell(True, 0, 9))
    result = invoke("eval", "trust", "tiny", "--length", "96")
    assert result.exit_code == 1
    assert "NO HIT" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "tiny", "--task", "dance"), "error: unknown task `dance`"),
        (("run", "tiny", "--task", "qa_1"), "error: task `qa_1` needs a file"),
        (("run", "tiny", "--task", "longbench/none"), "error: `longbench` has no part `none`"),
        (("run", "tiny", "--data", "text"), "error: cannot read `text` as data"),
        (("run", "tiny", "--data", "text=/nowhere"), "error: `/nowhere`: no such file"),
        (("run", "tiny", "--length", "60", "--query-aware"), "error: the exact cache cannot be query-aware"),
        (("run", "tiny", "--policy", "magic"), "error: policy `magic`: unknown method `magic`"),
        (("run", "tiny", "--length", "9000"), "error: lengths 9000 are beyond `tiny`, which holds 512 tokens"),
        (("run", "absent"), "error: no model `absent`"),
        (("compare", "here", "there"), "error: `here/rows.jsonl`: no run found"),
        (("report", "here"), "error: `here/rows.jsonl`: no run found"),
        (("fidelity", "tiny", "absent.txt"), "error: `absent.txt`: No such file or directory"),
        (("trust", "tiny", "--length", "20"), "error: `tiny` with 512 tokens of context is too short"),
    ],
)
def test_mistakes_are_one_line(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    code, said = fails(capsys, "eval", *arguments)
    assert code == 2
    assert said[0].startswith(says)


@pytest.mark.parametrize("verb", ["run", "sweep", "fidelity", "trust", "compare", "report"])
def test_every_verb_has_help(verb: str) -> None:
    assert "Usage: " in invoke("eval", verb, "--help").stdout


def test_there_must_be_something_to_run() -> None:
    with pytest.raises(ValueError, match="nothing to run"):
        Work(tasks=(), lengths=(1,), count=1, seed=1)
