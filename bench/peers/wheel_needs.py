"""The requirements of a wheel, less some: ``python wheel_needs.py WHEEL --without NAME...``. Standard library only."""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path


def needs(wheel: Path, without: set[str]) -> list[str]:
    """``Requires-Dist`` lines that no extra asks for, without the packages named."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    lines = [line for line in headers.get_all("Requires-Dist") or [] if "extra ==" not in line]
    return [line for line in lines if re.split(r"[^A-Za-z0-9_.-]", line)[0] not in without]


def main() -> int:
    parser = argparse.ArgumentParser(prog="wheel_needs.py")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    options = parser.parse_args()
    print("\n".join(needs(options.wheel, set(options.without))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
