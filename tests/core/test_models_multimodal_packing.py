import pytest
import torch
from multimodal_cases import batch, build, language_model, padded
from torch import nn
from transformers import MambaConfig, MambaModel

from medalign_core.models.multimodal.packing import check_isolation, layout, pack, unpack

FIRST, SECOND = padded([[11, 12, 13], [21]]), padded([[31], [41, 42]])


def states_of(decoder: nn.Module, packed) -> torch.Tensor:
    with torch.no_grad():
        return decoder(
            input_ids=packed.tokens, attention_mask=None, position_ids=packed.positions, use_cache=False
        ).last_hidden_state


def test_a_row_holds_a_samples_texts_one_after_the_other_and_then_padding():
    packed = pack([FIRST, SECOND])
    assert packed.tokens.tolist() == [[11, 12, 13, 31], [21, 41, 42, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0], [0, 0, 1, 0]]
    assert packed.text.tolist() == [[0, 0, 0, 1], [0, 1, 1, -1]]
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
    check_isolation(language_model().get_decoder().to(torch.bfloat16))


def test_a_decoder_that_carries_state_over_the_border_is_found_out():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8, use_mambapy=False)

    class Positionless(nn.Module):
        def __init__(self):
            super().__init__()
            self.mamba = MambaModel(config)

        def forward(self, input_ids, position_ids=None, **options):
            return self.mamba(input_ids, use_cache=False)

    with pytest.raises(ValueError, match="Positionless does not keep texts apart"):
        check_isolation(Positionless())


def test_flash_attention_reads_positions_in_one_row_alone():
    assert [layout(name) for name in ("sdpa", "eager", "flex_attention", "flash_attention_2")] == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="'paged': take text_nodes 'separate'"):
        layout("paged")


def test_one_row_gives_the_model_the_same_output():
    model = build()
    given = batch(model, 4, without_image=(2,))
    expected = model(given)
    model._one_row = True
    for one, other in zip(model(given), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
