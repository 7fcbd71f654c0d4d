"""From the names a user gives to tasks, and from files to digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.errors import EvalError
from kvloom.eval.choose import choose_tasks, digests, parse_data


def names(*wanted: str, **files: Path) -> list[str]:
    return [task.name for task in choose_tasks(wanted, files)]


def test_tasks_are_chosen_by_name_by_group_and_by_family() -> None:
    assert names("vt", "niah", "vt") == ["vt", "niah"]
    assert len(names("ruler")) == 11
    assert names("longbench/qasper", "oolong_public") == ["longbench/qasper", *(f"oolong_public/{p}" for p in GROUPS)]
    assert len(set(names())) == len(names()) > 25
    with pytest.raises(EvalError, match="unknown task `rulers`") as error:
        names("rulers")
    assert error.value.hint is not None
    assert "ruler" in error.value.hint


GROUPS = ("counting", "user", "timeline")


def test_question_files_add_tasks(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text("{}")
    files = parse_data([f"squad={tmp_path / 'squad.json'}"])
    assert names("qa_1", **files) == ["qa_1"]
    assert "qa_1" in names(**files)
    with pytest.raises(EvalError, match="task `qa_2` needs a file") as error:
        names("qa_2", **files)
    assert error.value.hint == "give it with --data hotpot=PATH"


def test_a_changed_file_is_another_run(tmp_path: Path) -> None:
    one, folder = tmp_path / "a.txt", tmp_path / "set"
    folder.mkdir()
    one.write_text("x")
    (folder / "b.jsonl").write_text("y")
    before = digests({"text": one, "longbench": folder})
    assert digests({"longbench": folder, "text": one}) == before
    one.write_text("z")
    after = digests({"text": one, "longbench": folder})
    assert [name for name in before if before[name] != after[name]] == ["text"]
    (folder / "b.jsonl").write_text("yy")
    assert digests({"longbench": folder}) != {"longbench": after["longbench"]}
