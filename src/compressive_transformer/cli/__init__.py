"""The command ``compressive``: one verb a file."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from compressive_transformer.errors import Stopped, UsageError

HELP = """\
usage: compressive VERB ... [--help]

The Compressive Transformer: a language model that reads streams of any length at constant cost.

  train [RECIPE]      train on text:        compressive train --data books/ --out runs/mine --minutes 10
                      or an agent:          compressive train rl --core compressive --out runs/agent
  evaluate RUN PATH   score other text:     compressive evaluate runs/mine novel.txt
  generate RUN        write text:           compressive generate runs/mine --prompt "It was" --length 500
  report RUN ...      draw and compare:     compressive report runs/mine runs/other
  info RUN            size, reach and cost: compressive info runs/mine
  prepare PATH        make tokens first:    compressive prepare books/ --out data/books
  tokenizer train ... make a vocabulary:    compressive tokenizer train books/ --out subwords.json
  benchmark NAME PATH the paper's data:     compressive benchmark enwik8 enwik8.zip

Start here: 'compressive train' alone trains for three minutes on two novels that come with the package, says
how well it compresses beside gzip, bzip2 and xz, and leaves a run folder for the other verbs.
Sound: 'compressive train speech --data recordings/', then the same verbs (extra: audio).
Every verb explains itself: 'compressive train --help'. Answers for programs: --json.
"""
OUT_OF_MEMORY = ("allocate memory", "out of memory", "Storage size calculation overflowed")
"""How torch says it, there being no exception for it on CPU."""
VERBS = ("train", "evaluate", "generate", "report", "info", "prepare", "tokenizer", "benchmark")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 2 after a user's mistake, told in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that can't show every letter
    if sys.stdin is None:  # closed by <&-
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":  # all processes stop at once
            print("compressive:", stop, file=sys.stderr)
        sys.exit(stop.EXIT_CODE)
    except BrokenPipeError:
        _give_up_output()  # its reader has gone (| head): no reason to complain
    except OSError as error:
        _give_up_output()
        _fail(error)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        _fail("not enough memory; use fewer lanes or rows, a smaller model, or smaller memories")


def _warn(message: Warning | str, *where: object) -> None:
    print("compressive: warning:", message, file=sys.stderr)


def _fail(error: Exception | str) -> NoReturn:
    print("compressive: error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


def _give_up_output() -> None:
    """What can't be written is not tried again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    verb, *rest = arguments
    if verb == "--version":
        from compressive_transformer import __version__

        print(f"compressive-transformer {__version__}")
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(VERBS)}"
        raise UsageError(f"unknown verb {verb!r}; {hint} ('compressive --help' explains them)")
    importlib.import_module(f"compressive_transformer.cli.{verb}").main(rest)
