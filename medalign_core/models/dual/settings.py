"""Settings of dual encoders: what to open and how its towers are used. The platform opens, `build` assembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from medalign_core.models.dual.efficientnet import PublishedWeights
    from medalign_core.models.dual.encoder import DualEncoder, Tokenize


@dataclass(frozen=True, kw_only=True)
class Clip:
    """CLIP, and what shares its architecture (PubMedCLIP, say).

    Attributes:
        source: a directory or hub id of a transformers CLIPModel with its tokenizer; or, for CLIP with a ResNet, which
            transformers has not, a directory that open_clip saved, with a tokenizer that transformers opens.
        visual_prompts: M learnable prompts on the image side, whose M class tokens replace the patch tokens; 0 for
            patches. They are the only parameters of the model that learn.
        visual_prompt_length: tokens of each.
        mean: subtracted from each of R, G, B in [0, 1].
        std: divided by, per channel.
    """

    source: str
    visual_prompts: int = 0
    visual_prompt_length: int = 4
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        _check_source(self.source)
        if self.visual_prompts < 0 or self.visual_prompt_length < 1:
            raise ValueError(
                "visual_prompts must be >= 0 and visual_prompt_length >= 1, "
                f"got {self.visual_prompts} and {self.visual_prompt_length}."
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {self.std}.")

    def build(self, model: torch.nn.Module, tokenize: Tokenize) -> DualEncoder:
        """Return the frozen dual encoder of a transformers CLIPModel; visual prompts, if any, learn.

        The prompts are drawn from torch's global generator.
        """
        from medalign_core.models.dual.clip import ClipImageTower, ClipTextTower
        from medalign_core.models.dual.encoder import DualEncoder
        from medalign_core.models.dual.freezing import freeze
        from medalign_core.models.dual.pixels import Normalisation
        from medalign_core.models.dual.visual_prompts import PromptedClipTower, VisualPrompts

        scale = float(model.logit_scale.detach().exp())  # type: ignore[operator,union-attr]
        freeze(model)
        image = ClipImageTower(model, pixels=Normalisation(self.mean, self.std))
        text = ClipTextTower(model.text_model, model.text_projection)  # type: ignore[arg-type]
        if not self.visual_prompts:
            return DualEncoder(image, text, tokenize=tokenize, scale=scale)
        prompts = VisualPrompts(self.visual_prompts, self.visual_prompt_length, image.width)
        return DualEncoder(PromptedClipTower(image, prompts), text, tokenize=tokenize, scale=scale)

    def build_resnet(
        self, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokenize: Tokenize
    ) -> DualEncoder:
        """Return the frozen dual encoder of an open_clip checkpoint whose image tower is CLIP's ResNet.

        Raises:
            ValueError: another architecture, weights that do not fit it, or visual prompts: a ResNet takes none.
        """
        from medalign_core.models.dual.clip_resnet import from_open_clip
        from medalign_core.models.dual.encoder import DualEncoder
        from medalign_core.models.dual.freezing import freeze
        from medalign_core.models.dual.pixels import Normalisation

        if self.visual_prompts:
            raise ValueError(f"visual_prompts must be 0 for a ResNet, got {self.visual_prompts}.")
        image, text, scale = from_open_clip(config, state, pixels=Normalisation(self.mean, self.std))
        encoder = DualEncoder(image, text, tokenize=tokenize, scale=scale)
        freeze(encoder)
        return encoder


@dataclass(frozen=True, kw_only=True)
class BiomedClip:
    """BiomedCLIP (Zhang et al.): ViT-B/16 and PubMedBERT, from an open_clip checkpoint.

    Attributes:
        source: a directory or hub id with open_clip_config.json, the weights and the tokenizer.
    """

    source: str = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"

    def __post_init__(self) -> None:
        _check_source(self.source)

    def build(self, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokenize: Tokenize) -> DualEncoder:
        """Return the frozen dual encoder of an open_clip checkpoint.

        Raises:
            ValueError: an architecture that is not BiomedCLIP's, or weights that do not fit it.
        """
        from medalign_core.models.dual.biomed_clip import from_open_clip
        from medalign_core.models.dual.encoder import DualEncoder
        from medalign_core.models.dual.freezing import freeze

        image, text, scale = from_open_clip(config, state)
        encoder = DualEncoder(image, text, tokenize=tokenize, scale=scale)
        freeze(encoder)
        return encoder


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """EfficientNet-Lite0 and MiniLM, joined by ridge regression (see `bridge`): real, small, and installed by pip.

    Attributes:
        template: the sentence that a class name of ImageNet is regressed on; holds one {}.
        ridge: strength of the regression, > 0. At 3 the right name of a class left out is the first of 200 in 38 % and
            among the first five in 65 % of cases (means of five splits); from 3 to 30 both stay within 3 points.
        scale: of the cosines, > 0. 15 gives the names of classes left out their highest likelihood.
        context_length: the most tokens of a prompt; MiniLM was trained with 256 at most.
    """

    template: str = "a photo of a {}"
    ridge: float = 3.0
    scale: float = 15.0
    context_length: int = 256

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f"the template must hold one {{}}, got {self.template!r}.")
        if not (self.ridge > 0 and self.scale > 0):
            raise ValueError(f"ridge and scale must be > 0, got {self.ridge} and {self.scale}.")
        if not 3 <= self.context_length <= 512:
            raise ValueError(f"context_length must be in [3, 512], got {self.context_length}.")

    def build(
        self, weights: PublishedWeights, bert: torch.nn.Module, tokenize: Tokenize, names: Sequence[str]
    ) -> DualEncoder:
        """Return the frozen dual encoder; `names` are those of the classifier's rows, in order."""
        from medalign_core.models.dual.bridge import build_bridge
        from medalign_core.models.dual.freezing import freeze

        freeze(bert)
        encoder = build_bridge(weights, bert, tokenize, names=names, settings=self)
        freeze(encoder)
        return encoder


def _check_source(source: str) -> None:
    if not source.strip():
        raise ValueError("source must name a directory or a hub id, got an empty one.")
