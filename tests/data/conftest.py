"""A small text in files, and units so small that it has many."""

from pathlib import Path
from unittest.mock import patch

import pytest
from folders import TEXT, write

from compressive_transformer.data import (
    units,
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write(tmp_path / "text", {"a.txt": TEXT, "b.txt.gz": b"b" * 50, "c.txt": b"c\n\nd"})


@pytest.fixture
def tiny_units():
    with patch.object(units, "UNIT", 64):
        yield
