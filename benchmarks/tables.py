"""The tables of docs/performance.md and of the README, from what is recorded in benchmarks/results.

    python benchmarks/tables.py            # prints the tables
    python benchmarks/tables.py --write    # writes them into the documents

A document says by a comment which table stands where: the benchmark, and the group of its results.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import allocation
import attention
import waiting
from agents import PARTS, cells
from harness import RESULTS, load
from peers import PACKAGES

ROOT = Path(__file__).parents[1]
DOCUMENTS = (*(ROOT / "docs" / name for name in ("performance.md", "rl.md")), ROOT / "README.md")
MARK = re.compile(r"(<!-- benchmark (\w+) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
LABELS = {
    "ours": "**this library**",
    "ours-compiled": "the same, compiled",
    "ours-adamw": "the same, AdamW",
    "ours-no-cache": "the same, keys and values not kept",
    "ours-xl": "the same, as Transformer-XL",
    "ours-window": "the same, memory of one segment",
    "ours-no-memory": "the same, no memory",
    "ours-mean-pooled": "the same, as Expire-Span's baseline",
    "x-transformers": "x-transformers as Transformer-XL",
    "lstm": "LSTM of torch",
}
NOTHING = "Not measured yet."


def main() -> None:
    """Prints or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into the documents")
    write = parser.parse_args().write
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        if write:
            document.write_text(filled(text), encoding="utf-8")
        else:
            print("\n".join(match[0] for match in MARK.finditer(filled(text))))


def filled(text: str, results: Path = RESULTS) -> str:
    """The document with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        found = load(results / FILES[match[2]])
        return f"{match[1]}{TABLES[match[2]](found, match[3])}\n\n{match[4]}"

    return MARK.sub(table, text)


def training(found: dict[str, Any], group: str) -> str:
    """Tokens a second, memory, and what part of a step is products."""
    if group not in found:
        return NOTHING
    rows = []
    for arm, m in found[group]["arms"].items():
        if "failed" in m:
            continue
        share = f"{m['matrix_products']:.0%}" if m["matrix_products"] else "–"
        peak = f"{m['peak_mb'] - m['library_mb']:,.0f}"
        rows.append((label(arm, found[group]), *speed(m), share, peak, f"{m['parameters'] / 1e6:.2f} M"))
    header = ("", "tokens/s", "× ours", "matrix products", "MB", "parameters")
    return markdown(header, rows) + origin(found[group])


def speeds(found: dict[str, Any], group: str) -> str:
    """Tokens a second and ratios; also of a long run."""
    if group not in found:
        return NOTHING
    if group.endswith("/long"):
        return long_run(found[group])
    arms = found[group]["arms"]
    rows = [(label(arm, found[group]), *speed(m)) for arm, m in arms.items() if "failed" not in m]
    return markdown(("", "tokens/s", "× ours"), rows) + origin(found[group])


def long_run(place: dict[str, Any]) -> str:
    """Ten stations of the way."""
    windows = place["arms"]["ours"]["windows"]
    names = ("tokens", "tokens_per_second", "resident_mb")
    stations = windows[len(windows) // 10 - 1 :: max(len(windows) // 10, 1)]
    rows = [tuple(f"{w[name]:,.0f}" for name in names) for w in stations]
    return markdown(("tokens made", "tokens/s", "resident MB"), rows) + origin(place)


def quality(found: dict[str, Any], size: str) -> str:
    """Bits per byte for every number of minutes: mean, and range over seeds."""
    groups = {name: place for name, place in found.items() if re.fullmatch(rf"{size}/[\d.]+ minutes", name)}
    if not groups:
        return NOTHING
    arms = {arm: None for place in groups.values() for arm in place["arms"]}
    rows = []
    for arm in arms:
        cells: list[str] = []
        for place in groups.values():
            runs = [run for run in place["arms"].get(arm, {}).values() if "bits_per_byte" in run]
            bits = [run["bits_per_byte"] for run in runs]
            spread = f" ({min(bits):.3f}–{max(bits):.3f})" if len(bits) > 1 else ""
            cells += [
                f"{mean(bits):.3f}{spread}" if bits else "–",
                f"{mean(run['steps'] for run in runs):,.0f}" if runs else "–",
            ]
            if place is list(groups.values())[-1]:
                cells += [f"{runs[0]['lr']:g}", str(runs[0]["batch"])] if runs else ["–", "–"]
        rows.append((label(arm, next(iter(groups.values()))), *cells))
    names = [name.split("/")[1] for name in groups]
    found_best = ("learning rate", "batch")
    header = ("", *(cell for name in names for cell in (f"bits per byte, {name}", "steps")), *found_best)
    return markdown(header, rows) + origin(list(groups.values())[-1])


def scaling(found: dict[str, Any], group: str) -> str:
    """What was measured beside what the formula says, as multiples of the middle row."""
    if group not in found:
        return NOTHING
    rows = []
    for name, m in found[group]["arms"].items():
        if "failed" in m:
            continue
        cells = (f"{1000 * m['seconds']:,.0f}", f"{m['ratio']:.2f}", f"{m['flops_ratio']:.2f}")
        rows.append((name, *cells, f"{m['peak_mb']:,.0f}", f"{m['predicted_mb']:,.0f}"))
    header = ("", "ms/step", "× usual", "× usual by formula", "MB", "MB by formula")
    return markdown(header, rows) + origin(found[group])


def agents(found: dict[str, Any], group: str) -> str:
    """Steps a second with each core, and where the time goes."""
    if group not in found:
        return NOTHING
    header = ("core", "steps/s", "acting alone", "learning alone", *PARTS, "parameters")
    rows = [
        (core, *cells(m), f"{m['parameters'] / 1e6:.2f} M")
        for core, m in found[group]["arms"].items()
        if "failed" not in m
    ]
    return markdown(header, rows) + origin(found[group])


def as_shown(benchmark: ModuleType, found: dict[str, Any], group: str) -> str:
    """The rows that the benchmark shows at its end."""
    if group not in found:
        return NOTHING
    rows = [(name, *benchmark.cells(m)) for name, m in found[group]["arms"].items() if "failed" not in m]
    return markdown(("", *benchmark.HEADER), rows) + origin(found[group])


def speed(m: dict[str, Any]) -> tuple[str, str]:
    """Tokens a second, and the ratio to ours."""
    rate = m["tokens_per_second"]
    ratio = f"{m['speed_of_ours']:.2f}" if m["speed_of_ours"] else "–"
    return (f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"), ratio


def label(arm: str, place: dict[str, Any]) -> str:
    """What a table calls an arm."""
    name = LABELS.get(arm, PACKAGES.get(arm, arm))
    package = PACKAGES.get(arm)
    return f"{name} {place['about']['versions'].get(package, '')}".strip() if package else name


def origin(place: dict[str, Any]) -> str:
    """Where a table comes from."""
    about = place["about"]
    made = f"{about['machine']}, torch {about['versions']['torch']}, {about['date']}"
    return f"\n\n<sub>{made}: `{about['command']}`</sub>"


def markdown(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table, numbers to the right."""
    rule = ("---", *["---:"] * (len(header) - 1))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, rule, *rows))


TABLES = {
    "training": training,
    "generation": speeds,
    "reading": speeds,
    "quality": quality,
    "scaling": scaling,
    "agents": agents,
    "allocation": partial(as_shown, allocation),
    "attention": partial(as_shown, attention),
    "waiting": partial(as_shown, waiting),
}
FILES = {name: f"{name}.json" for name in TABLES}

if __name__ == "__main__":
    main()
