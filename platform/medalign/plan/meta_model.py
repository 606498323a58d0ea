"""A recipe's module on the meta device: every parameter with its shape and type, and not one byte of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from medalign import build, storage
from medalign.plan.published import ADDED_TOKENS, ARCHITECTURES
from medalign.recipe import Recipe, find, shipped
from medalign_core.models.multimodal.settings import Llava

if TYPE_CHECKING:
    from torch import nn

_EXPORT = "/export"


def meta_module(recipe: Recipe, notes: list[str] | None = None) -> nn.Module:
    """Return the objective's module of a recipe on the meta device, in training mode.

    A `model.source` that is not there yet, but is the run of a shipped recipe (or its export), has that recipe's
    architecture; so the later stages of a method are planned before its first has run.

    Args:
        recipe: whose model and objective are built.
        notes: is told what was taken from elsewhere.

    Raises:
        UserError: an architecture that is neither here nor known.
    """
    import torch

    told = [] if notes is None else notes
    settings = _settled(recipe.model, told)
    with torch.device("meta"), _quick():
        model = _multimodal(settings, told) if isinstance(settings, Llava) else _encoder(settings)
        parts: dict[str, Any] = {}
        if source := getattr(recipe.objective, "sam", None):
            parts["sam"] = _from_config(build.architecture(source, key="objective.sam", whole=True))
        return recipe.objective.build(model, **parts).train()


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """Return (trained, frozen) numbers of weights, exactly."""
    counts = {True: 0, False: 0}
    for parameter in module.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return counts[True], counts[False]


def _settled(settings: Any, notes: list[str], seen: Sequence[str] = ()) -> Any:
    """Return model settings whose source can be built: that of a run, or of one that has not begun, is followed."""
    source = str(getattr(settings, "source", None) or "")
    if not source or source in ARCHITECTURES or source in seen:
        return settings
    run = source.removesuffix(_EXPORT)
    if build.is_run(run):
        found = build.model_settings(yaml.safe_load(storage.read_bytes(storage.join(run, build.RECIPE))))
    elif storage.exists(storage.join(source, "config.json")):
        return settings
    else:
        name = _recipe_of(run)
        if name is None:
            return settings
        notes.append(f"model.source = {source} is not there yet; its architecture is that of the recipe {name}.")
        found = build.model_settings(yaml.safe_load(find(name).read_bytes()))
    found = _settled(found, notes, (*seen, source))
    if not isinstance(settings, Llava):
        return found
    taken = ("source", "vision", "language", "projector", "dense", "feature_layer")  # the rest is this stage's own
    return replace(settings, **{key: getattr(found, key) for key in taken})


def _recipe_of(run: str) -> str | None:
    """Return the shipped recipe whose run lives at this URI, None if none does."""
    for name in shipped():
        document = yaml.safe_load(find(name).read_bytes())
        if (document.get("run") or {}).get("uri") == run:
            return name
    return None


def _encoder(settings: Any) -> nn.Module:
    if not settings.source:
        return settings.build()
    return settings.build(_from_config(_configuration(settings.source, "model.source")))


def _multimodal(settings: Llava, notes: list[str]) -> nn.Module:
    import torch

    import medalign_core.models.multimodal.architecture  # noqa: F401  # registers what transformers lacks
    from medalign_core.models.multimodal.assembling import assemble

    dtype = getattr(torch, settings.dtype)
    if settings.source:
        from transformers import AutoModelForImageTextToText

        config = build.architecture(settings.source)
        network: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        tokens = _added(settings, "source", settings.source)
    else:
        causal, tokens = _language(settings, notes)
        network = assemble(_tower(settings.vision, dtype), causal, settings, image_token=tokens[0])
    return settings.build(network, markers=tokens[1:])


def _language(settings: Llava, notes: list[str]) -> tuple[Any, tuple[int, ...]]:
    """Return the causal language model, grown to the image's tokens, and those tokens: image, start, end."""
    import torch
    from transformers import AutoModelForCausalLM

    from medalign.byte_language_model import BYTES, byte_language_model
    from medalign.multimodal_tokens import PACKAGED_LANGUAGE
    from medalign.packaged_language_model import packaged_language_model

    if settings.language == BYTES:
        causal: Any = byte_language_model(dtype=settings.dtype, attention=settings.attention)
    else:
        source = str(packaged_language_model()) if settings.language == PACKAGED_LANGUAGE else settings.language
        causal = AutoModelForCausalLM.from_config(
            _configuration(source, "model.language"),
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
        )
    rows = causal.get_input_embeddings().weight.shape[0]
    if settings.language in ARCHITECTURES:
        notes.append(
            f"model.language = {settings.language}: its published architecture, not the files; {ADDED_TOKENS} tokens"
            " are added to its vocabulary."
        )
        known = causal.config.vocab_size
        tokens: tuple[int, ...] = (known, known + 1, known + 2)
        wanted = known + ADDED_TOKENS
    else:
        tokens = _added(settings, "language", settings.language)
        wanted = max(rows, _vocabulary(settings))
    if wanted > rows:
        causal.resize_token_embeddings(wanted, mean_resizing=False)
    return causal, tokens


def _tower(source: str, dtype: Any) -> Any:
    from transformers import AutoModel

    from medalign.vision_towers import PACKAGED
    from medalign_core.models.multimodal.architecture import EfficientNetLite0Config, EfficientNetLite0Tower

    if source == PACKAGED:
        return EfficientNetLite0Tower(EfficientNetLite0Config()).to(dtype).eval()
    config = _configuration(source, "model.vision")
    half = config.vision_config if config.model_type in ("clip", "siglip") else config
    return AutoModel.from_config(half, dtype=dtype).eval()


def _added(settings: Llava, key: str, source: str) -> tuple[int, ...]:
    """Return the tokens for an image and around it, by the tokenizer that training opens."""
    from medalign.multimodal_tokens import IMAGE, add_tokens, markers_of, open_tokenizer

    tokenizer = open_tokenizer(key, source, settings)
    if key == "language":
        add_tokens(tokenizer)
    return (tokenizer.convert_tokens_to_ids(IMAGE), *markers_of(tokenizer))


def _vocabulary(settings: Llava) -> int:
    from medalign.multimodal_tokens import add_tokens, open_tokenizer

    tokenizer = open_tokenizer("language", settings.language, settings)
    add_tokens(tokenizer)
    return len(tokenizer)


def _configuration(source: str, key: str) -> Any:
    if source not in ARCHITECTURES:
        return build.architecture(source, key=key)
    from transformers import CONFIG_MAPPING

    kind, values = ARCHITECTURES[source]
    return CONFIG_MAPPING[kind](**values)


def _from_config(config: Any) -> Any:
    from transformers import MODEL_MAPPING

    kind: Any = MODEL_MAPPING[type(config)]
    return kind(config)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Leave out the drawing of weights, which takes a while even where there are none."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield
