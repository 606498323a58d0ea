"""Answers of tiny models: greedy as transformers', options by likelihood, controls, endpoints, conversations."""

import io
import json
import math
import sys
from contextlib import closing

import numpy as np
import prepared_here
import published_sets
import pytest
import tiny_multimodal
import torch
from chat_endpoint import ChatEndpoint, chat, refusal
from drawn_images import encoded, pixels
from transformers import GenerationConfig

from medalign.cli import main
from medalign.cli.chat_page import build_page, replies, shown
from medalign.data import job, manifest
from medalign.data.chat import IGNORE, tokenise, write_template
from medalign.data.decode import open_image
from medalign.data.dialogue import ask
from medalign.data.prepare import prepare
from medalign.data.reader import RowSource
from medalign.data.transform_rows import Blocks
from medalign.errors import RunError, UserError
from medalign.evaluation.vqa import answering
from medalign.evaluation.vqa.answerers import Multimodal, VisionLanguage, open_answerer, open_trained
from medalign.evaluation.vqa.answering import answer_questions
from medalign.evaluation.vqa.controls import shuffled_rows
from medalign.evaluation.vqa.conversation import Conversation
from medalign.evaluation.vqa.generation import (
    choice_log_likelihoods,
    generate_texts,
    read_answer,
    stop_of,
    write_prompt,
)
from medalign.evaluation.vqa.predictions import BLANK, CANDIDATES, GREEDY, SHUFFLED, read_predictions
from medalign.evaluation.vqa.questions import read_questions
from medalign.evaluation.vqa.result import load
from medalign.evaluation.vqa.settings import VqaSettings
from medalign.evaluation.vqa.task import evaluate_model, rescore
from medalign.language_models import Endpoint
from medalign.multimodal_tokens import V0_TEMPLATE

PROMPTS = ["Is the heart enlarged?\n<image>", "And?\n<image>", "Is the heart normal, or is there a nodule?\n<image>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_multimodal.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def opened(model):
    found = tiny_multimodal.read(model)
    found.model.eval()
    return found


@pytest.fixture(scope="module", params=[False, True])
def corpus(request, tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("rad"), external_ok=request.param)


def prepared(folder, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run", prepared_here.run_here)
        prepare(published_sets.vqa_rad(folder / "set"), format="vqa-rad", out=str(folder / "rad"), **options)
    return str(folder / "rad")


@pytest.fixture(scope="module")
def rad(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("rad"))


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def user(text):
    return [{"role": "user", "content": text}]


def test_greedy_texts_are_those_of_transformers_one_by_one(opened):
    shown = images(len(PROMPTS))
    found = generate_texts(opened, shown, [user(p) for p in PROMPTS], max_new_tokens=12, batch=2)
    network, tokenizer = opened.model.network, opened.tokenizer
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=list(stop_of(tokenizer)[1]), pad_token_id=4
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (opened.model.mean, opened.model.std))
    for prompt, image, text in zip(PROMPTS, shown, found, strict=True):
        ids = tokenizer(write_prompt(tokenizer, user(prompt), opened.slot), add_special_tokens=False)["input_ids"]
        values = ((torch.from_numpy(image).float() / 255 - mean) / std)[None]
        said = network.generate(input_ids=torch.tensor([ids]), pixel_values=values, generation_config=config)
        assert text == read_answer(tokenizer, said[0, len(ids) :].tolist())
    assert any(found)


def test_batches_and_their_order_do_not_change_answers(opened):
    shown, prompts = images(3), [user(p) for p in PROMPTS]
    one = generate_texts(opened, shown, prompts, max_new_tokens=8, batch=1)
    assert generate_texts(opened, shown, prompts, max_new_tokens=8, batch=3) == one
    back = generate_texts(opened, shown[::-1].copy(), prompts[::-1], max_new_tokens=8, batch=2)
    assert back[::-1] == one


def test_a_prompt_is_the_beginning_of_what_training_reads(opened):
    turns = ask("Is the heart normal?", "No.", choices=("Yes", "No"))
    tokenizer = opened.tokenizer
    learnt = tokenise(write_template(turns, tokenizer), tokenizer, max_length=500, image=opened.slot)
    prompt = write_prompt(tokenizer, user(turns[0]["value"]), opened.slot)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert list(learnt.ids[: len(ids)]) == ids
    assert set(learnt.labels[: len(ids)]) == {IGNORE}
    said = [label for label in learnt.labels if label != IGNORE]
    assert list(learnt.labels[len(ids) : len(ids) + len(said)]) == said
    assert said[-1] in stop_of(tokenizer)[1]


def test_a_stop_of_several_tokens_cuts_the_text(opened):
    own = opened.tokenizer.chat_template
    assert stop_of(opened.tokenizer)[0] == "<|im_end|>"
    assert len(stop_of(opened.tokenizer)[1]) == 2
    opened.tokenizer.chat_template = V0_TEMPLATE
    try:
        ids = opened.tokenizer("No nodule.\n### Human: more", add_special_tokens=False)["input_ids"]
        assert read_answer(opened.tokenizer, ids) == "No nodule."
    finally:
        opened.tokenizer.chat_template = own


def test_the_likelihood_of_an_option_is_the_product_of_its_tokens_and_its_stop(opened):
    shown, choices = images(1)[0], ("no", "No, the heart is normal.")
    found = choice_log_likelihoods(opened, shown, user(PROMPTS[0]), choices)
    tokenizer = opened.tokenizer
    prompt = tokenizer(write_prompt(tokenizer, user(PROMPTS[0]), opened.slot), add_special_tokens=False)["input_ids"]
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (opened.model.mean, opened.model.std))
    values = ((torch.from_numpy(shown).float() / 255 - mean) / std)[None]
    for choice, value in zip(choices, found, strict=True):
        answer = tokenizer(f"{choice}<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = opened.model.network(input_ids=torch.tensor([prompt + answer]), pixel_values=values).logits[0]
        logs = logits.log_softmax(-1)
        expected = sum(logs[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer))
        assert value == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="likelihoods need options"):
        choice_log_likelihoods(opened, shown, user("?"), ())


def test_an_image_that_cannot_be_decoded_is_a_failure_and_shifts_no_other(opened):
    answerer = Multimodal(opened, max_new_tokens=6)
    good = encoded(pixels(1), "PNG")
    both = answerer.answer([good, b"broken", good], [PROMPTS[0], PROMPTS[0], PROMPTS[1]])
    assert both[1] == ""
    assert [both[0], both[2]] == answerer.answer([good, good], PROMPTS[:2])
    assert answerer.choose([b"broken", good], PROMPTS[:2], [("yes", "no"), ()]) == ["", ""]


def test_a_shuffled_image_is_never_the_questions_own(rad):
    questions = read_questions(rad, "train")
    group = {question.row: question.group for question in questions}
    rows = shuffled_rows(questions, seed=3)
    assert all(group[int(row)] != question.group for row, question in zip(rows, questions, strict=True))
    assert {group[int(row)] for row in rows} == set(group.values())
    np.testing.assert_array_equal(rows, shuffled_rows(questions, seed=3))
    source = RowSource.open(rad, ("train",))
    own = np.array([question.row for question in questions])
    blocks = Blocks(source=source, rows=own, others=rows, columns=("group",), size=5)
    table = blocks.read(1)
    assert table["other_image"].to_pylist() == source.take(rows[5:10], ("image",))["image"].to_pylist()


def test_a_model_is_a_row_with_controls_and_options_and_follows_from_what_is_stored(rad, model, tmp_path, capsys):
    command = ["evaluate", model, "--corpus", rad, "--task", "vqa", "--controls", "--candidates"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--max-new-tokens", "6", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert "s per question" in printed
    found = load(str(tmp_path / "out"))
    rows = [s.decoding for s in found.scores]
    assert rows[:4] == [GREEDY, CANDIDATES, BLANK, SHUFFLED]
    assert {c.against for c in found.comparisons} == {"whole (blank image)", "whole (shuffled image)"}
    stored = {each.decoding: each for each in read_predictions(str(tmp_path / "out" / "predictions.parquet"))}
    asked = read_questions(rad, "test")
    assert list(stored[GREEDY].texts) == [q.id for q in asked]
    assert set(stored[CANDIDATES].texts.values()) <= {"Yes", "No"}
    assert len(stored[CANDIDATES].texts) == sum(bool(q.choices) for q in asked)


@pytest.mark.usefixtures("ray_local")
def test_actors_on_ray_say_what_this_process_says(rad, model):
    questions = read_questions(rad, "train", limit=7)
    options = {"name": "m", "max_new_tokens": 5, "batch": 1, "decodings": (GREEDY, SHUFFLED)}
    here, _ = answer_questions(model, rad, "train", questions, **options)
    there, seconds = answer_questions(model, rad, "train", questions, workers=1, **options)
    assert there == here
    assert seconds > 0


def test_an_endpoint_is_asked_only_where_the_manifest_allows_it(corpus, tmp_path):
    settings = VqaSettings(replicates=20)
    with closing(ChatEndpoint(otherwise=lambda _: chat("Yes"))) as endpoint:
        source = Endpoint(url=endpoint.url, model="far", is_json=False)
        if not manifest.read(corpus).external_ok:
            with pytest.raises(UserError, match="--external-ok"):
                evaluate_model(source, corpus=corpus, out=str(tmp_path / "out"), settings=settings)
            assert not endpoint.requests
            return
        found = evaluate_model(source, corpus=corpus, out=str(tmp_path / "out"), settings=settings)
        assert len(endpoint.requests) == found.questions
        image, text = endpoint.requests[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/")
    assert "<image>" not in text["text"]
    assert found.scores[0].model == "far"
    assert not found.scores[0].failures


def test_a_question_that_an_endpoint_rejects_is_a_failure(tmp_path):
    place = prepared(tmp_path, external_ok=True)
    with closing(ChatEndpoint(otherwise=lambda _: refusal(400, "too large"))) as endpoint:
        source = Endpoint(url=endpoint.url, model="far", is_json=False)
        found = evaluate_model(source, corpus=place, out=str(tmp_path / "o"), settings=VqaSettings(replicates=20))
    assert found.scores[0].failures == found.questions
    assert found.scores[0].metrics["closed_accuracy"].estimate == 0


def test_manifests_without_the_consent_stay_as_they_were(rad):
    text = manifest.read(rad).dumps()
    assert "external_ok" not in json.loads(text)
    assert not manifest.read(rad).external_ok


def test_a_run_without_an_export_says_what_to_do_and_with_one_is_a_model_of_its_seed(rad, tmp_path, model):
    (tmp_path / "recipe.yaml").write_text("run: {seed: 3}\ndata: {}\nmodel: {}\nobjective: {}\n")
    with pytest.raises(RunError, match="medalign export"):
        open_answerer(str(tmp_path))
    (tmp_path / "export").symlink_to(model)
    assert open_trained(str(tmp_path)) == str(tmp_path / "export")
    assert isinstance(open_answerer(str(tmp_path)), Multimodal)
    settings = VqaSettings(limit=2, max_new_tokens=2, replicates=10)
    found = evaluate_model(str(tmp_path), corpus=rad, settings=settings)
    assert found.scores[0].seed == 3
    assert (found.questions, found.uri) == (2, str(tmp_path / "evaluations" / "rad-vqa"))
    assert rescore(found.uri).dumps() == found.dumps()


OUTSIDE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_any_vision_language_directory_answers_by_its_own_processor_and_template(tmp_path):
    from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor

    source = tiny_multimodal.write(tmp_path)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        AutoTokenizer.from_pretrained(source),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=OUTSIDE,
    )
    processor.save_pretrained(source)
    outside = VisionLanguage(source, max_new_tokens=6, batch=2)
    shown = [encoded(pixels(n), "PNG") for n in range(3)]
    found = outside.answer([*shown, b"broken"], [*PROMPTS, PROMPTS[0]])
    assert found[3] == ""
    for data, prompt, text in zip(shown, PROMPTS, found, strict=False):
        asked = f"<|im_start|>user\n<image>\n{prompt.partition(chr(10))[0]}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(images=[open_image(data)], text=[asked], return_tensors="pt")
        said = outside.model.generate(**inputs, do_sample=False, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
        assert text == processor.batch_decode(said, skip_special_tokens=True)[0].strip()
    with pytest.raises(UserError, match="leave out --candidates"):
        outside.choose(shown[:1], PROMPTS[:1], [("yes", "no")])


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="not a vision-language directory"):
        VisionLanguage(str(tmp_path))


def test_a_conversation_streams_what_it_answers_and_remembers(opened):
    talk = Conversation(opened, encoded(pixels(2), "PNG"), max_new_tokens=10)
    written = io.StringIO()
    first = talk.say("Is the heart <image> enlarged?", write=written.write)
    assert written.getvalue().strip() == first
    assert talk.messages[0]["content"].count("<image>") == 1
    second = talk.say("And no nodule?")
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[-1]["content"] == second
    talk.forget()
    assert talk.say("Is the heart enlarged?") == Conversation(opened, encoded(pixels(2), "PNG"), max_new_tokens=10).say(
        "Is the heart enlarged?"
    )
    with pytest.raises(UserError, match="the image"):
        Conversation(opened, b"none")


def test_chat_answers_line_by_line_until_its_end(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.png").write_bytes(encoded(pixels(3), "PNG"))
    monkeypatch.setattr("sys.stdin", io.StringIO("Is the heart normal?\n/forget\n\n/quit\nnever\n"))
    with pytest.raises(SystemExit) as end:
        main(["chat", model, "--image", str(tmp_path / "x.png"), "--max-new-tokens", "5"])
    assert end.value.code == 0
    assert capsys.readouterr().out.count(">") == 4
    with pytest.raises(SystemExit) as end:
        main(["chat", model, "--image", str(tmp_path / "none.png")])
    assert end.value.code == 2


def test_seconds_are_of_greedy_answers(rad, model):
    rows = RowSource.open(rad, ("test",)).take(np.arange(2), ("conversations", "choices", "image"))
    answers = answering.Answers(model, classes=(), decodings=(GREEDY,), max_new_tokens=3, batch=2)
    found = answers(rows)
    assert all(math.isfinite(float(text)) for text in found[answering.SECONDS])


def test_a_pages_reply_grows_and_ends_as_the_conversation_would(opened, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded(pixels(2), "PNG"))
    talk = Conversation(opened, encoded(pixels(2), "PNG"), max_new_tokens=8)
    messages = []
    for text in ("Is the heart enlarged?", "And no nodule?"):
        found = list(replies(opened, tmp_path / "x.png", text, messages=messages, max_new_tokens=8))
        talk.say(text)
        messages = found[-1]
        assert messages == talk.messages
        lengths = [len(each[-1]["content"]) for each in found[:-1]]
        assert lengths == sorted(lengths)
    assert "<image>" not in shown(messages)[0]["content"]
    (tmp_path / "x.png").write_bytes(b"none")
    with pytest.raises(UserError, match="the image"):
        next(replies(opened, tmp_path / "x.png", "?", messages=[], max_new_tokens=2))
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="the page needs gradio"):
        build_page(opened, name="m")
