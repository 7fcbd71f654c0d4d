"""``make demo``: one long document, three questions, asked of a real server over HTTP; first cold, then warm. Then one
of them of the document compressed: most of its KV is removed before the question is known. Then of some of its sections
in two orders, as documents whose KV is reused wherever they stand.

Pulls the model if it is not here, starts ``kvloom serve`` on a free port, prints a table, and stops the server.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

MODEL = "smollm2-135m-instruct"
KV_BYTES = "256MiB"
START_SECONDS = 120
DOCUMENT = Path(__file__).parent / "data" / "observatory.md"
SYSTEM = "Answer the question in one short sentence, from this handbook.\n\n"
QUESTIONS = (
    "What is the name of the spectrograph?",
    "In which year was the observatory founded?",
    "What is the altitude of the observatory?",
)
SECTIONS = 6
"""Of the document, that are asked about in two orders."""

FUSION = {"selector": "a3", "ratio": 0.15}
COMPRESSION = {"method": "kvzap", "ratio": 0.8, "allocator": "lukv"}
KVLOOM = str(Path(sys.executable).with_name("kvloom"))
console = Console()


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer: seconds to its first token, tokens per second after it, and what was reused."""

    text: str
    ttft_s: float
    tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    kv_bytes: int
    compressed: dict[str, Any] | None = None
    fused: dict[str, Any] | None = None


def main() -> int:
    try:
        run([KVLOOM, "pull", MODEL])
        with server() as url, httpx2.Client(base_url=url, timeout=600) as client:
            show(*ask_all(client))
            show_compressed(ask(client, QUESTIONS[0], compress=True))
            show_documents(ask_documents(client))
    except DemoError as error:
        console.print(f"error: {error}", style="bold red", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"\nTo keep it serving:  {KVLOOM} serve {MODEL}", highlight=False)
    console.print(
        "then point any OpenAI client at http://127.0.0.1:8000/v1, and see where its KV lies, and why, at",
        highlight=False,
    )
    console.print("http://127.0.0.1:8000/ui", highlight=False)
    return 0


def run(command: list[str]) -> None:
    try:
        status = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise DemoError(f"cannot run `{command[0]}`: {error.strerror}; `make venv` installs it") from None
    if status:
        raise DemoError(f"`kvloom {' '.join(command[1:])}` failed with status {status}")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """``kvloom serve`` on a free port, stopped at the end; yields its URL."""
    port = free_port()
    command = [KVLOOM, "serve", MODEL, "--port", str(port), "--kv-bytes", KV_BYTES]
    console.print(f"$ kvloom {' '.join(command[1:])}", style="dim", highlight=False)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_up(url, process)
            yield url
        except (httpx2.HTTPError, DemoError) as error:
            log.seek(0)
            raise DemoError(f"{error}\nthe server said:\n{log.read().strip()}") from None
        finally:
            stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        if process.poll() is not None:
            raise DemoError(f"the server ended with status {process.returncode} before it was up")
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", timeout=5).status_code == httpx2.codes.OK:
                console.print(
                    f"the server was up after {time.monotonic() - started:.1f} s", style="dim", highlight=False
                )
                return
        time.sleep(0.1)
    raise DemoError(f"the server was not up after {START_SECONDS} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask_all(client: httpx2.Client) -> tuple[list[Answer], list[Answer]]:
    """Every question with an empty cache, then every question again: the document is cached by then."""
    cold = []
    with console.status("asking") as status:
        for number, question in enumerate(QUESTIONS, start=1):
            status.update(f"cold {number} of {len(QUESTIONS)}: {question}")
            client.post("/cache/reset").raise_for_status()
            cold.append(ask(client, question))
        client.post("/cache/reset").raise_for_status()
        ask(client, "Where is the observatory?")  # another question altogether: what is shared is the document
        warm = []
        for number, question in enumerate(QUESTIONS, start=1):
            status.update(f"warm {number} of {len(QUESTIONS)}: {question}")
            warm.append(ask(client, question))
    return cold, warm


def ask(client: httpx2.Client, question: str, compress: bool = False) -> Answer:
    """Stream one answer through the chat endpoint. ``compress``: all of the prompt that comes before the question."""
    system = {"role": "system", "content": SYSTEM + DOCUMENT.read_text(encoding="utf-8")}
    cache: dict[str, Any] = {}
    if compress:
        asked = {"messages": [system], "add_generation_prompt": False}
        tokens = client.post("/tokenize", json=asked).raise_for_status().json()["count"]
        cache = {"compression": COMPRESSION, "compress_after": tokens}
    return streamed(client, [system, {"role": "user", "content": question}], cache)


def ask_documents(client: httpx2.Client) -> dict[str, tuple[Answer, Answer]]:
    """The same question, fused and not, about sections in two orders."""
    client.post("/cache/reset").raise_for_status()
    sections = [f"## {each.strip()}" for each in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1 : SECTIONS + 1]]
    answers = {}
    with console.status("asking about sections in two orders"):
        for name, order in (("as written", sections), ("reversed", sections[::-1])):
            documents = [{"type": "document", "text": f"{text}\n"} for text in order]
            turns = [
                {"role": "system", "content": SYSTEM.strip()},
                {"role": "user", "content": [*documents, {"type": "text", "text": QUESTIONS[1]}]},
            ]
            fused = streamed(client, turns, {"fusion": FUSION})
            answers[name] = fused, streamed(client, turns, {})
    return answers


def streamed(client: httpx2.Client, turns: list[dict[str, Any]], cache: dict[str, Any]) -> Answer:
    """The answer to a conversation, as it comes. ``cache``: what is asked of the cache."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": turns,
        "temperature": 0,
        "max_tokens": 32,
        "stream": True,
        "stream_options": {"include_usage": True},
        "kvloom": {"cache": cache},
    }
    usage: dict[str, Any] = {}
    started, times, text = time.monotonic(), [], ""
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            raise DemoError(f"the server answered {response.status_code}: {response.read().decode()}")
        for event in events(response):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    times.append(time.monotonic() - started)
                    text += choice["delta"]["content"]
    if not times or not usage:
        raise DemoError("the answer was empty")
    held = client.get("/cache").raise_for_status().json()["cache"]
    after_first = usage["completion_tokens"] - 1
    return Answer(
        text=" ".join(text.split()),
        ttft_s=times[0],
        tokens_per_s=after_first / (times[-1] - times[0]) if len(times) > 1 else 0.0,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        kv_bytes=held["held_bytes"] + held["cached_bytes"],
        compressed=next(iter(usage.get("kvloom", {}).get("compressed", [])), None),
        fused=next(iter(usage.get("kvloom", {}).get("fused", [])), None),
    )


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise DemoError(f"the stream broke: {event['error']['message']}")
            yield event


def show(cold: list[Answer], warm: list[Answer]) -> None:
    """The answers, the table, and what it means in one sentence."""
    table = Table(title=f"{MODEL}, one document, prompts of {cold[0].prompt_tokens} tokens", title_justify="left")
    for name in ("", "first token\ncold", "first token\nwarm", "cached\ntokens", "KV in use", "tokens/s"):
        table.add_column(name, justify="right")
    for number, (question, first, second) in enumerate(zip(QUESTIONS, cold, warm, strict=True), start=1):
        console.print(f"{number}. {question}\n   {second.text}", highlight=False)
        table.add_row(
            f"{number}",
            f"{first.ttft_s:.2f} s",
            f"{second.ttft_s:.2f} s",
            f"{second.cached_tokens}",
            f"{second.kv_bytes / 2**20:.0f} MiB",
            f"{second.tokens_per_s:.1f}",
        )
    console.print(table)
    same = sum(first.text == second.text for first, second in zip(cold, warm, strict=True))
    speedup = sum(first.ttft_s for first in cold) / sum(second.ttft_s for second in warm)
    console.print(
        f"{same} of {len(cold)} answers are the same cold and warm; the first token came {speedup:.0f} times sooner."
    )


def show_compressed(answer: Answer) -> None:
    """What was kept, and what is answered from it."""
    left = answer.compressed
    if left is None:
        raise DemoError("the server did not say what it kept of the document")
    entries = [count for layer in left["kept"] for count in layer["entries"]]
    share = sum(entries) / (left["tokens"] * len(entries))
    console.print(
        f"\nThe same document with {1 - share:.0%} of its KV removed before any question: {left['method']} keeps "
        f"{min(entries)} to {max(entries)} of {left['tokens']} entries by KV head, {left['bytes'] / 2**20:.1f} MiB.",
        highlight=False,
    )
    console.print(f"1. {QUESTIONS[0]}\n   {answer.text}", highlight=False)


def show_documents(answers: dict[str, tuple[Answer, Answer]]) -> None:
    """What was found of the documents in each order, and when the answer began."""
    table = Table(title=f"the same question about {SECTIONS} of its sections, in two orders", title_justify="left")
    for name in ("order", "KV", "first token", "prompt\ntokens", "prefix\ncached", "passages\nreused", "repaired"):
        table.add_column(name, justify="right")
    for order, (fused, exact) in answers.items():
        if fused.fused is None:
            raise DemoError("the server did not fuse the sections")
        told = (fused.fused["prefix_cached_tokens"], fused.fused["reused_tokens"], fused.fused["repaired_tokens"])
        table.add_row(order, "fused", f"{fused.ttft_s:.2f} s", f"{fused.prompt_tokens}", *map(str, told))
        table.add_row("", "exact", f"{exact.ttft_s:.2f} s", f"{exact.prompt_tokens}", f"{exact.cached_tokens}", "", "")
    console.print(table)
    fused, exact = answers["reversed"]
    console.print(
        f"In the second order the first token came {exact.ttft_s / fused.ttft_s:.1f} times sooner from the passages' "
        f"own KV, which is not exact: answers may differ.\n2. {QUESTIONS[1]}\n   fused  {fused.text}\n"
        f"   exact  {exact.text}",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
