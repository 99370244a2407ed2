"""What is particular to sound: classical predictors beside the model, recordings made by it, pictures.

Shape legend: N samples, P order of the predictor.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from compressive_transformer.checkpoint import Run
from compressive_transformer.data import Corpus
from compressive_transformer.data.audio import (
    PCM,
    Notes,
    SampleTokenizer,
    library,
    mulaw_levels,
    read_recording,
    write_recording,
)
from compressive_transformer.data.files import Source
from compressive_transformer.errors import UsageError
from compressive_transformer.model import LanguageModel
from compressive_transformer.tasks.write import Sampling, continued

ORDER, SPREAD, FITTED = 16, 64, 1 << 18
"""Of the linear predictor: samples it looks back, samples over which it judges its errors, and samples that
it is fitted to at once."""
SAMPLE = {8: 8_000, 16: 1_000}
"""Samples that a finished run makes, and at most as many before them, by their bits: 16 take longer."""
PIECE = 1_000
"""Samples that are written at once."""
LONGEST = 2**40
"""Samples that can be asked for: years."""
DRAWN = 2_000_000
"""Samples of a longer recording that are drawn: its beginning."""


def classical(training: Corpus, validation: Corpus) -> dict[str, float]:
    """Bits per sample of FLAC, which sees these recordings only, and of a linear predictor."""
    return {
        "FLAC": flac_bits(validation),
        "linear": linear_bits(training, validation),
    }


def flac_bits(corpus: Corpus) -> float:
    """Bits per sample of the levels in FLAC files of the highest compression, their headers not counted."""
    tokenizer = _tokenizer(corpus)
    subtype, rate = "PCM_S8" if tokenizer.bits == 8 else "PCM_16", min(tokenizer.rate, 192_000)

    def size(levels: NDArray[np.int64]) -> int:
        file = io.BytesIO()
        # Eight bits stand in the upper half of 16, as libsndfile wants them.
        pcm = (levels << (16 - tokenizer.bits)).astype(PCM)
        library("soundfile").write(file, pcm, rate, subtype, format="FLAC", compression_level=1.0)
        return len(file.getvalue()) - _header_size(file.getvalue())

    middle = 2 ** (tokenizer.bits - 1)
    recordings = (np.asarray(corpus.document(i)).astype(np.int64) for i in range(corpus.num_documents))
    return 8 * sum(size(levels - middle) for levels in recordings if len(levels)) / corpus.num_tokens


def _header_size(flac: bytes) -> int:
    """Bytes before the first frame: a mark, and blocks that each begin with "the last?", kind and size."""
    at, last = 4, False
    while not last:
        last, at = bool(flac[at] & 0x80), at + 4 + int.from_bytes(flac[at + 1 : at + 4])
    return at


def linear_bits(training: Corpus, validation: Corpus) -> float:
    """Bits per sample of a linear predictor with Laplace-distributed errors, rounded to levels.

    Its weights are those of least squares on the training recordings. The width of the distribution follows
    the errors just past, so all that it knows comes from before the sample.
    """
    tokenizer = _tokenizer(training)
    levels = _amplitudes(tokenizer)
    weights = _fitted(training, levels)
    # Where a level begins and ends: half-way to its neighbours, and without end at the last ones.
    middle = (levels[1:] + levels[:-1]) / 2
    low, high = np.append(-np.inf, middle), np.append(middle, np.inf)
    nats = 0.0
    for index in range(validation.num_documents):
        tokens = np.asarray(validation.document(index)).astype(np.int64)
        x = np.append(np.zeros(ORDER), levels[tokens])
        predicted = np.lib.stride_tricks.sliding_window_view(x[:-1], ORDER) @ weights
        width = _width(np.abs(x[ORDER:] - predicted))
        inside = _laplace((high[tokens] - predicted) / width) - _laplace((low[tokens] - predicted) / width)
        nats -= float(np.log(np.maximum(inside, 1e-12)).sum())
    return nats / np.log(2) / validation.num_tokens


def _fitted(training: Corpus, levels: NDArray[np.float64]) -> NDArray[np.floating]:
    """Weights [P] of the samples before, oldest first, in one pass."""
    square, product, last = 1e-9 * np.eye(ORDER), np.zeros(ORDER), np.zeros(ORDER)
    for start in range(0, training.num_tokens, FITTED):
        x = np.append(last, levels[np.asarray(training.tokens[start : start + FITTED])])
        rows, last = np.lib.stride_tricks.sliding_window_view(x, ORDER + 1), x[len(x) - ORDER :]
        past, target = rows[:, :-1], rows[:, -1]
        square, product = square + past.T @ past, product + past.T @ target
    return np.linalg.solve(square, product)


def _width(error_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the errors before each, the nearer ones weighing more."""
    keep = 1 - 1 / SPREAD
    width, mean = np.empty_like(error_N), 0.05
    for i, error in enumerate(error_N.tolist()):
        width[i] = mean
        mean = keep * mean + (1 - keep) * error
    return np.maximum(width, 1e-6)


def _laplace(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Its distribution function."""
    tail = 0.5 * np.exp(-np.abs(x))
    return np.where(x < 0, tail, 1 - tail)


def _amplitudes(tokenizer: SampleTokenizer) -> NDArray[np.float64]:
    """What each level stands for, in [-1, 1]."""
    levels = mulaw_levels() if tokenizer.kind == "mulaw" else np.arange(-(2**15), 2**15)
    return levels.astype(np.float64) / 2.0**15


def _tokenizer(corpus: Corpus) -> SampleTokenizer:
    assert isinstance(corpus.tokenizer, SampleTokenizer)
    return corpus.tokenizer


def write_sample(
    out: Path, model: LanguageModel, validation: Corpus, seed: int, *, count: int | None = None
) -> str:
    """Goes on from the middle of the longest recording held out, and draws it beside.

    Args:
        out: the recording to write.
        model: trained on sound.
        validation: recordings held out.
        seed: of what is drawn at random.
        count: samples to make, and at most as many before them; a second at 8,000 Hz for 8 bits if not given.

    Returns:
        A line that tells what is there.
    """
    tokenizer = _tokenizer(validation)
    count, longest = count or SAMPLE[tokenizer.bits], int(np.diff(validation.starts).argmax())
    document = np.asarray(validation.document(longest)).astype(np.int64)
    prompt = document[max(len(document) // 2 - count, 0) : max(len(document) // 2, 1)]
    made = np.fromiter(continued(model, tokenizer, prompt, count, Sampling(seed=seed)), np.int64)
    pcm = tokenizer.decode(np.append(prompt, made))
    with write_recording(out, tokenizer.rate) as add:
        add(pcm)
    picture = out.with_suffix(".png")
    drawn = draw(picture, pcm, tokenizer.rate, len(prompt))
    seconds = [len(x) / tokenizer.rate for x in (prompt, made)]
    pictured = f", {picture.name} shows it" if drawn else ""
    return (
        f"{out}: {seconds[0]:.2f} s of {validation.names[longest]}, then {seconds[1]:.2f} s "
        f"by the model{pictured}"
    )


def record(
    run: Run,
    *,
    prompt: str,
    out: str,
    seconds: float | None,
    length: int | None,
    sampling: Sampling,
) -> dict[str, Any]:
    """Makes a recording, behind a progress bar, and draws it beside.

    Args:
        run: trained on sound.
        prompt: a recording to go on from, at whatever rate; empty for none. It is not repeated in ``out``.
        out: the recording to write, by its suffix as WAV, FLAC, OGG or MP3.
        seconds, length: how long, in seconds or in samples; a second if neither is given.

    Raises:
        UsageError: a setting or a file can't be used.
    """
    tokenizer = run.tokenizer
    assert isinstance(tokenizer, SampleTokenizer)
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g} is not allowed; use more than 0")
    seconds = 1.0 if seconds is None else seconds
    if seconds * tokenizer.rate > LONGEST:
        raise UsageError(f"--seconds {seconds:g} is not allowed; use at most {LONGEST // tokenizer.rate:,}")
    count = length if length is not None else round(seconds * tokenizer.rate)
    if count < 1:
        raise UsageError(
            f"a recording of {count} samples is asked for; give --seconds or --length of more than 0"
        )
    begun = np.empty(0, np.int64)
    if prompt:
        if not Path(prompt).is_file():
            raise UsageError(f"{prompt} is not a file; --prompt takes a recording to go on from")
        source, notes = Source(prompt, Path(prompt), named=True), Notes()
        pcm = b"".join(read_recording(source, tokenizer.rate, notes))
        for line in notes.tell(tokenizer.rate):
            warnings.warn(line, stacklevel=2)
        begun = tokenizer.encode(pcm).astype(np.int64)
    shown = bytearray()
    console = Console(file=sys.stderr)
    samples = continued(run.model, tokenizer, begun, count, sampling)
    with (
        write_recording(out, tokenizer.rate) as add,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task(f"making {count / tokenizer.rate:.2f} seconds", total=count)
        while piece := list(itertools.islice(samples, PIECE)):
            pcm = tokenizer.decode(piece)
            add(pcm)
            shown += pcm[: 2 * DRAWN - len(shown)]
            bar.advance(task, len(piece))
    picture = Path(out).with_suffix(".png")
    drawn = draw(picture, bytes(shown), tokenizer.rate, 0)
    answer = {"recording": out, "seconds": count / tokenizer.rate, "samples": count, "rate": tokenizer.rate}
    return answer | {"picture": str(picture) if drawn else None}


def draw(path: Path, pcm: bytes, rate: int, given: int) -> bool:
    """Waveform above, spectrogram below, with a line where the model takes over; False without matplotlib.

    Args:
        path: the picture, by its suffix.
        pcm: 16-bit samples.
        rate: of them, a second.
        given: how many of them are not the model's.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    x_N = np.frombuffer(pcm, PCM) / 2.0**15
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    wave, spectrum = figure.subplots(2, 1, sharex=True)
    wave.plot(np.arange(len(x_N)) / rate, x_N, lw=0.4, color="0.2")
    wave.set(ylabel="amplitude", ylim=(-1, 1), xlim=(0, len(x_N) / rate))
    if (size := min(256, len(x_N) // 2)) >= 8:
        # A little noise, for silence has no logarithm.
        noise = 1e-5 * np.random.default_rng(0).standard_normal(len(x_N))
        spectrum.specgram(x_N + noise, NFFT=size, Fs=rate, noverlap=size * 3 // 4, vmin=-130, vmax=-30)
    spectrum.set(ylabel="Hz", xlabel="seconds")
    if given:
        for axis in (wave, spectrum):
            axis.axvline(given / rate, color="tab:red", lw=1)
        wave.set_title("left of the red line the recording, right of it the model", fontsize=9)
    figure.savefig(path, dpi=120)
    return True
