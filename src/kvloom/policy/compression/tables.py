"""Numbers by layer, or by layer and KV head, from a text file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvloom.errors import DataFileError


def read_table(path: Path) -> npt.NDArray[np.float64]:
    """(rows, columns), separated by white space. Raises DataFileError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file
            return np.loadtxt(path, np.float64, ndmin=2)
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (ValueError, UserWarning) as error:
        raise DataFileError(f"is no table of numbers: {error}", path=path) from error
