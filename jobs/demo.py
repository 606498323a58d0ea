"""The demo: real medical images that ship inside packages -> corpus -> LVM-Med on 2 workers -> probe -> report.

python jobs/demo.py
"""

from pathlib import Path

from medalign import evaluate, prepare, report, train
from medalign.cluster import ensure_ray

CORPUS, RUN = "corpora/demo", "runs/demo"


def main() -> None:
    """Run the main job from end to end and print the report's path last."""
    ensure_ray(dashboard=True)
    print("1/4  preparing the corpus", flush=True)
    manifest = prepare("packages", format="packaged", out=CORPUS, name="demo")
    print("     " + ", ".join(f"{name} {split.rows} images" for name, split in manifest.splits.items()))
    print("2/4  pretraining", flush=True)
    train("lvm_med/tiny_cpu", [f"data.corpus={CORPUS}", f"run.uri={RUN}", "train.steps=300", "train.validate_every=50"])
    print("3/4  probing the frozen encoder", flush=True)
    result = evaluate(RUN, corpus=CORPUS, seeds=[0, 1, 2])
    print("\n".join(f"     {line}" for line in result.lines()))
    print("4/4  writing the report", flush=True)
    print(Path(report(RUN)).resolve())


if __name__ == "__main__":
    main()
