"""enwik8: the first 10^8 bytes of a Wikipedia of 2006, of which the last 5 + 5 million are held out."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from compressive_transformer.data.benchmarks.parts import SPLITS, Counts, Files, Found
from compressive_transformer.data.disk import whole_file
from compressive_transformer.data.files import Source, reading
from compressive_transformer.data.sources import read_chunks
from compressive_transformer.errors import UsageError

BYTES, MD5 = 100_000_000, "a1fa5ffddb56f4953e226637dabbb36a"
PERCENT: dict[str, int] = dict(zip(SPLITS, (90, 5, 5), strict=True))


class Enwik8:
    """One file, as it is or as ``enwik8.zip``."""

    utf8 = False  # the last page is cut, and so may be those at the ends of parts
    line_ends_count = False

    def find(self, source: str, work: Path, *, part: bool) -> Files:
        path = Path(source).expanduser()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the file enwik8, or enwik8.zip")
        data = _unpacked(path)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if digest != MD5 and not part:
            raise UsageError(
                f"{path} is not enwik8: it has {len(data):,} bytes and md5 {digest}, not {BYTES:,} and "
                f"{MD5}; fetch it again, or add --part to go on with what is there"
            )
        work.mkdir(parents=True, exist_ok=True)
        found, start = Files(), 0
        for split, percent in PERCENT.items():
            stop = len(data) if split == SPLITS[-1] else start + len(data) * percent // 100
            target, piece = work / f"{split}.txt", data[start:stop]
            if not target.exists() or target.read_bytes() != piece:  # a file that stays has its tokens
                with whole_file(target) as file:
                    file.write(piece)
            found[split], start = [Found(path=target, genuine=digest == MD5)], stop
        return found

    def lacks(self, split: str, files: Sequence[Found], counts: Counts) -> str | None:
        if not all(found.genuine for found in files):
            return "the file that it was cut from has another md5"
        expected = BYTES * PERCENT[split] // 100
        return None if counts.num_bytes == expected else f"{counts.num_bytes:,} bytes, not {expected:,}"

    def official_words(self, split: str) -> int | None:
        return None


def _unpacked(path: Path) -> bytes:
    if path.suffix.lower() != ".zip":
        return b"".join(read_chunks(Source(str(path), path, named=True)))
    with reading(str(path)):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise UsageError(f"{path} has {len(names)} files in it; give one with enwik8 alone")
                return archive.read(names[0])
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # or encrypted, or odd
            raise UsageError(f"{path} is damaged or packed oddly ({error}); fetch it again") from None
