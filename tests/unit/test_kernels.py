"""Loading the extension: which instruction sets, and which OpenMP runtime is in the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kvloom import kernels
from kvloom.errors import ConfigError


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)


def test_every_machine_runs_the_portable_variant() -> None:
    assert kernels.isas()[-1] == "portable"
    assert len(set(kernels.isas())) == len(kernels.isas())


def test_the_best_is_taken_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVLOOM_ISA", raising=False)
    assert kernels.choose_isa() == kernels.isas()[0]
    monkeypatch.setenv("KVLOOM_ISA", "portable")
    assert kernels.choose_isa() == "portable"
    assert kernels.choose_isa(kernels.isas()[0]) == kernels.isas()[0]
    monkeypatch.setenv("KVLOOM_ISA", "mmx")
    with pytest.raises(ConfigError, match=r"possible:.* portable"):
        kernels.choose_isa()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_torch_brings_the_only_openmp_runtime() -> None:
    code = """
import kvloom.attend.cpu, torch
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
mapped = {line.split()[-1] for line in open("/proc/self/maps")}
print(*{path for path in mapped if any(name in path for name in ("libgomp", "libomp", "libiomp"))}, sep="\\n")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    libraries = done.stdout.split()
    assert len(libraries) == 1, libraries


def test_importing_the_package_stays_light() -> None:
    done = run("import sys, kvloom; assert not {'torch', 'kvloom._kernels'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
