"""Settings of the data section of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class SmallViews:
    """Smaller views beside the two large ones (multi-crop, Caron et al. 2020); the rest is as of the large ones.

    Attributes:
        count: how many of each image.
        size: their side in pixels.
        scale: the share of the image's area that a small crop shows, drawn uniformly from [low, high].
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    count: int = 4
    size: int = 96
    scale: tuple[float, float] = (0.08, 0.4)

    def __post_init__(self) -> None:
        if self.count < 1 or not 16 <= self.size <= 4096:
            raise ValueError(f"count must be >= 1 and size in [16, 4096] pixels, got {self.count} and {self.size}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, got {list(self.scale)}.")


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
        small: smaller views beside the two; None for none.
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
    small: SmallViews | None = None

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
class Part:
    """One corpus of a mixture.

    Attributes:
        uri: of a prepared corpus.
        weight: its share of the positions, relative to the other weights; 0 leaves it out.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    uri: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight must be >= 0 and finite, got {self.weight}.")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run trains on.

    Attributes:
        corpus: URI of a prepared corpus; or
        mixture: several of them, each with its weight. Validation uses the first.
        image_size: side of a view in pixels.
        allow_splits: splits beside `train` that training may read; naming one brands the run's report.
        shuffle_rows: rows that are permuted together; a window is at least one global batch.
        max_bad_share: the largest share of the rows that may turn out to be unreadable; beyond it the run stops.
        on_damage: what a row group does whose bytes are not those of the corpus's manifest. "stop" ends the run,
            "skip" makes holes of its rows (they count as bad), "refetch" reads it again before it stops.
        views: how an image becomes two views.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid", "strict": True}

    corpus: str = ""
    mixture: tuple[Part, ...] | None = None
    image_size: int = 224
    allow_splits: tuple[str, ...] = ()
    shuffle_rows: int = 4096
    max_bad_share: float = 0.01
    on_damage: Literal["stop", "skip", "refetch"] = "stop"
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        if not self.corpus and self.mixture is None:
            raise ValueError(
                "data.corpus: missing; write it in the recipe or give the override data.corpus=VALUE"
                " (or data.mixture for several)."
            )
        if self.corpus and self.mixture is not None:
            raise ValueError("mixture must not be given beside data.corpus; put that corpus into the mixture.")
        if self.mixture is not None and not sum(part.weight for part in self.mixture) > 0:
            raise ValueError("mixture must have a weight > 0; the sum of its weights is 0.")
        if not 16 <= self.image_size <= 4096:
            raise ValueError(f"image_size must be in [16, 4096] pixels, got {self.image_size}.")
        if self.shuffle_rows < 1:
            raise ValueError(f"shuffle_rows must be >= 1, got {self.shuffle_rows}.")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share must be in [0, 1], got {self.max_bad_share}.")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The corpora that are read, each with its weight."""
        if self.mixture is None:
            return (Part(uri=self.corpus),)
        return tuple(part for part in self.mixture if part.weight > 0)
