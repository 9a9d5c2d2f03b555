"""Reading the project's Markdown: code blocks, tables, links, headings."""

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block; prints as where it stands."""

    file: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def pages() -> list[Path]:
    return [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[Block]:
    return [block for page in pages() for block in _blocks(page) if block.language == language]


def links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables(page: Path, marker: str) -> list[tuple[str, list[list[str]]]]:
    """For each comment that begins with `marker`: what follows it, and the rows of the table below."""
    found = re.findall(rf"^<!-- {marker}:? ?(\S*) -->\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    return [(given, [_cells(line) for line in table.splitlines()[2:]]) for given, table in found]


def code(cell: str) -> list[str]:
    """The words of a cell that are set as code."""
    return re.findall(r"`([^`]+)`", cell)


def _blocks(page: Path) -> list[Block]:
    text, name = page.read_text(), str(page.relative_to(CHECKOUT))
    return [Block(name, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in _FENCE.finditer(text)]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
