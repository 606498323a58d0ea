"""One way of feeding a model, measured: decode and augment on the given cores, an identity model at the end.

python bench/streams.py WAY FOLDER BATCHES SIZE CORES   prints images per second and CPU milliseconds per image

WAY is one of exact (MedAlign's stream), exact_s3 (the same; FOLDER is a URI on S3), ray_data (Ray Data without its
exactness), data_loader (PyTorch) and web_dataset. FOLDER is what `throughput.py` drew. Every way reads the same JPEGs,
opens them with the same Pillow in as many worker processes as there are cores, one thread each, augments by the same
function, and hands over micro-batches of 64 images with two views. The clock runs from the middle of the stream, which
goes on after it stops: so nothing that was decoded before is counted, nor the end, where nothing is left to decode.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from identity_objective import IdentityModule

from medalign.data.decode import VIEWS, augment, open_image
from medalign.data.settings import Data, Views
from medalign_core.types import DrawKey, ImageBatch

MICRO, WARM = 64, 48  # Ray's workers import for seconds each
FOR_EVER = 1000  # epochs
STORE = 1 << 30


def exact(folder: str, size: int, cores: int) -> Iterator[torch.Tensor]:
    """Yield from the stream that training uses."""
    from medalign.data.batches import BatchStream
    from medalign.data.order import Order
    from medalign.data.reader import RowSource
    from medalign.data.stream import receive, training_dataset

    source = RowSource.open(f"{folder}/corpus", ("train",))
    order = Order(seed=0, row_groups=source.sizes, micro_batch=MICRO, global_batch=2 * MICRO, shuffle_rows=1024)
    stream = BatchStream(order, source, Data(corpus=f"{folder}/corpus", image_size=size), 1)
    _start_ray(cores)
    steps = {"start": 0, "stop": 20 * order.steps_per_epoch}
    (shard,) = training_dataset(stream, **steps).streaming_split(1, equal=True)
    for batch in receive(shard, stream, rank=0, **steps):
        yield batch.images


def ray_data(folder: str, size: int, cores: int) -> Iterator[torch.Tensor]:
    """Yield from read_parquet and map_batches: no order, no seeking, no hashes, no holes."""
    import ray.data

    def decode(block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        draw = itertools.count(time.monotonic_ns())
        views = [_views(data, size, next(draw)) for data in block["image"]]
        return {name: np.stack([view[name] for view in views]) for name in views[0]}

    _start_ray(cores)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = sorted(str(path) for path in Path(folder, "corpus").rglob("*.parquet"))
    dataset = ray.data.read_parquet(shards * 20, columns=["image", "label"]).map_batches(decode, batch_size=MICRO)
    (shard,) = dataset.streaming_split(1, equal=True)
    for arrays in shard.iter_batches(batch_size=MICRO, batch_format="numpy", prefetch_batches=2):
        yield torch.from_numpy(np.array(arrays["images"]))


def data_loader(folder: str, size: int, cores: int) -> Iterator[torch.Tensor]:
    """Yield from a map-style dataset, its encoded images in memory, under a DataLoader."""
    from torch.utils.data import DataLoader, Dataset, RandomSampler

    from medalign.data.reader import read_rows

    class Pictures(Dataset):
        images = [d for b in read_rows(f"{folder}/corpus", "train", ("image",)) for d in b["image"].to_pylist()]

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, i: int) -> dict[str, np.ndarray]:
            return _views(self.images[i], size, time.monotonic_ns())

    data = Pictures()
    sampler = RandomSampler(data, num_samples=FOR_EVER * len(data), replacement=True)
    for arrays in DataLoader(data, MICRO, sampler=sampler, num_workers=cores):
        yield arrays["images"]


def web_dataset(folder: str, size: int, cores: int) -> Iterator[torch.Tensor]:
    """Yield from WebDataset over tar files of the same images."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    def decode(row: dict) -> dict[str, np.ndarray]:
        return _views(row["jpg"], size, time.monotonic_ns())

    shards = sorted(str(path) for path in Path(folder, "tars").glob("*.tar"))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node).shuffle(1024)
    dataset = dataset.repeat(FOR_EVER).map(decode).batched(MICRO, partial=False)
    for arrays in DataLoader(dataset, batch_size=None, num_workers=cores):
        yield torch.as_tensor(arrays["images"])


WAYS = {"exact": exact, "exact_s3": exact, "ray_data": ray_data, "data_loader": data_loader, "web_dataset": web_dataset}


def _views(data: bytes, size: int, key: int) -> dict[str, np.ndarray]:
    image = open_image(data)
    views = [augment(image, size, Views(), key=(key, v)) for v in range(VIEWS)]
    return {
        "images": np.stack([view.pixels for view in views]),
        "boxes": np.array([view.box for view in views], dtype=np.float32),
        "flipped": np.array([view.flipped for view in views]),
    }


def _start_ray(cores: int) -> None:
    import ray

    from medalign.cluster import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=cores, object_store_memory=STORE, **options)


def measure(batches: Iterable[torch.Tensor], count: int) -> dict[str, float]:
    """Feed an identity model and return images per second and CPU milliseconds per image over `count` batches."""
    module = IdentityModule()
    arriving = iter(batches)
    for _ in range(WARM):
        _forward(module, next(arriving))
    since, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(count):
        _forward(module, next(arriving))
    seconds = time.perf_counter() - since
    return {"images_per_second": count * MICRO / seconds, "cpu_ms": 1e3 * (_cpu_seconds() - cpu) / count / MICRO}


def _forward(module: IdentityModule, images: torch.Tensor) -> None:
    size = len(images)
    batch = ImageBatch(
        images=images,
        boxes=torch.zeros(size, VIEWS, 4),
        flipped=torch.zeros(size, VIEWS, dtype=torch.bool),
        valid=torch.ones(size, dtype=torch.bool),
        labels=torch.full((size,), -1),
        ids=torch.arange(size),
        key=DrawKey(0, 0, 0),
    )
    loss, _ = module(batch)
    loss.backward()


def _cpu_seconds() -> float:
    """Return what this process and all that it started have used so far, workers that have ended included."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[5])])
    torch.set_num_threads(1)
    ways = WAYS[sys.argv[1]](sys.argv[2], int(sys.argv[4]), int(sys.argv[5]))
    print(json.dumps(measure(ways, int(sys.argv[3]))), flush=True)
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    os._exit(0)  # the stream goes on; nobody waits for its end
