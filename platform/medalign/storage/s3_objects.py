"""Writing S3 objects with boto3: whole or not at all, in parts where they are long, and on conditions."""

from __future__ import annotations

import email.utils
import io
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from medalign.errors import OutageError
from medalign.storage import failures, uris
from medalign.storage.failures import Kind
from medalign.storage.retries import REQUEST, UPLOAD_PART, Patience, attempt
from medalign.storage.s3_access import access
from medalign.storage.version import Version

T = TypeVar("T")
PART = 16 * 1024 * 1024
PARTS_OF_A_SIZE = 1000  # then parts grow: a server takes at most 10,000 of them
WRITER = "medalign-writer"  # metadata that tells an own write, whose answer was lost, from another's


def read(uri: str) -> Version:
    """Return an object with its version.

    Raises:
        StorageError: it cannot be read; NotFoundError where there is none.
    """

    def once(client: Any, where: dict[str, str]) -> Version:
        answer = client.get_object(**where)
        now = email.utils.parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = (now - answer["LastModified"]).total_seconds()
        return Version(data=answer["Body"].read(), tag=answer["ETag"], age=age)

    return _call(uri, once, is_there=False)


def put(uri: str, data: bytes, *, is_new: bool = False, tag: str | None = None) -> str:
    """Write a whole object and return its version's tag; on condition that it is new, or still of one version.

    Raises:
        ConflictError: the condition does not hold.
        StorageError: it cannot be written.
    """
    writer = uuid.uuid4().hex
    condition = {"IfNoneMatch": "*"} if is_new else {"IfMatch": tag} if tag else {}

    def once(client: Any, where: dict[str, str]) -> str:
        return client.put_object(**where, Body=data, Metadata={WRITER: writer}, **condition)["ETag"]

    return _call(uri, _or_already(once, writer), limits=UPLOAD_PART if len(data) > PART else REQUEST)


class Upload(io.RawIOBase):
    """A new object, written from start to end; it is there once `close` returns, and never if `abort` is called."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._writer = uri, uuid.uuid4().hex
        self._buffer, self._upload, self._written = bytearray(), "", 0
        self._parts: list[dict[str, Any]] = []

    def write(self, data: Any) -> int:
        """Take bytes; a full part is sent at once.

        Raises:
            StorageError: the part cannot be written.
        """
        view = memoryview(data).cast("B")
        self._buffer += view
        self._written += len(view)
        while len(self._buffer) >= (size := PART * (1 + len(self._parts) // PARTS_OF_A_SIZE)):
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(view)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def close(self) -> None:
        """Send what is left and make the object appear.

        Raises:
            StorageError: it cannot be written.
        """
        if self.closed:
            return
        try:
            self._finish()
        except BaseException:
            self.abort()
            raise
        super().close()

    def abort(self) -> None:
        """Give the object up; parts that were sent are deleted, or left to the bucket's own rules if that fails."""
        if self.closed:
            return
        super().close()
        upload, self._upload = self._upload, ""
        if upload:
            try:
                _call(
                    self._uri,
                    lambda client, where: client.abort_multipart_upload(**where, UploadId=upload),
                    limits=Patience(tries=3, seconds=20),
                )
            except OutageError:
                return  # what ended the writing is the news, and goes on to the caller

    def __del__(self) -> None:
        self.abort()  # not what files do otherwise: one that nobody closed is not finished

    def _finish(self) -> None:
        if not self._upload:
            data, writer = bytes(self._buffer), self._writer
            _call(self._uri, lambda c, where: c.put_object(**where, Body=data, Metadata={WRITER: writer}))
            return
        if self._buffer:
            self._send(bytes(self._buffer))

        def once(client: Any, where: dict[str, str]) -> str:
            parts = {"Parts": self._parts}
            return client.complete_multipart_upload(**where, UploadId=self._upload, MultipartUpload=parts)["ETag"]

        _call(self._uri, _or_already(once, self._writer), limits=UPLOAD_PART)

    def _send(self, data: bytes) -> None:
        if not self._upload:
            self._upload = _call(
                self._uri,
                lambda client, where: client.create_multipart_upload(
                    **where, Metadata={WRITER: self._writer}, ChecksumAlgorithm="CRC32"
                )["UploadId"],
            )
        number = len(self._parts) + 1
        answer = _call(
            self._uri,
            lambda client, where: client.upload_part(**where, UploadId=self._upload, PartNumber=number, Body=data),
            limits=UPLOAD_PART,
        )
        kept = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
        self._parts.append({"PartNumber": number, **kept})


def _call(
    uri: str, once: Callable[[Any, dict[str, str]], T], *, limits: Patience = REQUEST, is_there: bool = True
) -> T:
    """Make one request about an object, patiently; `is_there` says that a 404 cannot be the whole truth."""
    bucket, _, key = uris.split(uri)[1].partition("/")
    where = {"Bucket": bucket, "Key": key}
    found = access()
    generation = found.generation
    return attempt(
        lambda: once(found.client(), where),
        uri=uri,
        limits=limits,
        renew=lambda: found.renew(generation),
        is_there=is_there,
    )


def _or_already(once: Callable[[Any, dict[str, str]], str], writer: str) -> Callable[[Any, dict[str, str]], str]:
    """Take a refusal of a second try as success, where the first one had written after all and its answer was lost."""
    tries = 0

    def again(client: Any, where: dict[str, str]) -> str:
        nonlocal tries
        tries += 1
        try:
            return once(client, where)
        except failures.caught() as error:
            if tries == 1 or failures.kind_of(error) not in (Kind.CONFLICT, Kind.MISSING):
                raise
            head = client.head_object(**where)
            if head["Metadata"].get(WRITER) != writer:
                raise
            return head["ETag"]

    return again
