"""What a setting may leave to the machine, and sizes in bytes as people write them."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

from kvloom.errors import ConfigError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_bytes(text: int | str) -> int:
    """Read a size such as ``"2GiB"``, ``"512 MiB"`` or ``1000000``. Raises ConfigError.

    >>> parse_bytes("1.5GiB")
    1610612736
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(text))
        if match is None or match[2].lower() not in _UNITS:
            raise ConfigError(f"cannot read `{text}` as a size in bytes", hint="write it like 2GiB or 512MiB")
        size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size <= 0:
        raise ConfigError(f"a size must be positive, got `{text}`")
    return size


def available_memory_bytes() -> int:
    """Bytes of memory still available to this process: on the machine, or in its container if that has less."""
    return int(min(_machine_bytes(), _container_bytes()))


def _container_bytes() -> float:
    """What the cgroup (v2) leaves; infinity where there is none or it sets no limit."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return math.inf
    return math.inf if limit == "max" else max(0, int(limit) - used)


def _machine_bytes() -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def default_threads() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
