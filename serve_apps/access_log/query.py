"""Finding rows: newest first, from the days and versions that can hold them and from the spools."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from cluster.errors import IntegrityError, UsageError
from cluster.storage import Storage
from serve_apps.access_log import files, spool

_STATUS = re.compile(r"[1-5]xx|[1-5]\d\d")
_HIVE = ds.partitioning(
    pa.schema([("day", pa.string()), ("model", pa.string()), ("version", pa.string())]), flavor="hive"
)


@dataclass(frozen=True)
class Wanted:
    """Which rows; what is None or empty does not matter. `until` itself is left out.

    `status` is `404` or `5xx`; `key` the beginning of a key's hash.
    """

    model: str | None = None
    version: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: str = ""
    request_id: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if self.status and not _STATUS.fullmatch(self.status):
            raise UsageError(
                f"`{self.status}` is not a status.", code="usage.status", hint="Write 404 or 5xx."
            )

    def fits(self) -> ds.Expression:
        """The rows as a condition of pyarrow's."""
        low = int(self.status[:1] or 0) * 100 if self.status.endswith("xx") else int(self.status or 0)
        high = low + 99 if self.status.endswith("xx") else low
        conditions = [
            (self.model, pc.field("model") == self.model),
            (self.version, pc.field("version") == self.version),
            (self.since, pc.field("at") >= pa.scalar(self.since, files.AT)),
            (self.until, pc.field("at") < pa.scalar(self.until, files.AT)),
            (self.status, (pc.field("status") >= low) & (pc.field("status") <= high)),
            (self.request_id, pc.field("request_id") == self.request_id),
            (self.key, pc.starts_with(pc.field("key_hash"), self.key)),
        ]
        found = pc.scalar(True)
        for asked, condition in conditions:
            found = found & condition if asked else found
        return found

    def covers(self, day: date) -> bool:
        """Whether the day can have such rows."""
        begins = datetime.combine(day, time(), UTC)
        starts_early = self.until is None or begins < self.until
        return starts_early and (self.since is None or self.since < begins + timedelta(days=1))


class AccessLogs:
    """The log's files on a storage root and the spools of this machine."""

    def __init__(self, storage: Storage, spools: Path) -> None:
        self._storage = storage
        self._spools = spools

    def models(self) -> list[str]:
        """Models that have rows."""
        spooled = pc.unique(self._spooled()[1]["model"]).to_pylist()
        stored = [
            name.removeprefix("model=")
            for day in files.days(self._storage)
            for name in self._storage.list_dirs(files.folder_of(day))
        ]
        return sorted({*spooled, *stored})

    def newest(self, wanted: Wanted, limit: int) -> pa.Table:
        """The latest `limit` rows, latest first; stops at the day that has enough."""
        found = files.SCHEMA.empty_table()
        for tables in self.by_day(wanted, files.SCHEMA.names):
            for rows in tables:
                found = pa.concat_tables([found, rows]).sort_by([("at", "descending")]).slice(0, limit)
            if found.num_rows >= limit:
                break
        return found

    def by_day(self, wanted: Wanted, columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
        """The rows of one day after the other, latest day first, each in tables of a bounded size."""
        # Spools come first: one that is settled meanwhile is then read twice, and known by its name.
        names, spooled = self._spooled()
        spooled = spooled.filter(wanted.fits())
        dates = pc.cast(spooled["at"], pa.date32())
        days = {*files.days(self._storage), *pc.unique(dates).to_pylist()}
        for day in sorted(days, reverse=True):
            if wanted.covers(day):
                here = spooled.filter(pc.equal(dates, pa.scalar(day))).select(columns)
                yield chain([here], self._stored(day, wanted, columns, names))

    def _spooled(self) -> tuple[set[str], pa.Table]:
        names, tables = set(), [files.SCHEMA.empty_table()]
        for name, lines in spool.everything(self._spools):
            names.add(name)
            tables.append(files.read(lines))
        return names, pa.concat_tables(tables)

    def _stored(
        self, day: date, wanted: Wanted, columns: Sequence[str], known: set[str]
    ) -> Iterator[pa.Table]:
        paths = files.files_of(self._storage, day, wanted.model, wanted.version)
        paths = [path for path in paths if PurePosixPath(path).stem not in known]
        if not paths:
            return
        with _intact(), self._storage.located(files.FOLDER) as (filesystem, folder):
            found = ds.dataset(
                [f"{folder}/{path.removeprefix(files.FOLDER + '/')}" for path in paths],
                schema=files.SCHEMA,
                format="parquet",
                filesystem=filesystem,
                partitioning=_HIVE,
                partition_base_dir=folder,
            )
            for batch in found.to_batches(columns=list(columns), filter=wanted.fits()):
                yield pa.Table.from_batches([batch])


@contextmanager
def _intact() -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise IntegrityError(
            f"A file of the access log is damaged: {error}",
            code="serve.log_damaged",
            hint="Move it away, or ask for other days or versions.",
        ) from error
