"""What went wrong with an object store: worth another try, refused, missing, wrong; and the line that says so."""

from __future__ import annotations

import enum
import re
import sys

from medalign.errors import AccessError, ConflictError, NotFoundError, OutageError, StorageError


class Kind(enum.Enum):
    """What to do about a failure."""

    TRANSIENT = "try again"
    DENIED = "read the credentials anew"
    MISSING = "not there"
    CONFLICT = "someone else was first"
    FINAL = "trying again cannot help"


class ShortReadError(OSError):
    """A body that ends before the length that was asked for."""


_AWS = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_GOOGLE = re.compile(r"google::cloud::Status\((\w+)")
_BUSY = {
    *("NETWORK_CONNECTION", "SLOW_DOWN", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "THROTTLING", "REQUEST_TIMEOUT"),
    *("REQUEST_EXPIRED", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling", "RequestTimeout"),
    *("TooManyRequests", "ConditionalRequestConflict", "OperationAborted", "BadDigest", "IncompleteBody"),
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED"),
}
_THROTTLED = {"SLOW_DOWN", "SERVICE_UNAVAILABLE", "THROTTLING", "SlowDown", "Throttling", "TooManyRequests"}
_REFUSED = {
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT"),
    *("INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION_TOKEN", "INCOMPLETE_SIGNATURE"),
    *("PERMISSION_DENIED", "UNAUTHENTICATED"),
}
_ABSENT = {"NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NoSuchBucket", "NoSuchKey", "NOT_FOUND"}
_WITHOUT_KEYS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
_OUR_FAULT = {"ParamValidationError", "InvalidEndpointURLError", "UnknownSignatureVersionError"}


def caught() -> tuple[type[Exception], ...]:
    """Return the exceptions that an object store's clients raise; boto3's only where it is loaded."""
    botocore = sys.modules.get("botocore.exceptions")
    return (
        (OSError, EOFError) if botocore is None else (OSError, EOFError, botocore.BotoCoreError, botocore.ClientError)
    )


def kind_of(error: BaseException) -> Kind:
    """Return what to do about an error of pyarrow or boto3."""
    if isinstance(error, FileNotFoundError):
        return Kind.MISSING
    if isinstance(error, ShortReadError | TimeoutError | ConnectionError | EOFError):
        return Kind.TRANSIENT
    if type(error).__module__.startswith("botocore") and not isinstance(getattr(error, "response", None), dict):
        name = type(error).__name__
        return Kind.DENIED if name in _WITHOUT_KEYS else Kind.FINAL if name in _OUR_FAULT else Kind.TRANSIENT
    code, status = code_of(error)
    if code in _BUSY or status in (408, 409, 429) or status >= 500:
        return Kind.TRANSIENT
    if code in _ABSENT or status == 404:
        return Kind.MISSING
    if code in _REFUSED or status in (401, 403) or "ExpiredToken" in str(error):
        return Kind.DENIED
    if status == 412:
        return Kind.CONFLICT
    return Kind.TRANSIENT if code == "UNKNOWN" and not status else Kind.FINAL


def is_throttled(error: BaseException) -> bool:
    """Tell whether the store asks for fewer requests, rather than fails."""
    code, status = code_of(error)
    return code in _THROTTLED or status in (429, 503)


def code_of(error: BaseException) -> tuple[str, int]:
    """Return the service's word for an error and the HTTP status, 0 where it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", ""))
        # an error inside a 200, as completing an upload may answer, is an error of the server
        return code, 500 if status == 200 else status
    if found := _AWS.search(str(error)):
        return found[1], int(found[2] or 0)
    found = _GOOGLE.search(str(error))
    return (found[1], 0) if found else ("", 0)


def summary(error: BaseException) -> str:
    """Return an error in a few words, without what a server may have quoted."""
    code, status = code_of(error)
    if code and code != "UNKNOWN":
        return f"{code} {status}" if status and str(status) != code else code
    if status:
        return f"HTTP {status}"
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:120]


def explain(error: BaseException, *, uri: str, tries: int, seconds: float, identity: str) -> StorageError:
    """Return the error that a user sees: the URI (bucket and key), the cause, the way out."""
    if isinstance(error, StorageError):
        return error
    kind, cause = kind_of(error), summary(error)
    if kind is Kind.MISSING:
        if cause.startswith(("NoSuchBucket", "NO_SUCH_BUCKET")):
            return NotFoundError(f"{uri}: not found: no bucket of that name at this address; create it, or correct it.")
        return NotFoundError(f"{uri}: not found.")
    if kind is Kind.DENIED:
        who = f" for {identity}" if identity else ""
        return AccessError(
            f"{uri}: access refused ({cause}){who}; check the address and the credentials: renew them if they have"
            " expired, or allow them this bucket and key."
        )
    if kind is Kind.CONFLICT:
        return ConflictError(f"{uri}: someone else has written it in the meantime; read it again.")
    if kind is Kind.TRANSIENT:
        return OutageError(
            f"{uri}: cannot be reached ({cause}; {tries} tries in {seconds:.0f} s); check the address and the"
            " credentials, then run the same command again."
        )
    return StorageError(f"{uri}: cannot be reached ({cause}); check the address and the credentials.")
