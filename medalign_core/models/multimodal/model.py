"""The multimodal model: a ChatBatch in, the autoregressive loss and the nodes of the graphs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from medalign_core.models.multimodal.adapters import add_lora, fold_lora
from medalign_core.models.multimodal.batch import IGNORED, ChatBatch, ChatOutput
from medalign_core.models.multimodal.cross_entropy import chunked_cross_entropy
from medalign_core.models.multimodal.freezing import freeze
from medalign_core.models.multimodal.packing import layout, pack, read, unpack
from medalign_core.models.multimodal.pooling import pool
from medalign_core.ops.cosine import at_least_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from medalign_core.models.multimodal.settings import Llava


class MultimodalModel(nn.Module):
    """A Llava network with its pixels' normalisation, its stage's freezing, and its passes over texts.

    Attributes:
        network: a transformers LlavaForConditionalGeneration or a MedAlignLlavaForConditionalGeneration.
        settings: what it was built by.
        markers: ids of new tokens around an image.
        new_rows: (len(markers), D) their embeddings in stage 1, where they train; None in other stages.
        image_token: the token id whose places the image tokens take.
        image_tokens: M, how many of them an image has.
        width: D, of the language model's hidden states and of the nodes.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        settings: Llava,
        *,
        markers: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.settings, self.markers = settings, tuple(markers)
        self.mean, self.std = tuple(mean), tuple(std)
        config: Any = network.config
        self.image_token: int = config.image_token_id
        self.image_tokens: int = config.image_seq_length
        self.width: int = config.text_config.hidden_size
        self._one_row = settings.text_nodes == "packed" and layout(self.decoder.config._attn_implementation)
        self.new_rows: nn.Parameter | None = None
        if settings.stage == 1 and self.markers:
            self.new_rows = nn.Parameter(self._embedding.weight.detach()[list(self.markers)].clone())
        if settings.lora is not None:
            add_lora(self.decoder, settings.lora)
        if settings.activation_checkpointing:
            self.decoder.activation_checkpointing_enable({"use_reentrant": False})
        freeze(self, settings.stage, lora=settings.lora is not None)
        self.train(self.training)

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.network.model.language_model

    def train(self, mode: bool = True) -> MultimodalModel:
        """Set the mode, of all but the vision tower: frozen, it stays in evaluation mode."""
        super().train(mode)
        self.network.model.vision_tower.eval()
        return self

    def forward(self, batch: ChatBatch) -> ChatOutput:
        """Return the loss over the assistant's tokens and the nodes of the image, answer and extended graphs.

        Every module runs whatever the batch holds, so that ranks make the same calls: a batch without an image gives
        the projector gradients that are zero, not missing.

        Raises:
            ValueError: a row's image tokens are not `image_tokens` with an image, none without.
        """
        self._check_slots(batch.conversation_tokens, batch.conversation_attended, batch.has_image)
        image = self.project(batch.images)
        mode = self.settings.text_nodes
        if mode == "packed":
            states, *nodes = self._packed_pass(batch, image)
        else:
            states = self._read(batch.conversation_tokens, batch.conversation_attended, image)
            if mode == "in_context":
                nodes = [pool(states, batch.conversation_labels != IGNORED)]
            else:
                nodes = [self._text_nodes(tokens, attended) for tokens, attended in _texts(batch)]
        answer, extended = (*nodes, None, None)[:2]
        loss, count = self._loss(states, batch)
        image_nodes = at_least_float32(image).mean(dim=1) * batch.has_image[:, None]
        return ChatOutput(loss, count, image_nodes, answer, extended)

    def project(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B M D"]:
        """Return the projected image tokens. Pixels are normalised in float32, whatever the tower's type."""
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (self.mean, self.std))
        pixels = (images.float() / 255.0 - mean) / std
        kind = next(p.dtype for p in self.network.model.vision_tower.parameters() if p.is_floating_point())
        tokens = self.network.model.get_image_features(pixels.to(kind), return_dict=True).pooler_output
        return torch.stack(list(tokens))

    @torch.no_grad()
    def generate(
        self,
        images: UInt8[Tensor, "B 3 H W"],
        tokens: Int[Tensor, "B L"],
        attended: Bool[Tensor, "B L"],
        *,
        max_new_tokens: int,
        stop: tuple[int, ...],
        padding: int,
        streamer: Any = None,
    ) -> Int[Tensor, "B T"]:
        """Return what the model says after each prompt, greedily, with a key-value cache.

        Args:
            images: zeros for a prompt without image tokens.
            tokens: the prompts, padded on either side; what pads them is moved to the left.
            attended: False for padding.
            max_new_tokens: the most tokens of an answer, >= 1.
            stop: token ids that end an answer; the one that ended it is returned with it.
            padding: the token id after an answer's end.
            streamer: a transformers streamer that is given each token as it comes, of a single prompt.
        """
        self._check_slots(tokens, attended, None)
        order = torch.sort(attended.long(), dim=1, stable=True).indices
        tokens, attended = tokens.gather(1, order), attended.gather(1, order)
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=list(stop),
            pad_token_id=padding,
        )
        embeddings = self._embed(tokens, self.project(images))
        said: Tensor = self.network.generate(
            inputs_embeds=embeddings, attention_mask=attended.long(), generation_config=config, streamer=streamer
        )
        return said

    @torch.no_grad()
    def log_likelihoods(
        self,
        images: UInt8[Tensor, "B 3 H W"],
        tokens: Int[Tensor, "B L"],
        attended: Bool[Tensor, "B L"],
        labels: Int[Tensor, "B L"],
    ) -> Float[Tensor, " B"]:
        """Return the sum over each row's targets of log p(token | tokens before it), in float32 at least.

        Args:
            images: zeros for a row without image tokens.
            tokens: prompts with what is said after them, padded on the right.
            attended: False for padding.
            labels: the ids of the targets, IGNORED elsewhere; not shifted.
        """
        self._check_slots(tokens, attended, None)
        states = self._read(tokens, attended, self.project(images))
        counted = labels[:, 1:] != IGNORED
        logits = at_least_float32(self.network.lm_head(states[:, :-1][counted]))
        chosen = logits.log_softmax(dim=1).gather(1, labels[:, 1:][counted][:, None])[:, 0]
        return chosen.new_zeros(len(tokens)).index_add(0, counted.nonzero()[:, 0], chosen)

    def fold(self) -> PreTrainedModel:
        """Write new rows and low-rank updates into the network's own weights, and return it: what is exported.

        A stage-1 model goes on training afterwards; one with LoRA has lost its updates and does not.
        """
        if self.new_rows is not None:
            with torch.no_grad():
                self._embedding.weight[list(self.markers)] = self.new_rows.to(self._embedding.weight.dtype)
        if self.settings.lora is not None:
            fold_lora(self.decoder)
        return self.network

    @property
    def _embedding(self) -> Any:
        return self.network.get_input_embeddings()

    def _embed(self, tokens: Tensor, image: Tensor | None = None, sample: Tensor | None = None) -> Tensor:
        """Return (R, P, D) input embeddings, image tokens in their places."""
        embeddings = self._embedding(tokens)
        if self.new_rows is not None:
            for row, marker in zip(self.new_rows, self.markers, strict=True):
                embeddings = torch.where((tokens == marker)[:, :, None], row.to(embeddings.dtype), embeddings)
        if image is None:
            return embeddings
        slots = tokens == self.image_token
        place = (slots.long().cumsum(dim=1) - 1).clamp(min=0) % self.image_tokens
        if sample is None:
            sample = torch.arange(len(tokens), device=tokens.device)[:, None]
        return torch.where(slots[:, :, None], image[sample, place].to(embeddings.dtype), embeddings)

    def _read(self, tokens: Tensor, attended: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the (B, L, D) last hidden states, after the final norm, of texts padded on the right."""
        embeddings = self._embed(tokens, image)
        return self.decoder(inputs_embeds=embeddings, attention_mask=attended, use_cache=False).last_hidden_state

    def _text_nodes(self, tokens: Tensor, attended: Tensor) -> Tensor:
        if self.settings.text_nodes == "embeddings":
            return pool(self._embed(tokens), attended)
        counted = torch.ones_like(attended) if self.settings.pooling == "with_padding" else attended
        return pool(self._read(tokens, attended), counted)

    def _packed_pass(self, batch: ChatBatch, image: Tensor) -> list[Tensor]:
        """Return the conversation's hidden states, and the nodes of the texts that the batch has."""
        texts = [(batch.conversation_tokens, batch.conversation_attended), *_texts(batch)]
        packed = pack(texts, one_row=self._one_row)
        states = read(self.decoder, packed, self._embed(packed.tokens, image, packed.sample))
        apart = [unpack(states, packed, text=s, attended=attended) for s, (_, attended) in enumerate(texts)]
        return [apart[0], *(pool(a, attended) for a, (_, attended) in zip(apart[1:], texts[1:], strict=True))]

    def _loss(self, states: Tensor, batch: ChatBatch) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy of the targets of valid rows, and how many there are."""
        targets = batch.conversation_labels[:, 1:]
        counted = (targets != IGNORED) & batch.valid[:, None]
        chosen = states[:, :-1][counted]
        loss = chunked_cross_entropy(self.network.lm_head, chosen, targets[counted], chunks=self.settings.loss_chunks)
        return loss, counted.sum()

    def _check_slots(self, tokens: Tensor, attended: Tensor, has_image: Tensor | None) -> None:
        slots = ((tokens == self.image_token) & attended).sum(dim=1)
        wrong = (slots != 0) & (slots != self.image_tokens)
        if has_image is not None:
            wrong = slots != self.image_tokens * has_image
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"row {row} has {int(slots[row])} image tokens; {self.image_tokens} with an image, 0 without one."
            )


def _texts(batch: ChatBatch) -> list[tuple[Tensor, Tensor]]:
    """Return (tokens, attended) of the answers and of the extended answers, where the batch has them."""
    pairs = (
        (batch.answer_tokens, batch.answer_attended),
        (batch.extended_tokens, batch.extended_attended),
    )
    return [(tokens, attended) for tokens, attended in pairs if tokens is not None and attended is not None]
