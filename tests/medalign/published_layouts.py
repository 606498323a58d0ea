"""Small generated sets in the layouts in which the downstream sets of LVM-Med are published."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from drawn_images import encoded, pixels
from PIL import Image

COUNT = 12
HEART = (0, 205, 420, 500, 550, 600, 820, 850)


def _mask(seed: int, *, size: int = 40, level: int = 255) -> np.ndarray:
    draw = np.random.default_rng([8, seed])
    mask = np.zeros((size, size), dtype=np.uint8)
    row, column = draw.integers(2, size // 2, size=2)
    mask[row : row + size // 3, column : column + size // 3] = level
    return mask


def _picture(seed: int, *, size: int = 40, colour: bool = True) -> np.ndarray:
    shown = pixels(seed, size=(size, size), channels=3 if colour else 1)
    light = _mask(seed, size=size) > 0
    shown[light] = 255 - shown[light] // 2
    return shown


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def isic2018(root: Path) -> Path:
    for n in range(COUNT):
        _write(root / "ISIC2018_Task1-2_Training_Input" / f"ISIC_{n:07d}.jpg", encoded(_picture(n), "JPEG"))
        mask = root / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_{n:07d}_segmentation.png"
        _write(mask, encoded(_mask(n)))
    return root


def jsrt(root: Path) -> Path:
    organs = ("right lung", "left lung", "heart", "right clavicle", "left clavicle")
    for n in range(COUNT):
        _write(root / "images" / f"JPCLN{n:03d}.png", encoded(_picture(n, colour=False)))
        for place, organ in enumerate(organs):
            _write(root / organ / f"JPCLN{n:03d}.gif", encoded(Image.fromarray(_mask(10 * n + place)), "GIF"))
    return root


def kvasir(root: Path) -> Path:
    for n in range(COUNT):
        _write(root / "images" / f"cju{n}.jpg", encoded(_picture(n), "JPEG"))
        _write(root / "masks" / f"cju{n}.jpg", encoded(_mask(n), "JPEG"))
    return root


def drive(root: Path) -> Path:
    for n in range(COUNT):
        split = "test" if n % 3 == 0 else "training"
        _write(root / split / "images" / f"{n:02d}_{split}.tif", encoded(_picture(n), "TIFF"))
        _write(root / split / "1st_manual" / f"{n:02d}_manual1.gif", encoded(Image.fromarray(_mask(n)), "GIF"))
        field = Image.fromarray(np.full((40, 40), 255, np.uint8))
        _write(root / split / "mask" / f"{n:02d}_{split}_mask.gif", encoded(field, "GIF"))
    return root


def buid(root: Path) -> Path:
    for n in range(COUNT):
        folder = root / ("benign", "malignant")[n % 2]
        name = f"{folder.name} ({n})"
        _write(folder / f"{name}.png", encoded(_picture(n)))
        _write(folder / f"{name}_mask.png", encoded(_mask(n)))
        if n == 4:
            _write(folder / f"{name}_mask_1.png", encoded(_mask(n + 50)))
    return root


def _volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def _labels(seed: int, levels: tuple[int, ...]) -> np.ndarray:
    draw = np.random.default_rng([9, seed])
    coarse = draw.integers(len(levels), size=(4, 4, 3))
    return np.array(levels, dtype=np.int16)[np.kron(coarse, np.ones((8, 8, 1), dtype=int))]


def brats2018(root: Path) -> Path:
    for n in range(8):
        folder = root / ("HGG", "LGG")[n % 2] / f"Brats18_{n}"
        labels = _labels(n, (0, 1, 2, 4))
        for kind in ("flair", "t1"):
            _volume(folder / f"Brats18_{n}_{kind}.nii.gz", labels.astype(np.float32) * 100 + 7)
        _volume(folder / f"Brats18_{n}_seg.nii.gz", labels)
    return root


def mmwhs(root: Path) -> Path:
    for n in range(8):
        labels = _labels(n, HEART)
        _volume(root / f"ct_train_{1000 + n}_image.nii.gz", labels.astype(np.float32) - 1000)
        _volume(root / f"ct_train_{1000 + n}_label.nii.gz", labels)
    return root


def prostate(root: Path) -> Path:
    for n in range(8):
        labels = _labels(n, (0, 1))
        _volume(root / f"Case{n:02d}.nii.gz", labels.astype(np.float32) * 50)
        _volume(root / f"Case{n:02d}_segmentation.nii.gz", labels)
    return root


def fgadr(root: Path) -> Path:
    lines = ["path,label"]
    for n in range(25):
        _write(root / "Original_Images" / f"{n:04d}_1.png", encoded(_picture(n)))
        lines.append(f"Original_Images/{n:04d}_1.png,{n % 5}")
    (root / "grades.csv").write_text("\n".join(lines))
    return root / "grades.csv"


def brain_tumour(root: Path) -> Path:
    for kind, place in (("Training", 0), ("Testing", 100)):
        for c, name in enumerate(("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")):
            for n in range(6):
                _write(root / kind / name / f"image({n}).jpg", encoded(_picture(place + 10 * c + n), "JPEG"))
    return root


def vindr(root: Path) -> Path:
    draw = np.random.default_rng(0)
    pictures, notes = [], []
    for n in range(COUNT):
        _write(root / f"{n:032x}.png", encoded(_picture(n, colour=False)))
        pictures.append({"id": n, "file_name": f"{n:032x}.png", "width": 40, "height": 40})
        for kind in draw.permutation(14)[: 6 * (n % 3)]:
            corner = [float(v) for v in draw.integers(0, 20, size=2)]
            notes.append({"id": len(notes), "image_id": n, "category_id": int(kind), "bbox": [*corner, 12.0, 9.0]})
    names = [{"id": c, "name": f"finding {c}"} for c in range(14)]
    (root / "instances.json").write_text(json.dumps({"images": pictures, "annotations": notes, "categories": names}))
    return root / "instances.json"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "isic2018": isic2018,
    "jsrt": jsrt,
    "kvasir_seg": kvasir,
    "kvasir_detection": kvasir,
    "drive": drive,
    "buid": buid,
    "brats2018": brats2018,
    "mmwhs_ct": mmwhs,
    "mmwhs_mri": mmwhs,
    "prostate_bmc": prostate,
    "fgadr": fgadr,
    "brain_tumour": brain_tumour,
    "vindr_cxr": vindr,
}
