"""Write a run's page as a job: the same as `medalign report`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/report.py s3://bucket/runs/first
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
