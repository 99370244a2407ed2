"""Writing text with a trained run, to standard output, as it is made."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from compressive_transformer.checkpoint import Run
from compressive_transformer.data import Tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.generate import generate
from compressive_transformer.model import LanguageModel


def stream_text(
    run: Run,
    *,
    prompt: str,
    length: int,
    sampling: Sampling,
    as_json: bool,
) -> None:
    """Streams the prompt and what follows it, or prints one JSON object at the end.

    Args:
        length: tokens; 0 has no end.
    """
    if as_json and length == 0:
        raise UsageError("--json answers when all is made, and length 0 has no end; give a length")
    data = sys.stdin.buffer.read() if prompt == "-" else prompt.encode(errors="surrogateescape")
    started, made = time.monotonic(), bytearray()
    tokens = continued(run.model, run.tokenizer, run.tokenizer.encode(data), length or None, sampling)
    pieces = (run.tokenizer.decode([token]) for token in tokens)
    if as_json:
        for piece in pieces:
            made += piece
        seconds = time.monotonic() - started
        answer = {"prompt": _text(data), "text": _text(bytes(made)), "tokens": length, "seconds": seconds}
        print(json.dumps(answer, indent=2))
        return
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sys.stdout.write(_text(data))
    for piece in pieces:
        sys.stdout.write(decoder.decode(piece))
        sys.stdout.flush()
    sys.stdout.write(decoder.decode(b"", final=True) + "\n")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; see ``generate``."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0


def continued(
    model: LanguageModel, tokenizer: Tokenizer, prompt: ArrayLike, length: int | None, sampling: Sampling
) -> Iterator[int]:
    """The tokens that follow a prompt, which stands at the beginning of a document."""
    boundary = tokenizer.document_token
    tokens = torch.from_numpy(np.append(boundary, np.asarray(prompt, np.int64)))[None]
    made = generate(model, tokens, length=length, banned=[boundary], **asdict(sampling))
    return (int(token) for token in made)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
