"""Writing text with a trained run, to standard output, as it is made."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Iterator

import torch

from compressive_transformer.checkpoint import Run
from compressive_transformer.errors import UsageError
from compressive_transformer.generate import generate


def stream_text(
    run: Run,
    *,
    prompt: str,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
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
    pieces = _pieces(run, data, length or None, temperature, top_k, top_p, seed)
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


def _pieces(
    run: Run,
    prompt: bytes,
    length: int | None,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
) -> Iterator[bytes]:
    """The bytes of each token that follows the prompt, which stands at the beginning of a document."""
    boundary = run.tokenizer.document_token
    tokens = torch.tensor([[boundary, *run.tokenizer.encode(prompt).tolist()]])
    made = generate(
        run.model,
        tokens,
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        banned=[boundary],
    )
    for token in made:
        yield run.tokenizer.decode([int(token)])


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
