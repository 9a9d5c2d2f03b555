"""The human-rated snippets of Hutto and Gilbert (ICWSM 2014), and how they become three splits."""

from __future__ import annotations

import hashlib
import html
import io
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import IntegrityError

REQUIREMENT = "vaderSentiment==3.3.2"
CITATION = "Hutto and Gilbert, VADER, ICWSM 2014; distributed in the source archive of " + REQUIREMENT
LICENSE = "MIT"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"

SOURCES = {
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
LABELS = ("negative", "positive")
MINIMUM_RATING = 1.0
# A system message of ours takes the place of the template's own, which is longer: a third fewer tokens a row.
INSTRUCTION = "Is this text positive or negative? Answer with one word."

_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"


@dataclass(frozen=True, slots=True)
class Snippet:
    """One rated text; `rating` is the mean of 20 people's, from -4 to 4."""

    id: str
    source: str
    text: str
    rating: float

    @property
    def label(self) -> str:
        """`positive` or `negative`."""
        return LABELS[self.rating > 0]

    @property
    def other_label(self) -> str:
        """The label that is wrong."""
        return LABELS[self.rating <= 0]

    @property
    def key(self) -> str:
        """The words alone, in lower case: snippets that agree in it count as the same text."""
        return " ".join(re.findall(r"\w+", self.text.casefold())) or self.text.strip()


def read_snippets(package: Path) -> list[Snippet]:
    """All snippets in the source archive `package`, in file order.

    Raises IntegrityError when the package does not hold the archive, or another one.
    """
    try:
        with tarfile.open(package) as outer:
            inner = _member(outer, f"/{_ARCHIVE}")
        digest = hashlib.sha256(inner).hexdigest()
        if digest != ARCHIVE_SHA256:
            raise _damaged(package, f"{_ARCHIVE} has the sha256 {digest[:12]}…")
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            files = {source: _member(archive, f"/{name}") for source, name in SOURCES.items()}
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise _damaged(package, str(error)) from None
    return [snippet for source, data in files.items() for snippet in _parse(source, data)]


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.name.endswith(ending) and (stream := archive.extractfile(member)):
            return stream.read()
    raise KeyError(f"no {ending[1:]} in it")


def _damaged(package: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{package} is not the package that was expected: {what}.",
        code="data.package_damaged",
        hint="Delete that file and run the same command again.",
    )


def _parse(source: str, data: bytes) -> Iterable[Snippet]:
    for line in filter(None, data.decode("utf-8").split("\r\n")):
        number, rating, text = line.split("\t", 2)
        yield Snippet(f"{source}-{number}", source, html.unescape(text).strip(), float(rating))


def clear_and_distinct(snippets: Iterable[Snippet]) -> list[Snippet]:
    """Those with a clear rating, one of each text; a text that people rated both ways is left out."""
    groups: dict[str, list[Snippet]] = defaultdict(list)
    for snippet in snippets:
        if abs(snippet.rating) >= MINIMUM_RATING and snippet.text:
            groups[snippet.key].append(snippet)
    return [group[0] for group in groups.values() if len({snippet.label for snippet in group}) == 1]


def split(snippets: Iterable[Snippet], *, seed: int, held_out_per_label: int) -> dict[str, list[Snippet]]:
    """`train`, `validation` and `test`, the latter two with `held_out_per_label` of each label.

    The order is that of a hash of the seed and the text, so it depends on nothing else.
    """
    taken: Counter[str] = Counter()
    splits: dict[str, list[Snippet]] = {"train": [], "validation": [], "test": []}
    for snippet in sorted(snippets, key=lambda snippet: _rank(snippet, seed)):
        place = taken[snippet.label] // held_out_per_label
        taken[snippet.label] += 1
        splits[("test", "validation", "train")[min(place, 2)]].append(snippet)
    return splits


def _rank(snippet: Snippet, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{snippet.key}".encode()).hexdigest()
