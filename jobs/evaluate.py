"""Evaluate a run as a job: the same as `medalign evaluate`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/evaluate.py s3://bucket/runs/first --corpus s3://bucket/corpus --task probe
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
