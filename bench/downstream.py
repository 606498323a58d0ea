"""What LVM-Med pretraining brings downstream on real images, over seeds: boxes of blood cells, masks of three kinds.

python bench/downstream.py --data FOLDER [--head-ct Cranium.inv3] [--seeds 0,1,2] [--tasks bccd,mni,nuclei,head_ct]
                           [--out runs/downstream] [--pretraining-steps 200]

FOLDER holds `bccd` (VOC annotations). The brain (MNI152 with its tissue maps) comes with nilearn, the nuclei with
stardist, the head CT is the file of the Debian package invesalius-examples. For each seed one small ResNet is
pretrained by lvm_med/tiny_cpu on the training images of all tasks together, without labels; then each task is
fine-tuned from it and from random weights of the same seed, with the same steps, rate and views. The best checkpoint
is chosen on validation, and the test split is scored once. Declared primary comparison: AP50 of bccd, pretrained
against random, paired over seeds and photographs. The others are descriptive: the brain is one subject, the CT one
patient, the nuclei one picture, split into blocks with gaps, so that they show that the pipeline works and little more.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import plistlib
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medalign import prepare, report, train
from medalign.checkpoint import latest
from medalign.evaluation.annotated import result as results
from medalign.evaluation.annotated.compare import compare_annotated
from medalign.evaluation.annotated.task import evaluate_annotated
from medalign.evaluation.result import spread
from medalign.packaged_files import packaged_file

ENCODER = [
    "model.type=resnet",
    "model.embedding_size=32",
    "model.hidden_sizes=[32,64,128]",
    "model.depths=[1,1,1]",
    "model.layer_type=basic",
]
ALONE = ["train.workers=0", "train.zero_stage=0", "train.threads=1", "tracking.tensorboard=false"]
VIEWS = ["data.views.jitter=0.0", "data.views.grey=0.0", "data.views.blur=0.0", "data.views.scale=[0.5,1.0]"]
TASKS: dict[str, dict[str, Any]] = {
    "bccd": {"task": "detection", "best": "-loss", "size": 192, "batch": 8, "steps": 250, "every": 50},
    "mni": {"task": "segmentation", "best": "dice", "size": 128, "batch": 8, "steps": 100, "every": 20},
    "nuclei": {"task": "segmentation", "best": "dice", "size": 128, "batch": 4, "steps": 100, "every": 20},
    "head_ct": {"task": "segmentation", "best": "dice", "size": 128, "batch": 8, "steps": 60, "every": 20},
}
HEADS = {
    "detection": ["objective.type=detection", "objective.width=64", "objective.depth=2"],
    "segmentation": ["objective.type=segmentation", "objective.widths=[64,32,16]", "objective.stem_width=8"],
}


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--head-ct", default="")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tasks", default="bccd,mni,nuclei")
    parser.add_argument("--out", default="runs/downstream")
    parser.add_argument("--pretraining-steps", type=int, default=200)
    arguments = parser.parse_args()
    out, names = Path(arguments.out), arguments.tasks.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    corpora = prepare_all(out, Path(arguments.data), arguments.head_ct, names)
    began = {seed: pretrain(out, corpora, seed, arguments.pretraining_steps) for seed in seeds}
    for name in names:
        found: dict[str, list[str]] = {"pretrained": [], "random": []}
        for seed in seeds:
            for arm, source in (("pretrained", began[seed]), ("random", "null")):
                found[arm].append(one_cell(out, corpora[name], name, arm, seed, source))
        print_table(name, found)


def print_table(name: str, found: dict[str, list[str]]) -> None:
    """Print each seed's primary score of both arms and their paired difference."""
    for arm, uris in found.items():
        scores = [results.load(uri) for uri in uris]
        primary = scores[0].primary
        values = [score.metrics[primary].estimate for score in scores]
        print(f"{name} {arm}: {primary} {np.mean(values):.3f}, seeds {[round(v, 3) for v in values]}", flush=True)
    difference = compare_annotated(found["pretrained"], found["random"])
    role = "primary" if name == "bccd" else "descriptive"
    print(f"{name} difference ({role}): {spread(difference, sign='+')}, p {difference.p_value:.3f}", flush=True)


def one_cell(out: Path, corpus: str, name: str, arm: str, seed: int, source: str) -> str:
    """Train and score one cell that is not there yet; return its evaluation."""
    settings, run = TASKS[name], f"{out}/{name}-{arm}-{seed}"
    done = f"{run}/evaluations/{name}-{settings['task']}"
    if Path(done, results.SCORES).exists():
        return done
    began = time.perf_counter()
    train(
        recipe_file(out),
        [
            *(*ENCODER, *ALONE, *VIEWS, *keys(settings)),
            *(f"data.corpus={corpus}", f"run.uri={run}", f"run.seed={seed}", f"model.source={source}"),
        ],
    )
    found = evaluate_annotated(run, corpus=corpus, task=settings["task"])
    seconds = time.perf_counter() - began
    print(f"{run}: {found.primary} {spread(found.metrics[found.primary])}, {seconds:.0f} s", flush=True)
    report(run)
    return found.uri


def keys(settings: dict[str, Any]) -> list[str]:
    """Return the overrides of a task."""
    batch = settings["batch"]
    return [
        *HEADS[settings["task"]],
        f"data.image_size={settings['size']}",
        f"train.micro_batch={batch}",
        f"train.global_batch={batch}",
        f"train.steps={settings['steps']}",
        f"train.validate_every={settings['every']}",
        f"train.best={settings['best']}",
    ]


def recipe_file(out: Path) -> str:
    """Write the recipe that all cells share, which the overrides complete."""
    lines = ["run: {uri: unset}", "data: {corpus: unset}", "model: {type: resnet}", "objective: {type: detection}"]
    lines += ["optimizer: {type: adam, learning_rate: 2.0e-3}", "schedule: {type: cosine, warmup_steps: 10}"]
    lines += ["train: {micro_batch: 8, global_batch: 8, steps: 1, workers: 0, validation_batches: 100, best: -loss}"]
    path = out / "cell.yaml"
    path.write_text("# the rest comes as overrides\n" + "\n".join(lines) + "\n")
    return str(path)


def pretrain(out: Path, corpora: dict[str, str], seed: int, steps: int) -> str:
    """Pretrain the encoder of a seed on all training images together; return the run."""
    run = f"{out}/pretrained-{seed}"
    saved = latest(run)
    if saved is not None and saved.state.step >= steps:
        return run
    parts = [{"uri": corpora["crops"]}, *({"uri": corpora[n]} for n in corpora if n not in ("crops", "bccd"))]
    mixture = json.dumps(parts)
    options = [f"data.mixture={mixture}", f"run.uri={run}", f"run.seed={seed}", f"train.steps={steps}"]
    options += ["train.micro_batch=64", "train.global_batch=64", "train.validate_every=0"]
    began = time.perf_counter()
    result = train("lvm_med/tiny_cpu", [*options, *ENCODER, *ALONE])
    figures = {key: round(value, 3) for key, value in result.last.get("train", {}).items() if "accuracy" in key}
    print(f"{run}: {result.step} steps, {time.perf_counter() - began:.0f} s, {figures}", flush=True)
    return run


def prepare_all(out: Path, data: Path, head_ct: str, names: list[str]) -> dict[str, str]:
    """Prepare the corpora of the tasks, and the crops of blood cells for pretraining."""
    made = {"crops": f"{out}/corpora/crops"}
    cells = str(data / "bccd" / "BCCD")
    prepare(cells, format="voc", out=made["crops"], licence="MIT", options={"crops": True})
    if "bccd" in names:
        made["bccd"] = f"{out}/corpora/bccd"
        prepare(cells, format="voc", out=made["bccd"], licence="MIT")
    sources = {"mni": brain, "nuclei": nuclei, "head_ct": lambda: head(head_ct)}
    for name, read in sources.items():
        if name in names:
            made[name] = f"{out}/corpora/{name}"
            pictures, masks, classes, splits = read()
            table = write_pairs(out / "sources" / name, pictures, masks, splits)
            prepare(
                str(table),
                format="masks",
                out=made[name],
                options={"classes": classes, "values": "0,1,2"[: 2 * len(classes.split(",")) - 1]},
            )
    return made


END = "_tal_nlin_sym_09a_converted.nii.gz"
Pairs = tuple[list[np.ndarray], list[np.ndarray], str, list[str]]


def brain() -> Pairs:
    """Return axial slices of the MNI152 brain with grey and white matter; blocks apart are train, val and test."""
    import nibabel

    folder = "nilearn/datasets/data"
    t1, grey, white = (
        np.asanyarray(nibabel.load(packaged_file("nilearn", f"{folder}/mni_icbm152_{kind}{END}")).dataobj)
        for kind in ("t1", "gm", "wm")
    )
    labels = np.where((grey > 127) & (grey >= white), 1, np.where(white > 127, 2, 0)).astype(np.uint8)
    return blocks(
        [t1[:, :, z] for z in range(25, 145)], [labels[:, :, z] for z in range(25, 145)], "background,grey,white"
    )


def head(path: str) -> Pairs:
    """Return the slices of a head CT with its masks of soft tissue and bone, which are thresholds of its levels."""
    with tarfile.open(path) as archive:
        files = {Path(m.name).name: archive.extractfile(m).read() for m in archive.getmembers() if "vtp" not in m.name}
    shape = plistlib.loads(files["main.plist"])["matrix"]["shape"]
    levels = np.frombuffer(files["matrix.dat"], np.int16).reshape(shape)
    bone, soft = (
        np.frombuffer(files[f"mask_{n}.dat"], np.uint8).reshape([size + 1 for size in shape])[1:, 1:, 1:] > 127
        for n in (0, 1)
    )
    shown = ((levels.clip(-160, 1000) + 160.0) / 1160 * 255).astype(np.uint8)
    labels = np.where(bone, 2, np.where(soft, 1, 0)).astype(np.uint8)
    return blocks(list(shown), list(labels), "background,soft tissue,bone")


def nuclei() -> Pairs:
    """Return 32 tiles of one picture of nuclei: columns of it are train, val and test."""
    picture, mask = (
        np.asarray(Image.open(packaged_file("stardist", f"stardist/data/images/{kind}2d.tif")))
        for kind in ("img", "mask")
    )
    shown = (picture / picture.max() * 255).astype(np.uint8)
    tiles = [(y, x) for x in range(0, 512, 64) for y in range(0, 512, 128)]
    splits = [("train", "train", "train", "train", "val", "test", "test", "test")[x // 64] for _, x in tiles]
    cut = [slice(None)] * 2
    pictures, masks = [], []
    for y, x in tiles:
        cut = [slice(y, y + 128), slice(x, x + 64)]
        pictures.append(shown[tuple(cut)])
        masks.append((mask[tuple(cut)] > 0).astype(np.uint8))
    return pictures, masks, "background,nucleus", splits


def blocks(pictures: list[np.ndarray], masks: list[np.ndarray], classes: str) -> Pairs:
    """Split slices: the first half is train, then val and test, with gaps of 5 % between."""
    count = len(pictures)
    edges = {"train": (0, 0.5), "val": (0.55, 0.65), "test": (0.7, 1.0)}
    splits = [next((name for name, (low, high) in edges.items() if low <= n / count < high), "") for n in range(count)]
    return pictures, masks, classes, splits


def write_pairs(folder: Path, pictures: list[np.ndarray], masks: list[np.ndarray], splits: list[str]) -> Path:
    """Write pictures, masks and the CSV that names them; four in turn are one group; a split "" is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow(["path", "mask", "group", "split"])
    for n, (picture, mask, split) in enumerate(zip(pictures, masks, splits, strict=True)):
        Image.fromarray(picture).save(folder / f"{n:03d}.png")
        Image.fromarray(mask).save(folder / f"{n:03d}_mask.png")
        if split:
            table.writerow([f"{n:03d}.png", f"{n:03d}_mask.png", f"{split}-{n // 4}", split])
    (folder / "table.csv").write_text(rows.getvalue())
    return folder / "table.csv"


if __name__ == "__main__":
    main()
