"""Recordings as streams of samples: decoded, mixed to one channel and resampled chunk by chunk.

What a recording holds is handed on as 16-bit PCM (little-endian bytes), and a tokenizer of samples makes
tokens of it, so that recordings go the way of text: to shards, lanes, scores.

Shape legend: N samples.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressive_transformer.data.files import Source, reading
from compressive_transformer.errors import UsageError

CHUNK = 1 << 18
"""Samples that are decoded at once."""
PCM = np.dtype("<i2")
NAME = re.compile(r"(mulaw|linear)-([0-9]{4,6})")
RATES = (1_000, 384_000)
MU = 255
LOUDEST = 2**15 - 1
UNKNOWN = 2**62
"""Samples of a FLAC that does not tell how many it has, at least."""


@dataclass(frozen=True)
class SampleTokenizer:
    """Every sample is a token; one more token opens a recording.

    ``mulaw``: 256 levels that are close together where the sound is soft (ITU-T G.711's curve, as WaveNet's:
    sign(x) ln(1 + 255 |x|) / ln 256). ``linear``: all 65,536 levels of 16-bit PCM.
    """

    kind: str
    rate: int
    """Samples per second."""
    unit = "sample"

    @property
    def name(self) -> str:
        """As ``get_tokenizer`` knows it: mulaw-24000."""
        return f"{self.kind}-{self.rate}"

    @property
    def bits(self) -> int:
        """Of a sample."""
        return 8 if self.kind == "mulaw" else 16

    @property
    def vocab_size(self) -> int:
        """Levels, and the document token."""
        return 2**self.bits + 1

    @property
    def document_token(self) -> int:
        """Opens a recording."""
        return 2**self.bits

    def encode(self, data: bytes) -> NDArray[np.uint16 | np.uint32]:
        """The tokens [N] of 16-bit PCM."""
        levels = np.frombuffer(data, PCM).astype(np.int64) + 2**15
        return mulaw_table()[levels] if self.kind == "mulaw" else levels.astype(np.uint32)

    def decode(self, ids: ArrayLike) -> bytes:
        """16-bit PCM of the tokens; µ-law gives the middle of each level.

        Raises:
            ValueError: A number is not a token.
        """
        tokens = np.asarray(ids)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() <= self.document_token:
            raise ValueError(
                f"tokens must lie in [0, {self.document_token}], got [{tokens.min()}, {tokens.max()}]"
            )
        levels = tokens[tokens != self.document_token]
        if self.kind == "mulaw":
            return mulaw_levels()[levels].tobytes()
        return (levels.astype(np.int64) - 2**15).astype(PCM).tobytes()


def sample_tokenizer(name: str) -> SampleTokenizer | None:
    """The tokenizer of samples of that name, mulaw-RATE or linear-RATE; None if it is no such name.

    Raises:
        UsageError: The rate is out of range.
    """
    if (match := NAME.fullmatch(name)) is None:
        return None
    kind, rate = match[1], int(match[2])
    if not RATES[0] <= rate <= RATES[1]:
        raise UsageError(f"{name}: {rate} samples a second are not allowed; use {RATES[0]:,} to {RATES[1]:,}")
    return SampleTokenizer(kind, rate)


def mulaw_encode(x_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Levels 0 to 255 of samples in [-1, 1]."""
    curve = np.sign(x_N) * np.log1p(MU * np.abs(x_N)) / np.log1p(MU)
    return np.floor((curve + 1) / 2 * MU + 0.5).astype(np.int64)


def mulaw_decode(level_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Samples in [-1, 1] of levels 0 to 255."""
    curve = 2 * (level_N / MU) - 1
    return np.sign(curve) * np.expm1(np.abs(curve) * np.log1p(MU)) / MU


@cache
def mulaw_table() -> NDArray[np.uint16]:
    """The level of each 16-bit sample, [65536] from the lowest on."""
    return mulaw_encode(np.arange(-(2**15), 2**15) / 2**15).astype(np.uint16)


@cache
def mulaw_levels() -> NDArray[np.int16]:
    """The 16-bit sample of each level, [256]."""
    return np.clip(np.rint(mulaw_decode(np.arange(256)) * 2**15), -(2**15), LOUDEST).astype(PCM)


LIBRARIES = ("soundfile", "soxr")
"""What decodes, and what resamples."""


def library(name: str) -> Any:
    """One of the libraries.

    Raises:
        UsageError: The extra is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"recordings need {name}: pip install 'compressive-transformer[audio]'") from None


@dataclass
class Notes:
    """What people should know of recordings that were read."""

    rates: dict[int, str] = field(default_factory=dict)
    """Samples a second, and the first recording that has so many."""
    many_channels: list[str] = field(default_factory=list)
    """Recordings of more than two."""
    clipped: list[str] = field(default_factory=list)
    """Recordings with more than one sample in a thousand at full scale."""

    def tell(self, rate: int) -> list[str]:
        """In a line each, if there is anything unusual."""
        lines = []
        others = {known: name for known, name in self.rates.items() if known != rate}
        if others:
            found = ", ".join(f"{known:,} (as {name})" for known, name in sorted(others.items()))
            lines.append(f"recordings of {found} samples a second were resampled to {rate:,}")
        for names, what in (
            (self.many_channels, "of more than two channels, which were mixed to one"),
            (self.clipped, "clipped: more than one sample in a thousand is at full scale"),
        ):
            if names:
                lines.append(f"{len(names)} recording(s), such as {names[0]}, are {what}")
        return lines


def read_recording(
    source: Source, rate: int, notes: Notes, report: Callable[[int], None] = lambda size: None
) -> Iterator[bytes]:
    """16-bit PCM of a recording at a rate, in chunks; memory does not grow with it.

    Channels are mixed by their mean. What was read is told to ``report`` in bytes of the file, about, and
    what is unusual to ``notes``.

    Raises:
        UsageError: It is not audio, holds nothing, is cut short, or has samples that are no numbers.
    """
    soundfile = library("soundfile")
    assert source.path is not None
    with reading(source.name):
        size = source.path.stat().st_size
        _check_length(source, size)
    opened = False
    try:
        with reading(source.name), soundfile.SoundFile(source.path) as file:
            opened = True
            yield from _decoded(file, source.name, size, rate, notes, report)
    except (
        soundfile.LibsndfileError,
        TypeError,
    ) as error:  # TypeError: raw samples, of which nothing is known
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        what = "is damaged or cut short" if opened else "can't be read as audio"
        raise UsageError(f"{source.name} {what} ({reason}); leave it out") from None


def _decoded(
    file: Any, name: str, size: int, rate: int, notes: Notes, report: Callable[[int], None]
) -> Iterator[bytes]:
    """What ``read_recording`` gives."""
    if file.frames >= UNKNOWN:
        raise UsageError(f"{name} does not tell its length, as if written to a pipe; encode it again")
    frames, told, read, given, loudest = max(file.frames, 1), 0, 0, 0, 0
    resampler = None
    if file.samplerate != rate:
        resampler = library("soxr").ResampleStream(file.samplerate, rate, 1, dtype="float32")
    while len(block := file.read(CHUNK, dtype="float32", always_2d=True)):
        read += len(block)
        loudest += int((np.abs(block) >= LOUDEST / 2**15).any(axis=1).sum())
        mono = _mixed(block, name)
        part = _pcm(mono if resampler is None else resampler.resample_chunk(mono))
        given += len(part)
        yield part
        report(min(size * read // frames, size) - told)
        told = min(size * read // frames, size)
    if resampler is not None:
        part = _pcm(resampler.resample_chunk(np.empty(0, np.float32), last=True))
        given += len(part)
        yield part
    if not given:
        raise UsageError(f"{name} is a recording of no length; leave it out")
    notes.rates.setdefault(file.samplerate, name)
    if file.channels > 2:
        notes.many_channels.append(name)
    if loudest > read / 1000:
        notes.clipped.append(name)
    report(size - told)


def _check_length(source: Source, size: int) -> None:
    """Refuses a WAV that says that it is longer. A FLAC is refused where it is decoded; others can't tell."""
    assert source.path is not None
    with source.path.open("rb") as file:
        head = file.read(12)
    declared = int.from_bytes(head[4:8], "little") + 8
    # Its end was not known when it began: nothing, or just about the most that some program allows.
    streamed = declared == 8 or abs(declared - 2**31) <= 2**12 or declared >= 2**32 - 2**12
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and declared > size + 1 and not streamed:
        raise UsageError(
            f"{source.name} is cut short: {size:,} of {declared:,} bytes are there; fetch it again"
        )


def _mixed(block: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """One channel of all."""
    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UsageError(f"{name} has samples that are no numbers (NaN, infinite); repair it or leave it out")
    return mono


def _pcm(mono: NDArray[np.float32]) -> bytes:
    return np.clip(np.rint(mono * 2.0**15), -(2**15), LOUDEST).astype(PCM).tobytes()


@contextmanager
def write_recording(path: str | Path, rate: int) -> Iterator[Callable[[bytes], None]]:
    """A function that adds 16-bit PCM to a recording of one channel: .wav, .flac, .ogg or .mp3 by its suffix.

    The recording gets its name at the end, also if that is an exception; until then what stands there stays.

    Raises:
        UsageError: The suffix is another, or the file can't be written.
    """
    soundfile, path = library("soundfile"), Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise UsageError(f"{path} can't be written; use a name that ends in {', '.join(WRITTEN)}")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    wrote = False
    try:
        with soundfile.SoundFile(part, "w", rate, 1) as file:

            def add(pcm: bytes) -> None:
                nonlocal wrote
                wrote = True
                file.write(np.frombuffer(pcm, PCM))

            yield add
    except UsageError:
        raise
    except (soundfile.LibsndfileError, ValueError) as error:
        raise UsageError(f"{path} can't be written ({error}); choose another --out") from None
    finally:
        if wrote:
            part.replace(path)
        part.unlink(missing_ok=True)


WRITTEN = (".wav", ".flac", ".ogg", ".mp3")
