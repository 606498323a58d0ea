"""Settings of the data section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Views:
    """How one image becomes two views (LVM-Med, section 3.1; numbers of the authors' development script).

    Attributes:
        scale: the share of the image's area that a crop shows, drawn uniformly from [low, high].
        ratio: the crop's width / height, drawn log-uniformly from [low, high].
        flip: probability of mirroring left to right; the location grid is mirrored with it.
        jitter: probability of colour jitter.
        brightness, contrast, saturation: jitter factors are drawn from [max(0, 1 - x), 1 + x].
        hue: the hue is turned by up to this share of the circle, in [0, 0.5].
        grey: probability of dropping the colour.
        blur: probability of a Gaussian blur.
        blur_radius: its radius in pixels of a 224 px view (scaled to the view's size), drawn from [low, high].
        force_grey: drop the colour always (destroys stains: off; the development script had it on).
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grey: float = 0.2
    blur: float = 0.5
    blur_radius: tuple[float, float] = (0.1, 2.0)
    force_grey: bool = False

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {value}.")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5], got {self.hue}.")
        for name, low in (("scale", 0.0), ("ratio", 0.0), ("blur_radius", 0.0)):
            first, last = getattr(self, name)
            if not low < first <= last:
                raise ValueError(f"{name} must be [low, high] with {low} < low <= high, got [{first}, {last}].")
        if self.scale[1] > 1:
            raise ValueError(f"scale must not exceed 1, the whole image, got {list(self.scale)}.")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run trains on.

    Attributes:
        corpus: URI of a prepared corpus.
        image_size: side of a view in pixels.
        allow_splits: splits beside `train` that training may read; naming one brands the run's report.
        shuffle_rows: rows that are permuted together; a window is at least one global batch.
        views: how an image becomes two views.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    corpus: str
    image_size: int = 224
    allow_splits: tuple[str, ...] = ()
    shuffle_rows: int = 4096
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 4096:
            raise ValueError(f"image_size must be in [16, 4096] pixels, got {self.image_size}.")
        if self.shuffle_rows < 1:
            raise ValueError(f"shuffle_rows must be >= 1, got {self.shuffle_rows}.")
