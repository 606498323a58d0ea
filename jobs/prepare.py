"""Prepare a corpus as a job: the same as `medalign data prepare`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/prepare.py /mnt/images --format image-folder --out s3://bucket/corpus
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["data", "prepare", *sys.argv[1:]])
