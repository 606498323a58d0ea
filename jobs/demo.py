"""The demo: real medical images -> corpus -> LVM-Med on 2 workers -> probe -> report, all on an S3 server of its own.

python jobs/demo.py [--local]        --local: on files, without a server
"""

import sys
from pathlib import Path

from medalign import evaluate, prepare, report, storage, train
from medalign.cluster import ensure_ray
from medalign.storage import seaweedfs

CORPUS, RUN = "corpora/demo", "runs/demo"


def main(at: str = "") -> None:
    """Run the main job from end to end, with its corpus and its run under a URI."""
    ensure_ray(dashboard=True)
    corpus, run = at + CORPUS, at + RUN
    print(f"1/4  preparing the corpus {corpus}", flush=True)
    manifest = prepare("packages", format="packaged", out=corpus, name="demo")
    print("     " + ", ".join(f"{name} {split.rows} images" for name, split in manifest.splits.items()))
    print(f"2/4  pretraining, the run is {run}", flush=True)
    train("lvm_med/tiny_cpu", [f"data.corpus={corpus}", f"run.uri={run}", "train.steps=300", "train.validate_every=50"])
    print("3/4  probing the frozen encoder", flush=True)
    print("\n".join(f"     {line}" for line in evaluate(run, corpus=corpus, seeds=[0, 1, 2]).lines()))
    print("4/4  writing the report", flush=True)
    report(run)


if __name__ == "__main__":
    if "--local" in sys.argv[1:]:
        main()
    else:
        with seaweedfs.serve(buckets=("demo",)) as server, seaweedfs.in_environment(server):
            main("s3://demo/")
            for folder in (CORPUS, RUN):  # the server and its files go with this program: keep a copy
                storage.delete_folder(folder)
                storage.copy_folder(f"s3://demo/{folder}", folder)
    print(Path(RUN, "report.html").resolve())  # last, for those who look for it
