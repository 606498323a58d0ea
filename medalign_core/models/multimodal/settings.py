"""Settings of a multimodal model: which tower, projector and language model, what a stage trains, how texts pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from medalign_core.models.multimodal.model import MultimodalModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Stage = Literal[1, 2, "vqa"]


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank updates of the language model's linear maps (Hu et al. 2022), by peft; the maps themselves are frozen.

    Attributes:
        rank: r, the rank of an update, >= 1.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of a zero before an update, in [0, 1). Not keyed by the draw key: anything but 0 gives up
            exact reproduction across numbers of workers.
        targets: names of the linear maps, as in the language model; empty for all but its head.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}.")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")


@dataclass(frozen=True, kw_only=True)
class Llava:
    """A LLaVA-style model: vision tower -> projector -> image tokens among the words of a causal language model.

    Attributes:
        source: a local directory or hub id of a whole model, say of stage 1's export; the next four keys are then its
            own and unused.
        vision: a local directory or hub id of a CLIP, SigLIP or ViT tower (the image half of a CLIP is enough), or
            "efficientnet_lite0", which comes with a package.
        language: a local directory or hub id of any transformers causal language model with a chat template, or
            "smollm2_135m", which comes with a package, or "tiny_bytes", random weights that read bytes, for trials.
        projector: "mlp2x_gelu", two linear maps with a GELU between (LLaVA-1.5), or "linear" (LLaVA, LLaVA-Med 1.0).
        dense: dense channel integration: the means of the first and of the second half of the tower's layers stand
            beside the tap on the channels (Yao et al. 2024, "DCI").
        feature_layer: the tap, an index into the tower's hidden states, embeddings first: -2 is the last block but
            one. The class token is left out. A convolutional tower has one map, and no other.
        stage: what trains. 1: projector and the rows of new marker tokens. 2: language model and projector.
            "vqa": the same as 2. The vision tower is frozen in all of them.
        text_nodes: where the nodes of the text graphs come from. "separate": the language model runs on each text
            apart, as published. "packed": on conversation, answer and extended answer of a sample in one row, once;
            the same nodes. "in_context": the answer is pooled where it stands in the conversation, nothing runs
            beside; there are no extended nodes. "embeddings": of input embeddings, without the language model.
        pooling: "masked" is the mean over the text's tokens; "with_padding" is as published, padding included, so that
            a node depends on its batch; only where texts run apart.
        loss_chunks: into how many pieces the target tokens are cut, so that never more than one piece's logits are
            held; they are computed again in the backward pass. 1 holds all and computes once. A number of pieces and
            not their size: every rank then calls the head as often, which a sharded head needs.
        activation_checkpointing: keep only the inputs of the language model's layers, and compute the rest again.
        attention: how the language model attends. "medalign_varlen" attends to each packed text by itself and packs
            without padding; it is "sdpa" where nothing is packed. "sdpa", "eager" and "flex_attention" mask packed
            texts from each other, "flash_attention_2" has a kernel of its own on a GPU.
        chat: "own" takes the tokenizer's chat template; "v0" is LLaVA-Med's "### Human: ... ### Assistant: ...", for
            language models without one, such as LLaMA.
        learn: which tokens of a conversation are targets. "assistant": what the assistant says, and what stops it.
            "published": with chat "v0", what LLaVA-Med's code leaves unmasked, some markers besides.
        max_length: the most tokens of a conversation, the image's among them, and of an answer alone; what is beyond
            is cut.
        dtype: the floating type that weights are opened in.
        lora: low-rank updates in stages 2 and "vqa" in place of the whole language model; None trains all of it.
        mean: subtracted from each of R, G, B in [0, 1]; None takes the tower's own.
        std: divided by, per channel; None takes the tower's own.
    """

    source: str | None = None
    vision: str = "efficientnet_lite0"
    language: str = "smollm2_135m"
    projector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    dense: bool = False
    feature_layer: int = -2
    stage: Stage = 2
    text_nodes: Literal["separate", "packed", "in_context", "embeddings"] = "packed"
    pooling: Literal["masked", "with_padding"] = "masked"
    loss_chunks: int = 4
    activation_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "medalign_varlen"] = "medalign_varlen"
    chat: Literal["own", "v0"] = "own"
    learn: Literal["assistant", "published"] = "assistant"
    max_length: int = 2048
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoRA | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.loss_chunks < 1:
            raise ValueError(f"loss_chunks must be >= 1, got {self.loss_chunks}.")
        if self.max_length < 2:
            raise ValueError(f"max_length must be >= 2 tokens, got {self.max_length}.")
        if self.learn == "published" and self.chat != "v0":
            raise ValueError(f"learn 'published' is defined for chat 'v0' alone, got {self.chat!r}.")
        if self.stage not in (1, 2, "vqa"):
            raise ValueError(f"stage must be 1, 2 or 'vqa', got {self.stage!r}.")
        if self.pooling == "with_padding" and self.text_nodes != "separate":
            raise ValueError(
                f"pooling 'with_padding' is defined for text_nodes 'separate' alone, got {self.text_nodes!r}: "
                "elsewhere there is no padding of its own to pool."
            )
        if self.lora is not None and self.stage == 1:
            raise ValueError("lora updates the language model, which stage 1 freezes; set it in stage 2 or 'vqa'.")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"give both of mean and std or neither, got {self.mean} and {self.std}.")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {self.std}.")

    def build(
        self,
        network: PreTrainedModel,
        *,
        markers: tuple[int, ...] = (),
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> MultimodalModel:
        """Return the trainable model around `network`, frozen as the stage has it.

        Args:
            network: what `assembling.assemble` or `from_pretrained` returned.
            markers: ids of the new tokens around an image, whose embeddings stage 1 trains.
            mean: the tower's own normalisation, where the settings do not say another.
            std: likewise.
        """
        from medalign_core.models.multimodal.model import MultimodalModel

        return MultimodalModel(network, self, markers=markers, mean=self.mean or mean, std=self.std or std)
