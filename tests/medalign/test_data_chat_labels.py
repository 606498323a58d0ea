"""Labels of chats: decoding what is learnt gives exactly what the assistant says and its stop, in every format."""

import pytest
from small_tokenizers import BLANK, CHATML, LLAMA_2, TALK, THINKING, byte_level, llama_like
from transformers import PreTrainedTokenizerFast

from medalign.data import chat
from medalign.data.dialogue import ask
from medalign.errors import CorpusError
from medalign.multimodal_tokens import V0_TEMPLATE


def learnt(tokens: chat.Tokens, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the text of each run of tokens that are learnt."""
    runs: list[list[int]] = [[]]
    for token, label in zip(tokens.ids, tokens.labels, strict=True):
        assert label in (token, chat.IGNORE)
        if label == chat.IGNORE:
            runs.append([])
        else:
            runs[-1].append(token)
    if BLANK not in tokenizer.get_vocab():
        return [tokenizer.decode(run).strip(" ") for run in runs if run]
    # decoding takes the blank off a first word, and these are not first
    pieces = ("".join(tokenizer.convert_ids_to_tokens(run)) for run in runs if run)
    return [text.replace(BLANK, " ").strip(" ") for text in pieces]


@pytest.mark.parametrize("make", [byte_level, llama_like])
def test_v0_learns_what_the_assistant_says_and_the_marker_that_stops_it(make):
    tokenizer = make()
    tokens = chat.tokenise(chat.write_v0(TALK), tokenizer, max_length=2048)
    assert learnt(tokens, tokenizer) == ["No, the heart is normal.\n###", "no\n###"]
    assert tokens.cut == 0


@pytest.mark.parametrize("make", [byte_level, llama_like])
def test_v0_as_published_learns_every_marker_of_a_human_turn_and_the_assistants_own_head(make):
    tokenizer = make()
    tokens = chat.tokenise(chat.write_v0(TALK, learn="published"), tokenizer, max_length=2048)
    assert learnt(tokens, tokenizer) == [
        "###",
        "### Assistant: No, the heart is normal.\n###",
        "### Assistant: no\n###",
    ]


def test_v0_writes_the_system_sentence_an_empty_line_and_turns():
    text = chat.write_v0(ask("Q?", "A."), system="S.").text
    assert text == "S.\n\n### Human: Q?\n<image>\n### Assistant: A.\n### "


def test_the_v0_format_as_a_chat_template_gives_the_same_tokens_and_labels():
    tokenizer = llama_like(V0_TEMPLATE)
    own = chat.tokenise(chat.write_v0(TALK), tokenizer, max_length=2048)
    templated = chat.tokenise(chat.write_template(TALK, tokenizer), tokenizer, max_length=2048)
    assert templated.ids[0] == own.ids[0] == tokenizer.bos_token_id
    assert learnt(templated, tokenizer) == learnt(own, tokenizer)
    assert tokenizer.decode(templated.ids[1:]) == tokenizer.decode(own.ids[1:])


def test_llama_gets_its_start_token_once():
    tokenizer = llama_like()
    start = tokenizer.bos_token_id
    v0 = chat.tokenise(chat.write_v0(TALK), tokenizer, max_length=2048)
    own = chat.tokenise(chat.write_template(TALK, tokenizer), tokenizer, max_length=2048)
    assert (v0.ids[0], v0.ids.count(start)) == (start, 1)
    assert (own.ids[0], own.ids.count(start)) == (start, 2)  # this template writes one for each question


@pytest.mark.parametrize(
    ("make", "template", "stop"),
    [(byte_level, CHATML, "<|im_end|>"), (byte_level, THINKING, "<|im_end|>"), (llama_like, LLAMA_2, " </s>")],
)
def test_a_template_is_followed_and_only_the_answers_and_their_stops_are_learnt(make, template, stop):
    tokenizer = make(template)
    written = chat.write_template(TALK, tokenizer)
    messages = [{"role": {"human": "user", "gpt": "assistant"}[t["from"]], "content": t["value"]} for t in TALK]
    assert written.text == tokenizer.apply_chat_template(messages, tokenize=False)
    tokens = chat.tokenise(written, tokenizer, max_length=2048)
    assert learnt(tokens, tokenizer) == [f"No, the heart is normal.{stop}", f"no{stop}"]
    assert list(tokens.ids) == tokenizer(written.text, add_special_tokens=False)["input_ids"]


def test_an_answer_that_occurs_elsewhere_is_learnt_only_where_the_assistant_says_it():
    talk = ask("assistant user no?", "no")
    tokenizer = byte_level()
    tokens = chat.tokenise(chat.write_template(talk, tokenizer), tokenizer, max_length=2048)
    assert learnt(tokens, tokenizer) == ["no<|im_end|>"]


def test_the_system_sentence_is_written_and_not_learnt():
    tokenizer = byte_level()
    written = chat.write_template(TALK, tokenizer, system="Be brief.")
    assert written.text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert learnt(chat.tokenise(written, tokenizer, max_length=2048), tokenizer)[0].startswith("No, the heart")


def test_templates_that_would_not_teach_to_stop_or_lose_answers_are_refused():
    for template, message in (
        (None, "no chat template"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "never learn to stop"),
        ("{% for m in messages[2:] %}{{ m['content'] }}</s>{% endfor %}", "drops an answer"),
    ):
        with pytest.raises(CorpusError, match=message):
            chat.write_template(TALK, byte_level(template))


@pytest.mark.parametrize("style", ["v0", "template"])
def test_the_image_takes_its_tokens_and_the_spans_move_with_it(style):
    tokenizer = byte_level()
    written = chat.write_v0(TALK) if style == "v0" else chat.write_template(TALK, tokenizer)
    tokens = chat.tokenise(written, tokenizer, max_length=2048, image="<patch>" * 256)
    patch = tokenizer.convert_tokens_to_ids("<patch>")
    assert tokens.ids.count(patch) == 256
    assert patch not in tokens.labels
    plain = chat.tokenise(written, tokenizer, max_length=2048)
    assert learnt(tokens, tokenizer) == learnt(plain, tokenizer)


def test_what_the_limit_cuts_is_counted_and_a_sample_that_it_empties_or_whose_image_it_cuts_is_refused():
    tokenizer = byte_level()
    written = chat.write_template(TALK, tokenizer)
    whole = chat.tokenise(written, tokenizer, max_length=2048, image="<patch>" * 16)
    first = next(n for n, label in enumerate(whole.labels) if label != chat.IGNORE)
    short = chat.tokenise(written, tokenizer, max_length=first + 2, image="<patch>" * 16)
    assert short.ids == whole.ids[: first + 2]
    assert short.cut == len(whole.ids) - first - 2
    with pytest.raises(CorpusError, match="every label is masked"):
        chat.tokenise(written, tokenizer, max_length=first, image="<patch>" * 16)
    last = len(whole.ids) - 1 - whole.ids[::-1].index(tokenizer.convert_tokens_to_ids("<patch>"))
    with pytest.raises(CorpusError, match=f"the limit of {last} cuts through the image's"):
        chat.tokenise(written, tokenizer, max_length=last, image="<patch>" * 16)


def test_a_check_counts_what_is_cut_and_names_what_cannot_be_learnt():
    tokenizer = byte_level()

    def tokens_of(talk):
        return chat.tokenise(chat.write_template(talk, tokenizer), tokenizer, max_length=60)

    samples = [("a", ask("Q?", "A.")), ("b", ask("Q?", "xyz" * 40)), ("c", ask("Q?", "no"))]
    found = chat.check(samples, tokens_of)
    assert (found.samples, found.cut) == (3, 1)
    assert found.longest > 60
    with pytest.raises(CorpusError, match=r"1 of 4 samples cannot be learnt: far .197 tokens: the limit of 60"):
        chat.check([*samples, ("far", ask("xyz" * 60, "no"))], tokens_of)


def test_the_text_of_the_graphs_is_the_answers_alone_on_one_line():
    talk = [*TALK[:1], {"from": "gpt", "value": "One\ntwo"}, *TALK[2:]]
    assert chat.answer_text(talk) == "One two. no"
