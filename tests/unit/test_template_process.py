"""Chat templates of strangers: nothing that one does may hang, fill or end this process."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile_templates import hostile_templates
from kvloom.errors import ModelFileError, RequestError
from kvloom.model.heap import give_back_free_memory
from kvloom.model.text.chat import render_chat
from kvloom.model.text.template_process import TemplateProcess

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
MESSAGES = json.dumps(TURNS)
ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def process() -> Iterator[TemplateProcess]:
    made = TemplateProcess(render_seconds=30)  # the machine may be busy
    yield made
    made.close()


@pytest.fixture
def strict() -> Iterator[TemplateProcess]:
    made = TemplateProcess(render_seconds=0.3, max_chars=2**20, max_bytes=128 * 2**20)
    yield made
    made.close()


def serves(process: TemplateProcess) -> bool:
    """Whether it renders; on a busy machine 0.3 s may be too short once or twice."""
    for _ in range(20):
        try:
            return render(process, ECHO) == "HiHo"
        except RequestError:
            continue
    return False


def render(process: TemplateProcess, template: str, messages: str = MESSAGES, variables: str = "{}") -> str:
    return process.render(template, messages, variables)


def resident_bytes(pid: int | str = "self", field: str = "VmRSS") -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while lives(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_200_hostile_templates(strict: TemplateProcess) -> None:
    assert serves(strict)
    before = resident_bytes()
    for family, template in hostile_templates(200, seed=12):
        shown = f"{family}: {template[:120]}"
        started = time.monotonic()
        try:
            said = render(strict, template)
            assert len(said) <= 2**20, shown
        except (RequestError, ModelFileError) as error:
            said = str(error)
            assert len(said) < 500, shown
        assert time.monotonic() - started < 5, shown
        for leak in ("Traceback", 'File "', "<class", "root:", "uid=", os.getcwd()):
            assert leak not in said, f"{shown} -> {said[:200]}"
        pid = strict.worker_pid
        assert pid is None or resident_bytes(pid, "VmHWM") < 160 * 2**20, shown
    assert serves(strict)
    gc.collect()
    give_back_free_memory()
    assert resident_bytes() < before * 1.1


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        (ENDLESS, RequestError, "took too long: it had not rendered these messages after 0.3 s"),
        ("{{ messages | tojson(indent=2000000000) }}", RequestError, "needs more than 128 MiB of memory"),
        ("{{ 'x' * 1048577 }}", RequestError, "would have more than 1,048,576 characters"),
        ("{{ 10 ** 100000 }}", ModelFileError, r"is broken \(Exceeds the limit"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", ModelFileError, r"is broken \(too deeply nested\)"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", RequestError, "too deeply nested"),
        ("\n{% nonsense %}", ModelFileError, "is broken in line 2"),
        ("{{ raise_exception('x' * 9999) }}", RequestError, r"refuses these messages: x{300}\.\.\.$"),
    ],
)
def test_what_is_said(template: str, error: type[Exception], words: str) -> None:
    seconds = 0.3 if template == ENDLESS else 30  # the machine may be busy
    process = TemplateProcess(render_seconds=seconds, max_chars=2**20, max_bytes=128 * 2**20)
    try:
        with pytest.raises(error, match=words) as caught:
            render(process, template)
        assert getattr(caught.value, "param", "messages") == "messages"
        assert serves(process), "the next one"
    finally:
        process.close()


def test_a_worker_that_ended_is_replaced(process: TemplateProcess) -> None:
    assert process.worker_pid is None
    process.start()
    assert render(process, ECHO) == "HiHo"
    first = process.worker_pid
    assert first is not None
    assert render(process, "{{ messages | length }}") == "2"
    assert process.worker_pid == first, "one worker serves all"
    os.kill(first, signal.SIGKILL)
    await_end(first, 5)
    assert render(process, ECHO) == "HiHo"
    assert not Path(f"/proc/{first}").exists(), "no zombie"


def test_texts_come_as_they_went(process: TemplateProcess) -> None:
    for text in ("é€😀", "\ud83d half", "\x00\r\n\"\\'<&>", "x" * 300_000):
        messages = json.dumps([{"content": text}], ensure_ascii=False)
        assert render(process, ECHO, messages) == text


def test_memory_of_a_large_chat_is_given_back() -> None:
    large = TemplateProcess(render_seconds=30)
    try:
        assert render(large, ECHO) == "HiHo"
        pid = large.worker_pid
        assert pid is not None
        before = resident_bytes(pid)
        text = "é" * 6_000_000
        assert render(large, ECHO, json.dumps([{"content": text}], ensure_ascii=False)) == text
        assert render(large, ECHO) == "HiHo"
        assert resident_bytes(pid) < before + 2**23
    finally:
        large.close()


def test_a_large_chat_does_not_hold_up_small_ones() -> None:
    """An endless template over many messages, and over few: each kind has a process of its own."""
    template = "{% if messages | length > 1 %}" + ENDLESS + "{% endif %}done"
    many = [{"role": "user", "content": "x" * 100_000}] * 3
    ended: list[float] = []

    def endless() -> None:
        with pytest.raises(RequestError, match="took too long"):
            render_chat(template, many, {})
        ended.append(time.monotonic())

    assert render_chat(template, TURNS[:1], {}) == "done"
    thread = threading.Thread(target=endless)
    thread.start()
    for _ in range(20):
        assert render_chat(template, TURNS[:1], {}) == "done"
    assert not ended
    thread.join()


def test_many_threads(process: TemplateProcess) -> None:
    wrong: list[str] = []

    def work(name: str) -> None:
        for turn in range(20):
            text = f"{name}-{turn}"
            said = render(process, ECHO, json.dumps([{"content": text}]))
            if said != text:
                wrong.append(f"{text} came as {said}")

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_not_json_is_refused_by_name() -> None:
    for value in (object(), {1, 2}, b"x", [object()]):
        with pytest.raises(RequestError, match=r"`tools` .* a value of type \w+ is not JSON") as caught:
            render_chat(ECHO, TURNS, {"tools": value})
        assert caught.value.param == "tools"
    with pytest.raises(RequestError, match=r"`messages` .* a value of type object"):
        render_chat(ECHO, [TURNS[0], {"role": "user", "content": "x", "more": object()}], {})
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(RequestError, match="`tools` is too deeply nested"):
        render_chat(ECHO, TURNS, {"tools": nested})
    assert render_chat("{{ self_name }}{{ a }}", TURNS, {"self_name": "x", "a": ("b",)}) == "x['b']"


PARENT = """
import os, sys, threading, time
from kvloom.model.text.template_process import TemplateProcess
process = TemplateProcess(render_seconds=float(sys.argv[2]))
process.render("{{ messages }}", "[]", "{}")
print(process.worker_pid, flush=True)
if sys.argv[1] == "busy":
    threading.Thread(target=process.render, args=(sys.argv[3], "[]", "{}"), daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("end", ["kill", "leave"])
def test_the_worker_ends_with_its_process(state: str, end: str) -> None:
    seconds = "1" if end == "kill" else "60"
    command = [sys.executable, "-c", PARENT, state, seconds, ENDLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.2 if state == "busy" else 0)
        assert lives(worker)
        if end == "kill":
            parent.kill()
        parent.stdin.close()
        parent.wait(10)
    await_end(worker, 10 if end == "kill" else 2)


def test_a_fork_has_a_worker_of_its_own() -> None:
    code = """
import os
from kvloom.model.text.chat import render_chat
say = lambda: render_chat("{{ messages | length }}", [{"role": "user", "content": "x"}], {})
assert say() == "1"
child = os.fork()
if child == 0:
    os._exit(0 if say() == "1" else 1)
assert os.waitpid(child, 0)[1] == 0
assert say() == "1"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
