"""Predictions of questions: stored and read, complete or refused, scored as the metrics say, compared in pairs."""

import json
import math

import numpy as np
import prepared_here
import published_sets
import pytest

from medalign.cli import main
from medalign.data import job
from medalign.data.prepare import prepare
from medalign.errors import CorpusError, RunError, UserError
from medalign.evaluation.vqa import result as results
from medalign.evaluation.vqa.compare import compare
from medalign.evaluation.vqa.floors import predict_floors
from medalign.evaluation.vqa.predictions import CANDIDATES, Predictions, read_predictions, write_predictions
from medalign.evaluation.vqa.questions import Question, read_questions
from medalign.evaluation.vqa.scoring import groups_of, question_scores, score, statistics_of
from medalign.evaluation.vqa.settings import VqaSettings
from medalign.evaluation.vqa.task import compare_files, evaluate_predictions, rescore
from medalign_core.metrics.intervals import bootstrap_interval, paired_difference
from medalign_core.metrics.vqa import mean_statistic, vqa_scores

FEW = VqaSettings(replicates=50, seed=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run", prepared_here.run_here)
        prepare(published_sets.vqa_rad(folder / "set"), format="vqa-rad", out=str(folder / "rad"))
    return str(folder / "rad")


def ask(number: int, answer: str, kind: str = "CLOSED", *, group: str = "", choices=()) -> Question:
    return Question(
        row=number,
        id=str(number),
        question=f"Question {number}?",
        prompt=f"Question {number}?\n<image>",
        answer=answer,
        answer_type=kind,
        question_type="SIZE" if number % 2 else "PRES",
        choices=tuple(choices),
        group=group or f"image {number // 2}",
    )


QUESTIONS = [
    ask(0, "yes", choices=("Yes", "No")),
    ask(1, "left lung", "OPEN"),
    ask(2, "no", choices=("Yes", "No")),
    ask(3, "cyst of the kidney", "OPEN"),
    ask(4, "No", choices=("Yes", "No")),
]


def said(*texts: str, **options) -> Predictions:
    return Predictions(model=options.pop("model", "ours"), texts={str(n): t for n, t in enumerate(texts)}, **options)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_predictions_are_read_as_they_were_written(tmp_path, suffix):
    both = (said("yes", "", "ja \u2192 nein\nno"), said("no", "a", "b", seed=3, decoding=CANDIDATES))
    write_predictions(str(tmp_path / f"p.{suffix}"), both)
    assert read_predictions(str(tmp_path / f"p.{suffix}")) == both
    assert both[0].failures == 1


def test_records_as_llava_writes_them_are_taken_and_a_null_is_a_failure(tmp_path):
    lines = [
        {"question_id": 7, "text": "yes", "model_id": "llava-med"},
        {"question_id": "8", "text": None, "model_id": "llava-med"},
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (found,) = read_predictions(str(tmp_path / "answers.jsonl"))
    assert found == Predictions(model="llava-med", texts={"7": "yes", "8": ""})
    (tmp_path / "other.jsonl").write_text('{"question_id": 7, "prediction": 4}\n')
    assert read_predictions(str(tmp_path / "other.jsonl"))[0] == Predictions(model="other", texts={"7": "4"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question_id": 1, "prediction": "a"}\n' * 2, "record 2: the question id '1' occurs twice"),
        ('{"question_id": 1}\n', "record 1: no 'prediction'; it has: question_id"),
        ('{"prediction": "a"}\n', "no 'question_id'"),
        ("[1]\n", "line 1: not an object"),
        ("{\n", "line 1: not JSON"),
        ('{"question_id": 1, "prediction": ["a"]}\n', "must be text"),
        ("\n", "no predictions in it"),
    ],
)
def test_malformed_predictions_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        read_predictions(str(tmp_path / "p.jsonl"))


def test_incomplete_and_surplus_ids_are_refused(corpus, tmp_path):
    ids = [question.id for question in read_questions(corpus, "test")]
    for kept, message in ((ids[1:], f"1 of {len(ids)} questions have no prediction"), ([*ids, "x"], "none .x.")):
        file = str(tmp_path / "p.jsonl")
        write_predictions(file, [Predictions(model="m", texts=dict.fromkeys(kept, "yes"))])
        with pytest.raises(UserError, match=message):
            evaluate_predictions([file], corpus=corpus, settings=FEW)


def test_scores_are_those_of_the_metrics_and_failures_stay_in_the_denominator():
    given = said("yes", "the left", "", "renal cyst", "yes no")
    found = score(given, QUESTIONS, replicates=50)
    direct = vqa_scores(
        list(given.texts.values()),
        [q.answer for q in QUESTIONS],
        [q.answer_type for q in QUESTIONS],
        choices=[q.choices or None for q in QUESTIONS],
    )
    for name, values in direct.items():
        assert found.metrics[name].estimate == pytest.approx(np.nanmean(values)), name
    assert found.metrics["open_recall_corrected"].estimate == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.metrics["closed_accuracy"].estimate == pytest.approx(2 / 3)  # "yes no" contains "no", as published
    assert found.metrics["closed_accuracy_corrected"].estimate == pytest.approx(1 / 3)
    assert found.metrics["choice_accuracy_corrected"].estimate == pytest.approx(1 / 3)
    assert found.metrics["score_corrected"].estimate == pytest.approx((5 / 12 + 1 / 3) / 2)
    assert (found.failures, found.questions) == (1, 5)
    assert set(found.types) == {"PRES", "SIZE"}
    assert found.types["PRES"]["closed_accuracy_corrected"].estimate == pytest.approx(1 / 3)


def test_resampling_images_is_resampling_their_questions_together():
    values = np.array([1.0, np.nan, 0.0, 1.0, 1.0])
    ours = bootstrap_interval(
        statistics_of({"x": values}, QUESTIONS)["x"], groups_of(QUESTIONS), replicates=300, seed=2
    )
    groups = np.array([q.group for q in QUESTIONS])
    assert ours == bootstrap_interval(mean_statistic(values), groups, replicates=300, seed=2)


def test_the_likeliest_option_is_scored_on_questions_with_options_alone():
    chosen = Predictions(model="m", decoding=CANDIDATES, texts={"0": "Yes", "2": "Yes", "4": "No"})
    found = question_scores(chosen, QUESTIONS)
    np.testing.assert_array_equal(found["choice_accuracy_corrected"], [1, np.nan, 0, np.nan, 1])
    assert "closed_accuracy" not in found


def test_a_model_compared_with_itself_does_not_differ_and_a_better_one_does():
    many = [ask(n, "yes" if n % 3 else "no", choices=("Yes", "No"), group=f"i{n // 2}") for n in range(120)]
    right = [said(*(q.answer for q in many), seed=s) for s in range(3)]
    blind = [said(*("yes" for _ in many), seed=s, model="blind") for s in range(3)]
    same = compare(right, right, many, replicates=200)
    assert all(c.difference.estimate == 0 and c.verdict == "not distinguishable" for c in same)
    primary, *others = compare(right, blind, many, replicates=200)
    assert (primary.role, primary.metric, primary.verdict) == ("primary", "choice_accuracy_corrected", "higher")
    assert primary.difference.estimate == pytest.approx(1 / 3)
    assert all(c.adjusted >= c.difference.p_value for c in others)
    values = question_scores(right[0], many)["closed_accuracy"] - question_scores(blind[0], many)["closed_accuracy"]
    groups = np.array([q.group for q in many])
    expected = paired_difference([mean_statistic(values)] * 3, groups, replicates=200)
    (closed,) = [c for c in others if c.metric == "closed_accuracy"]
    assert closed.difference.low == pytest.approx(expected.low)
    assert closed.difference.high == pytest.approx(expected.high)


def test_models_without_a_common_seed_are_not_paired():
    first = [said("a", "b", "c", "d", "e", seed=s) for s in (0, 1)]
    with pytest.raises(UserError, match="no seed in common"):
        compare(first, [said("a", "b", "c", "d", "e", seed=s) for s in (2, 3)], QUESTIONS)
    with pytest.raises(UserError, match="each seed once; ours has 3 entries"):
        compare([*first, first[0]], first, QUESTIONS)


def test_files_of_several_systems_stand_in_one_table_and_none_of_them_twice(corpus, tmp_path):
    texts = {question.id: "yes" for question in read_questions(corpus, "test")}
    files = [str(tmp_path / f"{name}.jsonl") for name in ("first", "second")]
    for file in files:
        write_predictions(file, [Predictions(model=file[-12:], texts=texts)])
    found = evaluate_predictions(files, corpus=corpus, settings=FEW)
    assert sum(s.decoding == "greedy" for s in found.scores) == 2
    assert rescore(found.uri).dumps() == found.dumps()
    with pytest.raises(UserError, match="are there twice"):
        evaluate_predictions([files[0], files[0]], corpus=corpus, settings=FEW)


def test_floors_see_the_train_questions_alone_and_stand_in_the_same_table(corpus, tmp_path):
    questions = read_questions(corpus, "test")
    file = str(tmp_path / "p.jsonl")
    write_predictions(file, [Predictions(model="m", texts={q.id: q.answer for q in questions})])
    found = evaluate_predictions([file], corpus=corpus, settings=FEW)
    names = [(s.model, s.decoding) for s in found.scores]
    assert names[:2] == [("m", "greedy"), ("majority per type", "floor")]
    assert ("nearest question of the image", "floor") in names  # the standard split shares its images
    assert any("do" in note and "unseen" in note for note in found.notes)
    assert found.scores[0].metrics["closed_accuracy_corrected"].estimate == 1
    assert all(s.questions == len(questions) for s in found.scores)
    assert predict_floors((), questions) == []


def test_scores_follow_again_from_what_is_stored(corpus, tmp_path):
    questions = read_questions(corpus, "test")
    file = str(tmp_path / "p.parquet")
    write_predictions(file, [Predictions(model="m", texts={q.id: "yes" for q in questions})])
    found = evaluate_predictions([file], corpus=corpus, settings=FEW)
    assert results.load(found.uri).dumps() == found.dumps() == rescore(found.uri).dumps()
    assert "| m | greedy | 0 | 0 |" in found.markdown()
    with pytest.raises(RunError, match="no evaluation here"):
        results.load(str(tmp_path))


def test_the_command_scores_and_compares_files(corpus, tmp_path, capsys):
    questions = read_questions(corpus, "test")
    files = []
    for name, text in (("ours", None), ("theirs", "yes")):
        files.append(str(tmp_path / f"{name}.jsonl"))
        write_predictions(files[-1], [Predictions(model=name, texts={q.id: text or q.answer for q in questions})])
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--predictions", files[0], "--against", files[1], "--corpus", corpus, "--task", "vqa"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert "majority per type (floor)" in printed
    assert "ours - theirs" in printed
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--corpus", corpus, "--task", "vqa"])
    assert end.value.code == 2
    assert "give one of MODEL, --predictions and --endpoint, got none" in capsys.readouterr().err
    assert compare_files(files[:1], files[1:], corpus=corpus, settings=FEW)[0].difference.estimate > 0


def test_a_corpus_of_classes_asks_what_the_image_shows(tmp_path, monkeypatch):
    from drawn_images import write_folder

    monkeypatch.setattr(job, "run", prepared_here.run_here)
    write_folder(tmp_path / "images")
    manifest = prepare(
        str(tmp_path / "images"), format="image-folder", out=str(tmp_path / "c"), fractions={"test": 0.5}
    )
    questions = read_questions(str(tmp_path / "c"), "test")
    assert all(q.choices == manifest.classes and q.right_choice == q.answer for q in questions)
    assert "Answer with either" in questions[0].prompt
    assert "<image>" in questions[0].prompt


def test_conversations_are_no_questions(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "run", prepared_here.run_here)
    source, _ = published_sets.llava_med(tmp_path / "set")
    prepare(source, format="llava-med", out=str(tmp_path / "c"), fractions={})
    with pytest.raises(CorpusError, match="a corpus of conversations"):
        read_questions(str(tmp_path / "c"), "train")


def test_an_interval_needs_two_images():
    found = score(said("yes"), QUESTIONS[:1], replicates=20)
    assert math.isnan(found.metrics["closed_accuracy"].low)
