"""A source archive laid out like the real one, with as many snippets as a test wants."""

from __future__ import annotations

import hashlib
import io
import tarfile

from train_jobs.data.sentiment import SOURCES


def _tar(files):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def write_package(path, snippets):
    """Write `{source: [(rating, text), ...]}`; returns the inner archive's sha256."""
    tables = {}
    for source, name in SOURCES.items():
        rows = snippets.get(source, [])
        lines = [f"{number}\t{rating}\t{text}\r\n" for number, (rating, text) in enumerate(rows, 1)]
        tables[f"hutto_ICWSM_2014/{name}"] = "".join(lines).encode()
    inner = _tar(tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_tar({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    return hashlib.sha256(inner).hexdigest()


def many_snippets(count=60):
    """`count` clear snippets, half of each label, over two sources, and one unclear one."""
    rows = [(2.5 if n % 2 else -1.5, f"snippet number {n}") for n in range(count)]
    return {"tweets": rows[::3], "movies": [*rows[1::3], *rows[2::3], (0.5, "so so")]}
