"""URIs: local paths, file://, s3:// and gs:// behind one set of verbs; patient with object stores; locks of runs."""

from medalign.storage.files import (
    copy_folder,
    delete_file,
    delete_folder,
    exists,
    list_files,
    list_folders,
    list_sizes,
    open_input,
    open_output,
    read_bytes,
    read_version,
    replace_version,
    resolve,
    write_bytes,
    write_new,
)
from medalign.storage.retries import Patience, counts, patience
from medalign.storage.uris import SCHEMES, absolute, is_local, join
from medalign.storage.version import Version

__all__ = [
    "SCHEMES",
    "Patience",
    "Version",
    "absolute",
    "copy_folder",
    "counts",
    "delete_file",
    "delete_folder",
    "exists",
    "is_local",
    "join",
    "list_files",
    "list_folders",
    "list_sizes",
    "open_input",
    "open_output",
    "patience",
    "read_bytes",
    "read_version",
    "replace_version",
    "resolve",
    "write_bytes",
    "write_new",
]
