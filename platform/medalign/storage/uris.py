"""URIs: which scheme, which bucket and key; joining them. Pure but for the current folder."""

from __future__ import annotations

import os

from medalign.errors import StorageError

SCHEMES = ("file", "s3", "gs")


def split(uri: str) -> tuple[str, str]:
    """Return (scheme, path): of an object store `bucket/key`, of a local file an absolute path.

    Raises:
        StorageError: an empty URI, a scheme that is not file, s3 or gs, or something in it that does not belong there.
    """
    if not uri:
        raise StorageError("an empty URI; give a path, file://, s3:// or gs://.")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "file", os.path.abspath(os.path.expanduser(uri))
    if scheme not in SCHEMES:
        raise StorageError(f"{uri}: the scheme {scheme}:// is not supported; use file://, s3:// or gs://.")
    if scheme == "file":
        return scheme, rest
    bucket, _, key = rest.partition("/")
    if "@" in bucket:  # the text is not repeated: it holds a secret
        raise StorageError(
            f"a {scheme}:// URI with a key and a secret in it, which would be written into every recipe and log;"
            " give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as AWS_PROFILE."
        )
    if "?" in bucket or "?" in key:
        raise StorageError(
            f"{uri.partition('?')[0]}: an address after ? is not read;"
            " name the server by AWS_ENDPOINT_URL=http://host:port."
        )
    if not bucket:
        raise StorageError(f"{uri}: no bucket; write {scheme}://bucket/key.")
    return scheme, rest.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Join a URI and relative parts with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """Return a URI that means the same in every process: local paths are made absolute."""
    scheme, path = split(uri)
    return path if scheme == "file" else uri


def is_local(uri: str) -> bool:
    """Tell whether a URI names the local filesystem."""
    return "://" not in uri or uri.startswith("file://")
