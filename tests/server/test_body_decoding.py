"""Bodies are decoded in slices; nobody can tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvloom.errors import RequestError
from kvloom.server.edge import body


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_SLICE", 5)


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_slices_decode_as_the_whole_does(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(RequestError, match=f"at byte {error.start}$"):
            body._decoded(bytearray(data))
    else:
        assert body._decoded(bytearray(data)) == text
