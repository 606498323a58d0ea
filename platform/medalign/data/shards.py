"""A shard: rows to one Parquet file with bounded row groups, and its record for the manifest. Pure but for the file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from medalign import storage
from medalign.data.manifest import Shard

ROW_GROUP_BYTES = 32 * 1024 * 1024
ENCODED = ("image", "mask")  # already compressed


def name(split: str, index: int) -> str:
    """Return a shard's path within its corpus."""
    return f"{split}/part-{index:05d}.parquet"


def write(uri: str, path: str, rows: pa.Table, *, row_group_rows: int) -> Shard:
    """Write rows (columns as `manifest.columns_of`) as one Parquet file; the same rows give the same bytes.

    Args:
        uri: the corpus.
        path: the shard's path within it.
        rows: at least one row.
        row_group_rows: most rows of a row group; it is also closed before it holds more than 32 MiB of images.
    """
    sink = io.BytesIO()
    sizes = tuple(_row_groups(rows, row_group_rows))
    with pq.ParquetWriter(
        sink,
        rows.schema,
        compression=_compression(rows.schema),
        use_dictionary=["label", "modality", "body_part"],
        write_statistics=["id", "label"],
        store_schema=True,
    ) as writer:
        start = 0
        for size in sizes:
            writer.write_table(rows.slice(start, size), row_group_size=size)
            start += size
    data = sink.getvalue()
    storage.write_bytes(storage.join(uri, path), data)
    return Shard(
        path=path,
        rows=rows.num_rows,
        row_groups=sizes,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        ranges=hash_ranges(data),
    )


def hash_ranges(data: bytes) -> tuple[tuple[int, int, str], ...]:
    """Return (offset, length, sha256) of a shard's row groups, in order, and of everything behind the last one."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    starts, last = [], 0
    for number in range(metadata.num_row_groups):
        columns = [metadata.row_group(number).column(i) for i in range(metadata.num_columns)]
        offsets = [c.dictionary_page_offset or c.data_page_offset for c in columns]
        starts.append(min(offsets))
        last = max(at + c.total_compressed_size for at, c in zip(offsets, columns, strict=True))
    edges = [*starts, last, len(data)]
    pairs = zip(edges, edges[1:], strict=False)
    return tuple((low, high - low, hashlib.sha256(data[low:high]).hexdigest()) for low, high in pairs)


def read(uri: str, shard: Shard) -> pa.Table:
    """Return a shard's rows."""
    with storage.open_input(storage.join(uri, shard.path)) as stream:
        return pq.read_table(stream)


def _compression(columns: pa.Schema) -> dict[str, str]:
    """Return how each column is compressed; a column of lists is named by its leaves as well."""
    found = {field.name: "none" if field.name in ENCODED else "zstd" for field in columns}
    for field in columns:
        if pa.types.is_list(field.type):
            inner = field.type.value_type
            names = [f".{leaf.name}" for leaf in inner] if pa.types.is_struct(inner) else [""]
            found |= {f"{field.name}.list.element{name}": "zstd" for name in names}
    return found


def _row_groups(rows: pa.Table, most: int) -> Iterator[int]:
    count = size = 0
    for length in pa.compute.binary_length(rows["image"]).to_pylist():
        if count == most or (count and size + length > ROW_GROUP_BYTES):
            yield count
            count = size = 0
        count += 1
        size += length
    if count:
        yield count
