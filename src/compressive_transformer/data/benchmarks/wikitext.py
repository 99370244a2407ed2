"""WikiText (Merity et al. 2017): articles as words between spaces, a vocabulary that is closed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from compressive_transformer.data.benchmarks.parts import Counts, Files, Found, check_overlap, folder_of
from compressive_transformer.data.files import reading
from compressive_transformer.errors import UsageError

FILE = re.compile(r"wiki\.(train|valid|test)\.tokens(\.(xz|gz|bz2))?$")


class WikiText:
    """A folder with ``wiki.train.tokens`` and so on, packed or not.

    Args:
        name: to tell of.
        words: of each part, ends of lines among them, as published.
        unknown: how many of them are ``<unk>``, which tells WikiText-2 from WikiText-103; where known.
    """

    utf8 = True
    line_ends_count = True

    def __init__(self, name: str, words: dict[str, int], unknown: dict[str, int]):
        self.name, self.words, self.unknown = name, words, unknown

    def find(self, source: str, work: Path, *, part: bool) -> Files:
        folder, found = folder_of(source), Files()
        with reading(source):
            paths = sorted(folder.iterdir())
        for path in paths:
            if match := FILE.search(path.name):
                if before := found.get(match[1]):
                    raise UsageError(f"{folder} has {before[0].path.name} and {path.name}; leave one there")
                found[match[1]] = [Found(path=path)]
        if not found:
            raise UsageError(f"{folder} has no wiki.train.tokens and so on; give the folder of {self.name}")
        if part:
            check_overlap(found)
        return found

    def lacks(self, split: str, files: Sequence[Found], counts: Counts) -> str | None:
        words, expected = counts.num_words + counts.lines, self.words[split]
        if words != expected:
            return f"{words:,} words and ends of lines, not {expected:,}"
        expected = self.unknown.get(split, counts.unknown)
        return None if counts.unknown == expected else f"{counts.unknown:,} words are <unk>, not {expected:,}"

    def official_words(self, split: str) -> int | None:
        return self.words[split]


WIKITEXT_103 = WikiText(
    "wikitext-103",
    words={"train": 103_227_021, "valid": 217_646, "test": 245_569},
    unknown={"valid": 1_657, "test": 2_492},
)
WIKITEXT_2 = WikiText(
    "wikitext-2",
    words={"train": 2_088_628, "valid": 217_646, "test": 245_569},
    unknown={"valid": 11_718, "test": 15_218},
)
