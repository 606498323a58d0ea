"""Run a sweep as a job: the same as `medalign tune`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/tune.py lvm_med/sweep_matching data.corpus=s3://bucket/corpus tune.uri=s3://bucket/sweeps/first
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
