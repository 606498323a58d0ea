"""Conversations through the stream: the rows the order names, holes in their places, the same through Ray Data."""

import threading
from dataclasses import fields
from pathlib import Path

import drawn_chats
import numpy as np
import pytest
import torch

from medalign.data.batches import BatchStream
from medalign.data.chat_decode import ChatDecoder
from medalign.data.decode import decode_image
from medalign.data.order import Order
from medalign.data.reader import RowSource
from medalign.data.settings import Data
from medalign.data.stream import fold, receive, training_dataset, unfold
from medalign.multimodal_tokens import open_words
from medalign_core.models.multimodal.batch import IGNORED, ChatBatch
from medalign_core.models.multimodal.settings import Llava


def tear_some(split: str, i: int, row: dict) -> None:
    if i % 13 == 4:
        row["image"] = row["image"][:50]
    if i == 10:  # longer than the limit, so that nothing is left to learn
        row["conversations"][0]["value"] += " " + "why " * 200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("chats")
    drawn_chats.write_corpus(at / "corpus", {"train": 70}, tear_some)
    drawn_chats.write_tower(at / "tower")
    return at


def stream_of(place: Path, world: int, *, texts: tuple = ("answer", "extended"), **model: object) -> BatchStream:
    corpus = str(place / "corpus")
    source = RowSource.open(corpus, ("train",))
    order = Order(seed=2, row_groups=source.sizes, micro_batch=4, global_batch=12, shuffle_rows=24)
    settings = Llava(vision=str(place / "tower"), language="tiny_bytes", max_length=400, **model)
    decoder = ChatDecoder(settings, drawn_chats.SIDE, texts)
    return BatchStream(order, source, Data(corpus=corpus, image_size=drawn_chats.SIDE), world, decoder)


def assert_same(found: ChatBatch, expected: ChatBatch) -> None:
    for field in fields(ChatBatch):
        values = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(values[1], torch.Tensor):
            assert values[0].dtype == values[1].dtype, field.name
            assert torch.equal(*values), field.name
        else:
            assert values[0] == values[1], field.name


def test_a_batch_holds_the_tokens_and_pixels_of_the_rows_that_the_order_names(place: Path) -> None:
    stream = stream_of(place, 1)
    words = open_words(stream.decoder.model)
    rows = stream.source.take(np.arange(70), ("image", "conversations", "conversations_long")).to_pylist()
    batches = list(stream.plain(0, start=0, stop=7))  # into the second epoch
    assert [tuple(b.key) for b in batches] == [(2, step, m) for step in range(7) for m in range(3)]
    for batch in batches:
        assert batch.conversation_tokens.shape[1] == batch.conversation_attended.sum(1).max()
        for n, number in enumerate(batch.ids.tolist()):
            assert batch.valid[n] == batch.has_image[n] == (number % 13 != 4 and number != 10)
            if not batch.valid[n]:
                continue
            row = rows[number]
            (question, answer), long = row["conversations"], row["conversations_long"]
            assert np.array_equal(batch.images[n], decode_image(row["image"], drawn_chats.SIDE))
            tokens = batch.conversation_tokens[n][batch.conversation_attended[n]]
            said = words.tokenizer.decode(tokens)
            assert said.count("<image>") == 16
            assert question["value"].replace("<image>", words.slot) in said
            learnt = batch.conversation_labels[n][batch.conversation_labels[n] != IGNORED]
            assert words.tokenizer.decode(learnt) == f"{answer['value']}<|im_end|>"
            assert words.tokenizer.decode(batch.answer_tokens[n][batch.answer_attended[n]]) == answer["value"]
            extended = words.tokenizer.decode(batch.extended_tokens[n][batch.extended_attended[n]])
            assert extended == (long[1]["value"] if long else "")


def test_samples_of_one_picture_or_of_one_answer_share_an_id(place: Path) -> None:
    stream = stream_of(place, 1)
    words = [row["answer"] for row in stream.source.take(np.arange(70), ("answer",)).to_pylist()]
    batches = list(stream.plain(0, start=0, stop=5))
    rows = {int(r): (int(i), int(a)) for b in batches for r, i, a in zip(b.ids, b.image_ids, b.answer_ids, strict=True)}
    holes = {row for row in rows if row % 13 == 4 or row == 10}
    assert all(rows[row] == (-1, -1) for row in holes)
    good = sorted(rows.keys() - holes)
    assert all(0 <= number < 2**63 for row in good for number in rows[row])
    for first in good:
        for second in good:
            assert (rows[first][0] == rows[second][0]) == (first // 2 == second // 2)
            assert (rows[first][1] == rows[second][1]) == (words[first] == words[second])


def test_texts_that_no_graph_needs_are_not_there(place: Path) -> None:
    batch = next(stream_of(place, 1, texts=("answer",)).plain(0, start=0, stop=1))
    assert batch.answer_tokens is not None
    assert batch.extended_tokens is None
    assert next(stream_of(place, 1, texts=()).plain(0, start=0, stop=1)).answer_tokens is None


def test_v0_and_its_published_labels_are_a_choice_of_the_model(place: Path) -> None:
    v0, published = (
        next(stream_of(place, 1, chat="v0", learn=learn).plain(0, start=1, stop=2))
        for learn in ("assistant", "published")
    )
    assert torch.equal(v0.conversation_tokens, published.conversation_tokens)
    said = open_words(Llava(vision=str(place / "tower"), language="tiny_bytes")).tokenizer.decode
    assert v0.valid.any()
    for n in v0.valid.nonzero().flatten():
        assert "### Human: " in said(v0.conversation_tokens[n][v0.conversation_attended[n]])
        assert said(v0.conversation_labels[n][v0.conversation_labels[n] != IGNORED]).endswith("\n###")
        learnt = said(published.conversation_labels[n][published.conversation_labels[n] != IGNORED])
        assert learnt.startswith("###### Assistant: ")


def test_a_stream_that_begins_later_gives_what_was_left(place: Path) -> None:
    stream = stream_of(place, 2)
    for rank in range(2):
        whole = list(stream.plain(rank, start=0, stop=7))
        for batch, expected in zip(stream.plain(rank, start=4, stop=7), whole[8:], strict=True):
            assert_same(batch, expected)


def test_a_padding_micro_batch_has_no_tokens_and_counts_nothing(place: Path) -> None:
    padding = [b for b in stream_of(place, 2).plain(1, start=0, stop=2) if not b.weight]
    assert len(padding) == 2
    for batch in padding:
        assert not batch.valid.any()
        assert not batch.conversation_attended.any()
        assert batch.conversation_tokens.shape == (4, 1)
        assert (batch.conversation_labels == IGNORED).all()


def test_a_block_of_conversations_is_folded_into_one_row_and_back(place: Path) -> None:
    stream = stream_of(place, 2)
    (window,) = stream.order.windows(0, 2)
    for block in stream.read_window(window, together=2):
        assert unfold(fold(block)).to_pylist() == block.to_pylist()


def read(shard: object, stream: BatchStream, rank: int, span: tuple[int, int]) -> list[ChatBatch]:
    return list(receive(shard, stream, rank=rank, start=span[0], stop=span[1]))


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("world", [1, 2])
def test_ray_data_delivers_the_plain_stream_of_conversations(place: Path, world: int) -> None:
    stream, span = stream_of(place, world), (3, 8)  # from the middle of a window, over the end of an epoch
    shards = training_dataset(stream, start=span[0], stop=span[1]).streaming_split(world, equal=True)
    found: dict[int, list[ChatBatch]] = {}
    readers = [
        threading.Thread(target=lambda r=r: found.update({r: read(shards[r], stream, r, span)})) for r in range(world)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=240)
    for rank in range(world):
        expected = list(stream.plain(rank, start=span[0], stop=span[1]))
        assert len(found[rank]) == len(expected)
        for batch, wanted in zip(found[rank], expected, strict=True):
            assert_same(batch, wanted)
