"""Two `medalign train` at one s3:// URI: the second is refused, the first is unharmed, and no file tells a secret."""

import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
from s3_places import BUCKET, serving
from striped_corpus import write_corpus

from medalign import checkpoint, storage
from medalign.tracking.json_lines import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
MEDALIGN = [sys.executable, "-m", "medalign.cli"]
RUN = f"s3://{BUCKET}/run"
STEPS = 60


def test_a_second_run_at_one_uri_is_refused_and_the_first_goes_on(tmp_path):
    with serving() as server:
        storage.copy_folder(write_corpus(tmp_path / "stripes", {"train": 64, "val": 16}), f"s3://{BUCKET}/stripes")
        words = [*MEDALIGN, "train", "lvm_med/tiny_cpu", f"data.corpus=s3://{BUCKET}/stripes", f"run.uri={RUN}"]
        words += ["train.workers=0", f"train.steps={STEPS}", "train.micro_batch=16", "train.global_batch=16"]
        words += ["train.validate_every=0", "train.checkpoint_every=20", "tracking.tensorboard=false"]
        words += ["data.image_size=64"]
        log = open(tmp_path / "first.log", "w")
        first = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 200
        while not storage.exists(storage.join(RUN, "metrics.jsonl")):
            assert first.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        began, used = time.monotonic(), getrusage(RUSAGE_CHILDREN).ru_utime
        second = subprocess.run(words, capture_output=True, text=True, timeout=120)
        used = getrusage(RUSAGE_CHILDREN).ru_utime - used
        print(f"R20 the second ends {time.monotonic() - began:.1f} s after its start; {used:.1f} s of CPU")  # noqa: T201
        assert used < 5
        assert second.returncode == 2, second.stderr
        assert f"error: {RUN}: another run is at work here: process {first.pid} on " in second.stderr
        assert first.wait(timeout=200) == 0, Path(log.name).read_text()
        log.close()
        assert [line["step"] for line in read_lines(RUN) if line["kind"] == "train"][-1] == STEPS
        assert checkpoint.latest(RUN).state.step == STEPS
        files = {uri: storage.read_bytes(uri) for uri in storage.list_files(RUN)}
        assert f"{RUN}/run.lock" not in files
        assert len(files) > 5
        told = [*files.values(), Path(log.name).read_bytes(), second.stderr.encode(), second.stdout.encode()]
        for secret in (server.secret_key, server.access_key):
            assert not [text for text in told if secret.encode() in text]
