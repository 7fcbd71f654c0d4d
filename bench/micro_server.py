"""What HTTP costs, and what a long prompt does to running streams: ``python -m bench.micro_server [overhead|stall]``.

overhead   the same requests through ``LLM.generate`` in one process and through SSE from another, in turns
stall      inter-token times of running streams, before and while a long prompt is computed

The client speaks HTTP by hand: what it costs is the network and counting frames.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

VOCABULARY = 49_000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running ``kvloom serve``."""

    pid: int
    port: int
    model: str


@dataclass
class Stream(asyncio.Protocol):
    """One streamed completion; ``times``: when each frame arrived, in seconds."""

    request: bytes
    times: list[float] = field(default_factory=list)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _rest: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        now = time.perf_counter()
        for frame in frames:
            if b"data: [DONE]" in frame:
                self.done.set_result(None)
            elif b"data: {" in frame:
                self.times.append(now)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError(f"the stream broke: {self._rest[:300]!r}"))

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


async def open_stream(server: Server, prompt: list[int], max_tokens: int) -> Stream:
    """Ask for a greedy completion of ``max_tokens`` tokens."""
    wanted = {"model": server.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0}
    body = json.dumps(wanted | {"ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    stream = Stream(head.encode() + body)
    await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", server.port)
    return stream


@contextmanager
def serving(model: str, threads: int) -> Iterator[Server]:
    command = [
        sys.executable,
        "-c",
        "from kvloom.cli import main; main()",
        "serve",
        model,
        "--port",
        "0",
        "--threads",
        str(threads),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next((m for line in process.stderr if (m := re.search(r"http://127.0.0.1:(\d+)/v1", line))), None)
        assert found is not None, "the server did not start"
        try:
            yield Server(process.pid, int(found[1]), model)
        finally:
            process.terminate()


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1000, VOCABULARY) for _ in range(length)] for _ in range(count)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


# -- overhead ------------------------------------------------------------------------------------------------------


def library(model: str, threads: int) -> None:
    """The other process: a line with a round's sizes in, a line with its seconds out."""
    from kvloom import LLM, SamplingParams

    llm = LLM(model, threads=threads)
    for line in sys.stdin:
        count, length, tokens, seed = json.loads(line)
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        before = time.perf_counter()
        llm.generate(prompts(count, length, seed), params)
        print(time.perf_counter() - before, flush=True)


async def over_http(server: Server, count: int, length: int, tokens: int, seed: int) -> float:
    before = time.perf_counter()
    streams = [await open_stream(server, prompt, tokens) for prompt in prompts(count, length, seed)]
    for stream in streams:
        await stream.done
    seconds = time.perf_counter() - before
    assert all(len(stream.times) >= tokens // 2 for stream in streams)
    return seconds


def overhead(options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "bench.micro_server", "library", "--model", options.model]
    command += ["--threads", str(options.threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with serving(options.model, options.threads) as server, subprocess.Popen(command, text=True, **pipes) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        seconds: dict[str, list[float]] = {"library": [], "http": []}
        cpu: dict[str, list[float]] = {"library": [], "server": [], "client": []}
        for number in range(options.rounds + 1):
            sizes = options.streams, options.prompt, options.tokens, number
            before = [cpu_seconds(pid) for pid in (other.pid, server.pid, os.getpid())]
            other.stdin.write(json.dumps(sizes) + "\n")
            other.stdin.flush()
            alone = float(other.stdout.readline())
            http = asyncio.run(over_http(server, *sizes))
            after = [cpu_seconds(pid) for pid in (other.pid, server.pid, os.getpid())]
            if number:  # the first round warms up
                seconds["library"].append(alone)
                seconds["http"].append(http)
                for name, start, end in zip(cpu, before, after, strict=True):
                    cpu[name].append(end - start)
        other.stdin.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print("seconds", {name: [round(value, 3) for value in values] for name, values in seconds.items()})
    print("cpu seconds", {name: round(statistics.median(values), 3) for name, values in cpu.items()})
    ratios = [http / alone for http, alone in zip(seconds["http"], seconds["library"], strict=True)]
    print(f"{options.streams} x ({options.prompt} + {options.tokens}): library {middle['library']:.3f} s,", end=" ")
    print(f"http {middle['http']:.3f} s, overhead {100 * (statistics.median(ratios) - 1):.1f} %")


# -- stall ---------------------------------------------------------------------------------------------------------


async def one_stall(server: Server, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Streams run; after a while a long prompt arrives. All times in seconds."""
    short = prompts(options.streams, options.prompt, seed)
    streams = [await open_stream(server, prompt, options.tokens) for prompt in short]
    while any(len(stream.times) < options.quiet for stream in streams):
        await asyncio.sleep(0.02)
    arrived = time.perf_counter()
    long = await open_stream(server, prompts(1, options.long, seed + 1000)[0], 2)
    for stream in (*streams, long):
        await stream.done
    pairs = [(t, gap) for stream in streams for t, gap in zip(stream.times[1:], stream.gaps, strict=True)]
    warm = max(stream.times[4] for stream in streams)
    quiet = [gap for t, gap in pairs if warm < t < arrived]
    beside = [gap for t, gap in pairs if arrived < t < long.times[0]]
    return {
        "long prompt first token": long.times[0] - arrived,
        "quiet median": statistics.median(quiet),
        "quiet p99": statistics.quantiles(quiet, n=100)[98],
        "median beside it": statistics.median(beside),
        "p99 beside it": statistics.quantiles(beside, n=100)[98],
        "longest beside it": max(beside),
        "tokens beside it": len(beside) / len(streams),
    }


def stall(options: argparse.Namespace) -> None:
    with serving(options.model, options.threads) as server:
        for number in range(options.rounds):
            found = asyncio.run(one_stall(server, options, number))
            told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            strict = found["p99 beside it"] / found["quiet median"]
            loose = found["p99 beside it"] / found["median beside it"]
            print(f"{told}; p99 / quiet median {strict:.2f}, p99 / median beside {loose:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro_server")
    parser.add_argument("what", choices=["overhead", "stall", "library"])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, default=4096, help="tokens of the long prompt")
    parser.add_argument("--quiet", type=int, default=40, help="tokens before it arrives")
    options = parser.parse_args()
    if options.what == "library":
        library(options.model, options.threads)
    elif options.what == "overhead":
        overhead(options)
    else:
        stall(options)


if __name__ == "__main__":
    main()
