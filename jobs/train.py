"""Train a recipe as a job: the same as `medalign train`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/train.py lvm_med/tiny_cpu data.corpus=s3://bucket/corpus run.uri=s3://bucket/runs/first
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
