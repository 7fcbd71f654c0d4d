"""An environment for each client, made on demand in kvloom's cache directory, from the package registries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.clients.table import SCRIPTS, Client
from bench.harness import note
from kvloom.model.files.store import home_dir

INSTALL_S = 1800.0
KEPT_BYTES = 2 * 2**30
"""A larger environment is deleted after its run."""

_INSTALLED = ".installed"


class NotInstalled(Exception):
    """The client could not be installed here. The message has the installer's last words."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A place with one client in it."""

    client: Client
    place: Path

    @property
    def command(self) -> list[str]:
        """Runs the client's script. Node finds packages beside the script alone, so it runs copies."""
        if not self.client.is_javascript:
            return [str(self.place / "bin" / "python"), str(self.client.path)]
        for script in (SCRIPTS / "trying.mjs", self.client.path):
            shutil.copy(script, self.place)
        return ["node", str(self.place / self.client.script)]

    def size(self) -> int:
        return sum(path.lstat().st_size for path in self.place.rglob("*"))

    def tidy(self) -> None:
        if self.size() > KEPT_BYTES:
            note(f"{self.client.name}: its environment is deleted, it is large")
            shutil.rmtree(self.place)


def environment_for(client: Client) -> Environment:
    """Made anew unless it is there with just these packages. Raises NotInstalled."""
    place = home_dir() / "clients" / client.name
    found = Environment(client, place)
    packages = "\n".join(client.packages)
    mark = place / _INSTALLED
    if not mark.exists() or mark.read_text(encoding="utf-8") != packages:
        note(f"{client.name}: installing {', '.join(client.packages)}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for command in _installing(client, place):
            _run(command)
        mark.write_text(packages, encoding="utf-8")
    return found


def _installing(client: Client, place: Path) -> list[list[str]]:
    if client.is_javascript:
        quiet = ["--no-audit", "--no-fund", "--loglevel", "error"]
        return [["npm", "install", "--prefix", str(place), *quiet, *client.packages]]
    python = str(place / "bin" / "python")
    return [
        [sys.executable, "-m", "venv", "--without-pip", str(place)],
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-input", *client.packages],
    ]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except FileNotFoundError:
        raise NotInstalled(f"there is no `{command[0]}`") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"it took longer than {INSTALL_S:.0f} s") from None
    except subprocess.CalledProcessError as failed:
        said = [line for line in failed.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise NotInstalled(said[-1].strip() if said else f"the installer ended with {failed.returncode}") from None
