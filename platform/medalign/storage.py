"""URIs: local paths, file://, s3:// and gs:// behind one set of verbs, on pyarrow's filesystems."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pyarrow import fs

from medalign.errors import StorageError

SCHEMES = ("file", "s3", "gs")


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return (filesystem, path) of a URI. A path without a scheme is a local path.

    Credentials and a custom S3 endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    Raises:
        StorageError: an empty URI, or a scheme that is not file, s3 or gs.
    """
    if not uri:
        raise StorageError("an empty URI; give a path, file://, s3:// or gs://.")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    if scheme not in SCHEMES:
        raise StorageError(f"{uri}: the scheme {scheme}:// is not supported; use file://, s3:// or gs://.")
    if scheme == "file":
        return fs.LocalFileSystem(), rest
    if scheme == "s3":
        return _s3(), rest.rstrip("/")
    return fs.GcsFileSystem(), rest.rstrip("/")


def _s3() -> fs.S3FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, separator, host = endpoint.partition("://")
    return fs.S3FileSystem(
        endpoint_override=host if separator else None,
        scheme=scheme if separator else "https",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        connect_timeout=10,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=5),
    )


def join(uri: str, *parts: str) -> str:
    """Join a URI and relative parts with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """Return a URI that means the same in every process: local paths are made absolute."""
    filesystem, path = resolve(uri)
    return path if isinstance(filesystem, fs.LocalFileSystem) else uri


def is_local(uri: str) -> bool:
    """Tell whether a URI names the local filesystem."""
    return "://" not in uri or uri.startswith("file://")


def exists(uri: str) -> bool:
    """Tell whether a file or a folder is there."""
    filesystem, path = resolve(uri)
    with _named(uri):
        return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    """Return a file's content."""
    with open_input(uri) as stream:
        return stream.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file: complete or absent (local files are written aside and renamed)."""
    with open_output(uri) as stream:
        stream.write(data)


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """Open a file for reading, with random access."""
    filesystem, path = resolve(uri)
    with _named(uri):
        stream = filesystem.open_input_file(path)
    with stream:
        yield stream


@contextlib.contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """Open a file for writing; it appears under its name only when the block ends without an exception."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        with _named(uri):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            aside = Path(f"{path}.{uuid.uuid4().hex[:8]}.part")
            stream = open(aside, "wb")
        try:
            with stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        return
    with _named(uri):
        stream = filesystem.open_output_stream(path)
    try:
        yield stream
    except BaseException:
        stream.abort() if hasattr(stream, "abort") else None
        raise
    with _named(uri):
        stream.close()


def list_files(uri: str, *, recursive: bool = True) -> list[str]:
    """Return the URIs of the files under a folder, sorted; a missing folder has none."""
    return list(list_sizes(uri, recursive=recursive))


def list_sizes(uri: str, *, recursive: bool = True) -> dict[str, int]:
    """Return the sizes in bytes of the files under a folder, sorted by URI; a missing folder has none."""
    filesystem, path = resolve(uri)
    with _named(uri):
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    prefix = path.rstrip("/") + "/"
    files = (info for info in infos if info.type == fs.FileType.File)
    return dict(sorted((join(uri, info.path.removeprefix(prefix)), info.size or 0) for info in files))


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly under a folder, sorted."""
    filesystem, path = resolve(uri)
    with _named(uri):
        infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


def delete_file(uri: str) -> None:
    """Delete one file; a missing one is fine."""
    filesystem, path = resolve(uri)
    with contextlib.suppress(FileNotFoundError), _named(uri):
        filesystem.delete_file(path)


def delete_folder(uri: str) -> None:
    """Delete a folder with everything in it; a missing one is fine."""
    filesystem, path = resolve(uri)
    if exists(uri):
        with _named(uri):
            filesystem.delete_dir(path)


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turn what the filesystem raises into one line that names the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found.") from error
    except OSError as error:
        cause = " ".join(str(error).split())
        raise StorageError(
            f"{uri}: cannot be reached ({cause[:200]}); check the address and the credentials."
        ) from error
