import pytest
import torch
from multimodal_cases import batch, build, language_model, padded
from torch import nn
from transformers import MambaConfig, MambaModel, MistralConfig, MistralModel

from medalign_core.models.multimodal.packing import check_isolation, layout, pack, read, unpack

FIRST, SECOND = padded([[11, 12, 13], [21]]), padded([[31], [41, 42]])


def states_of(decoder: nn.Module, packed) -> torch.Tensor:
    with torch.no_grad():
        return read(decoder, packed, decoder.get_input_embeddings()(packed.tokens))


def test_a_row_holds_a_samples_texts_one_after_the_other_and_then_padding():
    packed = pack([FIRST, SECOND])
    assert packed.tokens.tolist() == [[11, 12, 13, 31], [21, 41, 42, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0], [0, 0, 1, 0]]
    assert packed.text.tolist() == [[False] * 3 + [True], [0, 1, 1, -1]]
    assert packed.sample.tolist() == [[0] * 4, [1] * 4]


def test_one_row_holds_all_samples_without_padding():
    packed = pack([FIRST, SECOND], one_row=True)
    assert packed.tokens.tolist() == [[11, 12, 13, 31, 21, 41, 42]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 0, 1]]
    assert packed.sample.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("one_row", [False, True])
def test_unpacking_puts_each_value_where_its_token_stood(one_row):
    packed = pack([FIRST, SECOND], one_row=one_row)
    values = packed.tokens[:, :, None].float()
    for text, (tokens, attended) in enumerate((FIRST, SECOND)):
        assert torch.equal(unpack(values, packed, text=text, attended=attended)[:, :, 0], tokens * attended.float())


def test_texts_of_other_lengths_pack_after_more_padding_alike():
    longer = padded([[11, 12, 13], [21]], extra=3)
    assert torch.equal(pack([FIRST, SECOND]).tokens, pack([longer, SECOND]).tokens)


WAYS = [
    ("sdpa", False),
    ("sdpa", True),
    ("eager", False),
    ("eager", True),
    ("medalign_varlen", True),
    pytest.param("flex_attention", False, marks=pytest.mark.slow),  # it compiles itself
]


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.parametrize(("attention", "one_row"), WAYS)
def test_perturbing_one_text_changes_no_other(attention, one_row):
    torch.manual_seed(0)
    decoder = language_model(attention=attention).get_decoder().eval()
    texts = [padded([[11, 12, 13, 14], [21, 22]]), padded([[31, 32], [41, 42, 43]]), padded([[51, 52, 53], [61]])]
    before = states_of(decoder, pack(texts, one_row=one_row))
    for changed in range(3):
        other = [(tokens + (text == changed), attended) for text, (tokens, attended) in enumerate(texts)]
        packed = pack(other, one_row=one_row)
        after = states_of(decoder, packed)
        for text, (_, attended) in enumerate(texts):
            difference = (
                unpack(after, packed, text=text, attended=attended)
                - unpack(before, packed, text=text, attended=attended)
            ).abs()
            assert bool((difference > 1e-6).any()) == (text == changed)


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.parametrize(("attention", "one_row"), WAYS)
def test_packed_hidden_states_are_those_of_separate_passes(attention, one_row):
    torch.manual_seed(0)
    decoder = language_model(attention=attention).get_decoder().eval()
    texts = [padded([[11, 12, 13, 14], [21, 22]]), padded([[31, 32], [41, 42, 43]])]
    packed = pack(texts, one_row=one_row)
    states = states_of(decoder, packed)
    for text, (tokens, attended) in enumerate(texts):
        with torch.no_grad():
            apart = decoder(input_ids=tokens, attention_mask=attended, use_cache=False).last_hidden_state
        together = unpack(states, packed, text=text, attended=attended)
        torch.testing.assert_close(together, apart * attended[:, :, None], atol=1e-5, rtol=1e-5)


def test_a_decoder_that_keeps_texts_apart_passes_the_check():
    for one_row in (False, True):
        check_isolation(language_model().get_decoder(), one_row=one_row)
    check_isolation(language_model(attention="medalign_varlen").get_decoder(), one_row=True)
    check_isolation(language_model().get_decoder().to(torch.bfloat16))


def test_a_decoder_that_carries_state_over_the_border_is_found_out():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8, use_mambapy=False)

    class Positionless(nn.Module):
        def __init__(self):
            super().__init__()
            self.mamba = MambaModel(config)

        def get_input_embeddings(self):
            return self.mamba.get_input_embeddings()

        def forward(self, inputs_embeds, **options):
            return self.mamba(inputs_embeds=inputs_embeds, use_cache=False)

    with pytest.raises(ValueError, match="Positionless does not keep texts apart"):
        check_isolation(Positionless())


def test_varlen_attention_that_is_not_told_the_borders_is_found_out():
    decoder = language_model(attention="medalign_varlen").get_decoder()
    whole = decoder.forward
    decoder.forward = lambda **given: whole(**{k: v for k, v in given.items() if not k.startswith("cu_seq")})
    with pytest.raises(ValueError, match="does not keep texts apart"):
        check_isolation(decoder, one_row=True)


def test_flash_attention_reads_positions_in_one_row_alone():
    assert [layout(name) for name in ("sdpa", "eager", "flex_attention", "flash_attention_2")] == [False] * 3 + [True]
    with pytest.raises(ValueError, match="'paged': take text_nodes 'separate'"):
        layout("paged")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_varlen_attention_gives_the_same_output_and_the_same_gradients(checkpointing):
    results = []
    for attention in ("sdpa", "medalign_varlen"):
        model = build(attention=attention, activation_checkpointing=checkpointing).train()
        output = model(batch(model, 4, without_image=(2,)))
        (output.ar_loss_sum + output.answer_nodes.square().sum() + output.extended_nodes.square().sum()).backward()
        results.append((output, [p.grad for p in model.parameters() if p.requires_grad]))
    (one, gradients), (other, wanted) = results
    for a, b in zip((*one, *gradients), (*other, *wanted), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_varlen_attention_is_sdpa_where_nothing_is_packed():
    outputs = []
    for attention in ("sdpa", "medalign_varlen"):
        model = build(attention=attention, text_nodes="separate").eval()
        given = batch(model, 4, without_image=(2,))
        said = model.generate(
            given.images, given.conversation_tokens, given.conversation_attended, max_new_tokens=4, stop=(2,), padding=0
        )
        outputs.append((*model(given), said))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sliding_window_shorter_than_the_row_is_kept():
    config = MistralConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    states = []
    for attention in ("sdpa", "medalign_varlen"):
        torch.manual_seed(0)
        decoder = MistralModel._from_config(config, attn_implementation=attention).eval()
        texts = [padded([[11, 12, 13, 14, 15, 16]]), padded([[31, 32, 33, 34, 35]])]
        states.append(states_of(decoder, pack(texts, one_row=True)))
    torch.testing.assert_close(*states)
