"""The text or sound of a run: what it trains on, whatever that comes from, and what it is validated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressive_transformer.data import (
    Corpus,
    Lanes,
    StreamedLanes,
    Tokenizer,
    embedded_books,
    embedded_recordings,
    excerpt,
    join_folders,
    open_stream,
    split,
)
from compressive_transformer.data.audio import LIBRARIES, SampleTokenizer, library
from compressive_transformer.data.files import find_sources
from compressive_transformer.data.hub import PREFIX
from compressive_transformer.errors import UsageError
from compressive_transformer.tasks.prepare import prepare_shown
from compressive_transformer.train import TrainConfig
from compressive_transformer.train.parallel import World

VALIDATION_FRACTION, VALIDATION_TOKENS = 0.05, 2**18
"""How much text is held out: a part of all, but not more than can be read in seconds."""
PIECES = 16
"""Of more validation text than that which is given, pieces from everywhere are read."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text of a run."""

    validation: Corpus
    training: Corpus | None
    """None if it is streamed."""
    size: str
    """How much there is to train on, for people."""
    identity: str
    """Tells this text from any other."""
    lanes: Callable[[World], Lanes | StreamedLanes]
    """The lanes of a process."""


def load_text(config: TrainConfig, tokenizer: Tokenizer, world: World) -> Text:
    """Text to train on and text to validate on, which share nothing.

    The first process makes the files of tokens, and the others find them.
    """
    if not world.first:
        world.wait()
    streamed = [path for path in config.data if path.startswith(PREFIX)]
    if streamed and len(config.data) > 1:
        raise UsageError(f"{streamed[0]} is a stream, and stands alone; give one --data")
    if isinstance(tokenizer, SampleTokenizer):
        for name in LIBRARIES:
            library(name)  # also if the samples are there already: the end of the run needs them
    if streamed and config.join_folders:
        raise UsageError(f"{streamed[0]} has no folders to join; leave --join-folders out")
    if streamed and isinstance(tokenizer, SampleTokenizer):
        raise UsageError(f"{streamed[0]} is a stream of text; give recordings as files or folders")
    text = _stream(config, tokenizer) if streamed else _corpus(config, tokenizer)
    if world.first:
        world.wait()
    return text


def _corpus(config: TrainConfig, tokenizer: Tokenizer) -> Text:
    sound = isinstance(tokenizer, SampleTokenizer)
    paths = list(config.data or map(str, embedded_recordings() if sound else embedded_books()))
    training = _read(paths, config, tokenizer)
    if config.validation:
        sources = [
            {s.path.resolve() for s in find_sources(p, audio=sound) if s.path}
            for p in (paths, config.validation)
        ]
        if same := sources[0] & sources[1]:
            raise UsageError(
                f"{min(same)} is in the training and in the validation text; leave it out of one"
            )
        validation = _not_too_much(_read(config.validation, config, tokenizer))
    else:
        training, validation = split(training, fraction=VALIDATION_FRACTION, max_tokens=VALIDATION_TOKENS)

    def lanes(world: World) -> Lanes:
        return Lanes(
            training,
            num_lanes=config.lanes,
            length=config.model.segment * config.unroll,
            seed=config.seed,
            reset_documents=config.reset_documents,
            rows=world.share(config.lanes),
        )

    size = f"{training.num_tokens:,} {training.unit}s"
    identity = f"{size} in {training.num_documents:,} documents, checksum {training.fingerprint[:16]}"
    return Text(validation=validation, training=training, size=size, identity=identity, lanes=lanes)


def _read(paths: Sequence[str], config: TrainConfig, tokenizer: Tokenizer) -> Corpus:
    corpus = prepare_shown(paths, tokenizer, separator=config.separator)
    return join_folders(corpus) if config.join_folders else corpus


def _not_too_much(validation: Corpus) -> Corpus:
    """The text, or as much of it as is read at the end of a run; ``compressive evaluate`` reads all."""
    if validation.num_tokens <= 2 * VALIDATION_TOKENS:
        return validation
    return excerpt(validation, num_pieces=PIECES, length=VALIDATION_TOKENS // PIECES)


def _stream(config: TrainConfig, tokenizer: Tokenizer) -> Text:
    held_out, make = open_stream(
        config.data[0], tokenizer, validation_tokens=0 if config.validation else VALIDATION_TOKENS
    )
    validation = held_out or _not_too_much(_read(config.validation, config, tokenizer))

    def lanes(world: World) -> StreamedLanes:
        return make(
            num_lanes=config.lanes,
            length=config.model.segment * config.unroll,
            reset_documents=config.reset_documents,
            rows=world.share(config.lanes),
            rank=world.rank,
            world=world.size,
        )

    return Text(validation=validation, training=None, size="a stream", identity=config.data[0], lanes=lanes)
