"""The verbs: the same for local files, s3:// and gs://."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from pyarrow import fs

from medalign.errors import NotFoundError, StorageError
from medalign.storage import local_files, s3_objects
from medalign.storage.remote_files import RemoteFiles
from medalign.storage.s3_objects import Upload
from medalign.storage.uris import join, split
from medalign.storage.version import Version

COPIED_AT_ONCE = 8 * 1024 * 1024


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return (filesystem, path) of a URI. A path without a scheme is a local path.

    The filesystem of an object store tries every request again and may be pickled: it holds neither address nor
    credentials, each process reads its own (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).

    Raises:
        StorageError: an empty URI, or a scheme that is not file, s3 or gs.
    """
    scheme, path = split(uri)
    return (fs.LocalFileSystem() if scheme == "file" else fs.PyFileSystem(RemoteFiles(scheme))), path


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


def read_version(uri: str) -> Version:
    """Return a file's content, its version's tag and its age.

    Raises:
        StorageError: it cannot be read; NotFoundError where there is none.
    """
    scheme, path = split(uri)
    if scheme == "file":
        with _named(uri):
            return local_files.read(path)
    _need_conditions(scheme, uri)
    return s3_objects.read(uri)


def write_new(uri: str, data: bytes) -> str:
    """Write a file that is not there yet, and return its version's tag; of several writers one succeeds.

    Raises:
        ConflictError: it is there.
        StorageError: it cannot be written.
    """
    return _put(uri, data, is_new=True)


def replace_version(uri: str, data: bytes, tag: str) -> str:
    """Write a file that is still of the version `tag`, and return its new tag; of several writers one succeeds.

    Raises:
        ConflictError: it is of another version, or gone.
        StorageError: it cannot be written.
    """
    return _put(uri, data, tag=tag)


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
    scheme, path = split(uri)
    if scheme == "file":
        with contextlib.ExitStack() as stack:
            with _named(uri):
                stream = stack.enter_context(local_files.writing(path))
            yield stream  # what goes wrong from here on, a full disk say, is the writer's to explain
        return
    if scheme == "gs":
        with _named(uri), fs.GcsFileSystem().open_output_stream(path) as stream:
            yield stream
        return
    upload = Upload(uri)
    try:
        yield cast(BinaryIO, upload)
    except BaseException:
        upload.abort()
        raise
    upload.close()


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
    with contextlib.suppress(NotFoundError), _named(uri):
        filesystem.delete_file(path)


def delete_folder(uri: str) -> None:
    """Delete a folder with everything in it; a missing one is fine."""
    filesystem, path = resolve(uri)
    if exists(uri):
        with contextlib.suppress(NotFoundError), _named(uri):
            filesystem.delete_dir(path)


def copy_folder(uri: str, to: str) -> list[str]:
    """Copy every file under a folder to another place, and return the URIs of the copies."""
    copies = []
    for file in list_files(uri):
        copies.append(join(to, file.removeprefix(join(uri, ""))))
        with open_input(file) as source, open_output(copies[-1]) as sink:
            while piece := source.read(COPIED_AT_ONCE):
                sink.write(piece)
    return copies


def _put(uri: str, data: bytes, *, is_new: bool = False, tag: str | None = None) -> str:
    scheme, path = split(uri)
    if scheme == "file":
        with _named(uri):
            return local_files.put(path, data, is_new=is_new, tag=tag)
    _need_conditions(scheme, uri)
    return s3_objects.put(uri, data, is_new=is_new, tag=tag)


def _need_conditions(scheme: str, uri: str) -> None:
    if scheme == "gs":
        raise StorageError(f"{uri}: writes on condition are not available for gs://; use s3:// or a shared folder.")


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turn what the filesystem raises into one line that names the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{uri}: not found.") from error
    except OSError as error:
        cause = " ".join(str(error).split())
        raise StorageError(
            f"{uri}: cannot be reached ({cause[:200]}); check the address and the credentials."
        ) from error
