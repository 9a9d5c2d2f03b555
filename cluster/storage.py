"""One storage root behind pyarrow.fs: a local directory, NFS or S3, with the same rules.

Paths inside a root are relative, with `/`. `write_atomic` is what makes rule 3 hold: on a
local root it writes beside the target, flushes to disk and renames; on an object store a
single put is atomic by itself.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import parse_qs, urlsplit

from pyarrow import fs

from cluster.errors import ConfigError, NotFoundError, StorageError, one_of

_CHUNK = 4 * 1024 * 1024
FULL = "storage.full"
_SCHEMES = ("file", "s3")
_S3_TYPES: dict[str, Callable[[str], object]] = {
    "connect_timeout": float,
    "request_timeout": float,
    "anonymous": lambda text: text.lower() == "true",
    "force_virtual_addressing": lambda text: text.lower() == "true",
}


class _Sink(Protocol):
    def write(self, data: memoryview, /) -> object: ...


class Storage:
    """A root and what may be done below it. Cheap to build; holds no open files.

    `s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=…` takes its keys
    from the environment, as pyarrow's S3FileSystem does.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._base = _open(url)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return (Storage, (self.url,))

    @property
    def is_local(self) -> bool:
        """Whether files below this root can be opened by path on this machine."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def local_path(self, path: str) -> Path:
        """The file system path of `path`; raises StorageError on an object store."""
        if not self.is_local:
            raise StorageError(
                f"`{self.url}` is not on this machine's disk.",
                code="storage.not_local",
                hint="Fetch it with `download_dir` first.",
            )
        return Path(self._absolute(path))

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return bool(self._info(path).type != fs.FileType.NotFound)

    def is_dir(self, path: str) -> bool:
        """Whether `path` is a directory (or a non-empty prefix)."""
        return bool(self._info(path).type == fs.FileType.Directory)

    def size(self, path: str) -> int:
        """Bytes of one file. Raises NotFoundError."""
        info = self._info(path)
        if info.type != fs.FileType.File:
            raise _missing(self.url, path)
        return int(info.size or 0)

    def list_dirs(self, path: str) -> list[str]:
        """Names of the directories directly below `path`, sorted; empty when it is not there."""
        if self.is_local:
            return self._scan(path, lambda entry: entry.is_dir())
        return sorted(i.base_name for i in self._list(path) if i.type == fs.FileType.Directory)

    def list_dirs_with(self, path: str, name: str) -> list[str]:
        """Names of the directories directly below `path` that hold a file `name`, sorted.

        One listing, however many there are: an object store would need a request for each.
        """
        if self.is_local:
            return self._scan(path, lambda entry: Path(entry.path, name).is_file())
        parts = (file.split("/") for file in self.list_files(path))
        return sorted(part[0] for part in parts if part[1:] == [name])

    def list_files(self, path: str, *, recursive: bool = True) -> list[str]:
        """Paths of the files below `path`, relative to it, sorted."""
        prefix = self._absolute(path).rstrip("/") + "/"
        found = self._list(path, recursive=recursive)
        return sorted(i.path.removeprefix(prefix) for i in found if i.type == fs.FileType.File)

    def list_modified(self, path: str) -> list[tuple[str, datetime]]:
        """Names directly below `path`, hidden ones too, and when each last changed (UTC).

        An object store knows no such time for a prefix: it reads as now.
        """
        now = datetime.now(UTC)
        return sorted((info.base_name, info.mtime or now) for info in self._list(path))

    def read_bytes(self, path: str) -> bytes:
        """The whole of a file. Raises NotFoundError."""
        with self.open_input(path) as stream:
            return stream.read()

    def read_from(self, path: str, offset: int) -> bytes:
        """The bytes of a file beyond its first `offset`; none where it has no more. Raises NotFoundError."""
        size = self.size(path)
        if size <= offset:
            return b""
        with self._guard(path), self._fs.open_input_file(self._absolute(path)) as file:
            file.seek(offset)
            return bytes(file.read(size - offset))

    @contextmanager
    def open_input(self, path: str) -> Iterator[BinaryIO]:
        """Stream a file. Raises NotFoundError when it is absent."""
        try:
            stream = self._fs.open_input_stream(self._absolute(path))
        except FileNotFoundError:
            raise _missing(self.url, path) from None
        except OSError as error:
            raise _explain(error, self.url, path) from error
        with self._guard(path), stream:
            yield stream

    @contextmanager
    def located(self, path: str) -> Iterator[tuple[fs.FileSystem, str]]:
        """pyarrow's file system and the path on it, for its own readers; their errors become StorageError."""
        with self._guard(path):
            yield self._fs, self._absolute(path)

    def sha256(self, path: str) -> str:
        """Hex digest of a file's bytes, read in chunks."""
        digest = hashlib.sha256()
        with self.open_input(path) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def write_atomic(self, path: str, data: bytes | memoryview) -> str:
        """Write `path` so that a reader sees the old bytes or the new, never a part.

        Returns the sha256 of what was written, as hex. A memoryview must be contiguous.
        """
        with self._guard(path):
            if self.is_local:
                return _write_local(Path(self._absolute(path)), data)
            with self._fs.open_output_stream(self._absolute(path)) as stream:
                return _write_hashed(stream, data)

    def append_line(self, path: str, line: bytes) -> None:
        """Add one line; after a line that a crash cut short it starts a new one.

        An object store cannot append: there the file is written anew.
        """
        if not self.is_local:
            earlier = self.read_bytes(path) if self.exists(path) else b""
            self.write_atomic(path, earlier + line + b"\n")
            return
        with self._guard(path):
            target = Path(self._absolute(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab+") as file:
                file.seek(max(0, file.tell() - 1))
                torn = file.read(1) not in (b"", b"\n")
                file.write((b"\n" if torn else b"") + line + b"\n")

    def make_dirs(self, path: str) -> None:
        """Create a directory and its parents."""
        with self._guard(path):
            self._fs.create_dir(self._absolute(path), recursive=True)

    def upload_file(self, source: Path, path: str) -> None:
        """Copy a local file to `path`, flushed to disk on a local root."""
        with self._guard(path):
            if self.is_local:
                target = Path(self._absolute(path))
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open("rb") as reader, target.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, _CHUNK)
                    writer.flush()
                    os.fsync(writer.fileno())
                return
            with source.open("rb") as reader, self._fs.open_output_stream(self._absolute(path)) as out:
                shutil.copyfileobj(reader, out, _CHUNK)

    def download_dir(self, path: str, target: Path) -> None:
        """Copy every file below `path` into the local directory `target`."""
        for name in self.list_files(path):
            destination = target / name
            with self.open_input(f"{path}/{name}") as reader, _translated(str(target), name):
                destination.parent.mkdir(parents=True, exist_ok=True)
                with destination.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, _CHUNK)

    def rename(self, source: str, target: str) -> None:
        """Move a directory or file; atomic on a local root only."""
        with self._guard(target):
            self._fs.create_dir(os.path.dirname(self._absolute(target)), recursive=True)
            self._fs.move(self._absolute(source), self._absolute(target))

    def delete_file(self, path: str) -> None:
        """Remove one file; absent is fine."""
        with self._guard(path), suppress(FileNotFoundError):
            self._fs.delete_file(self._absolute(path))

    def delete_dir(self, path: str) -> None:
        """Remove a directory and all below it, read-only files too; absent is fine."""
        if not self.exists(path):
            return
        with self._guard(path):
            if self.is_local:
                make_writable(Path(self._absolute(path)))
            self._fs.delete_dir(self._absolute(path))

    def free_bytes(self) -> int | None:
        """Room left below a local root; None where the question has no answer (S3)."""
        if not self.is_local:
            return None
        probe = Path(self._base)
        while not probe.exists():
            probe = probe.parent
        return shutil.disk_usage(probe).free

    def _absolute(self, path: str) -> str:
        clean = path.strip("/")
        if ".." in clean.split("/"):
            raise StorageError(f"`{path}` leaves the storage root.", code="storage.path")
        return f"{self._base}/{clean}" if clean else self._base

    def _info(self, path: str) -> fs.FileInfo:
        with self._guard(path):
            return self._fs.get_file_info(self._absolute(path))

    def _list(self, path: str, *, recursive: bool = False) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self._absolute(path), recursive=recursive, allow_not_found=True)
        with self._guard(path):
            return list(self._fs.get_file_info(selector))

    def _scan(self, path: str, fits: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        # Unlike pyarrow's, this listing asks for no entry's details: one that goes meanwhile is still told.
        with self._guard(path), suppress(FileNotFoundError), os.scandir(self._absolute(path)) as entries:
            return sorted(entry.name for entry in entries if fits(entry))
        return []

    def _guard(self, path: str) -> AbstractContextManager[None]:
        return _translated(self.url, path)


def make_read_only(directory: Path) -> None:
    """Take the write bits off every file and directory below `directory`, itself included."""
    for current, _, names in os.walk(directory):
        for name in names:
            os.chmod(Path(current) / name, 0o444)
        os.chmod(current, 0o555)


def make_writable(directory: Path) -> None:
    """Give the owner back the right to change what `make_read_only` closed."""
    for current, _, _ in os.walk(directory):
        os.chmod(current, 0o755)


def fsync_dir(directory: Path) -> None:
    """Flush a directory's entries, so that a rename inside it survives a power cut. Raises StorageError."""
    with _translated(str(directory.parent), directory.name):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _open(url: str) -> tuple[fs.FileSystem, str]:
    if "://" not in url:
        return fs.LocalFileSystem(), str(Path(url).expanduser().resolve())
    parts = urlsplit(url)
    if parts.scheme == "file":
        return fs.LocalFileSystem(), parts.path.rstrip("/") or "/"
    if parts.scheme == "s3":
        return _open_s3(url, parts.query), f"{parts.netloc}{parts.path}".rstrip("/")
    raise ConfigError(
        f"`{url}` has the scheme `{parts.scheme}`.",
        code="storage.scheme",
        hint=f"Accepted: a path, or one of {one_of(_SCHEMES)}.",
    )


def _open_s3(url: str, query: str) -> fs.FileSystem:
    given = {key: values[-1] for key, values in parse_qs(query).items()}
    try:
        return fs.S3FileSystem(**{key: _S3_TYPES.get(key, str)(value) for key, value in given.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`{url}` has an option that S3 storage does not take: {error}.",
            code="storage.option",
            hint="Accepted are the arguments of pyarrow.fs.S3FileSystem, such as region.",
        ) from None


def _write_hashed(sink: _Sink, data: bytes | memoryview) -> str:
    digest, view = hashlib.sha256(), memoryview(data).cast("B")
    for start in range(0, view.nbytes, _CHUNK):
        chunk = view[start : start + _CHUNK]
        digest.update(chunk)
        sink.write(chunk)
    return digest.hexdigest()


def _write_local(target: Path, data: bytes | memoryview) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as writer:
            digest = _write_hashed(writer, data)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(beside, target)
        fsync_dir(target.parent)
        return digest
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _translated(url: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, url, path) from error


def _missing(url: str, path: str) -> NotFoundError:
    return NotFoundError(f"There is no `{path}` below {url}.", code="storage.not_found")


def _explain(error: OSError, url: str, path: str) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk below {url} is full (writing `{path}`).",
            code=FULL,
            hint="Free some room (`linnet models gc`) and run the same command again.",
            retryable=True,
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"`{path}` below {url} may not be written.", code="storage.denied")
    return StorageError(f"`{path}` below {url}: {error}", code="storage.failed", retryable=True)
