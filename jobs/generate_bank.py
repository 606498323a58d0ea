"""Write a prompt bank as a job: the same as `medalign bank generate`.

ray job submit --working-dir . --runtime-env cluster/runtime_env.yaml -- \
    python jobs/generate_bank.py s3://bucket/corpus --out s3://bucket/banks/corpus.json \
    --endpoint http://vllm:8000/v1 --model qwen3-8b

The key, where the endpoint wants one, is the workers' MEDALIGN_ENDPOINT_KEY.
"""

import sys

from medalign.cli.app import main

if __name__ == "__main__":
    main(["bank", "generate", *sys.argv[1:]])
