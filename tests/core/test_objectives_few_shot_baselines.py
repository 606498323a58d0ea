import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from few_shot_cases import DESCRIPTIONS, NAMES, batch_of, class_texts, features, support_of, tiny_clip, train
from torch.nn.functional import cross_entropy, normalize

from medalign_core.models.dual.encoder import VisualTokens
from medalign_core.objectives.few_shot.contract import ClassTexts, FewShotMethod, Support
from medalign_core.objectives.few_shot.coop import TCP, CoOp, KgCoOp
from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.objectives.few_shot.dude_adapter.settings import DudeAdapter
from medalign_core.objectives.few_shot.linear_probe import LinearProbe
from medalign_core.objectives.few_shot.logistic_regression import fit
from medalign_core.objectives.few_shot.plot import PLOT
from medalign_core.objectives.few_shot.registry import FEW_SHOT_METHODS
from medalign_core.objectives.few_shot.schedule import Schedule
from medalign_core.objectives.few_shot.tip_adapter import TipAdapterF
from medalign_core.objectives.few_shot.zero_shot import ZeroShot


def settings_of(name: str):
    module, kind = FEW_SHOT_METHODS[name].split(":")
    return getattr(importlib.import_module(module), kind)


def cosines(found: VisualTokens, texts: torch.Tensor) -> torch.Tensor:
    return normalize(found.pooled, dim=1) @ normalize(texts, dim=1).T


@pytest.mark.parametrize("name", FEW_SHOT_METHODS)
def test_every_method_keeps_the_contract(name):
    model, found = tiny_clip(), features(8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = settings_of(name)()
    method = settings.build(model, class_texts(), support_of(features(8, seed=1)), seed=0)
    assert isinstance(method, FewShotMethod)
    assert isinstance(settings.schedule, Schedule)
    learns = [p for p in method.parameters() if p.requires_grad]
    assert bool(learns) == (settings.schedule.epochs_for(4) > 0)
    if learns:
        losses = train(method, batch_of(found), steps=4, rate=1e-3)
        assert losses[-1] < losses[0] or name == "dude_adapter"  # whose dropout is drawn anew
    method.eval()
    with torch.no_grad():
        whole = method.logits(found)
        alone = method.logits(VisualTokens(found.tokens[3:4], found.pooled[3:4]))
    assert whole.shape == (8, 4)
    torch.testing.assert_close(alone[0], whole[3], rtol=1e-5, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if not settings.needs_descriptions:
        settings.build(model, class_texts(descriptions=()), support_of(found), seed=0)


@pytest.mark.parametrize("name", [name for name in FEW_SHOT_METHODS if settings_of(name)().needs_descriptions])
def test_missing_descriptions_are_refused(name):
    with pytest.raises(ValueError, match="descriptions"):
        settings_of(name)().build(tiny_clip(), class_texts(descriptions=()), None)


@pytest.mark.parametrize("settings", [LinearProbe(), TipAdapterF()])
def test_a_missing_support_is_refused(settings):
    with pytest.raises(ValueError, match="support"):
        settings.build(tiny_clip(), class_texts(), None)


def test_settings_import_no_torch():
    modules = sorted({path.split(":")[0] for path in FEW_SHOT_METHODS.values()})
    lines = [f"import {module}" for module in (*modules, "medalign_core.objectives.few_shot.registry")]
    code = "; ".join([*lines, "import sys", "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True)


def test_zero_shot_compares_with_the_filled_template_or_the_mean_description():
    model, found = tiny_clip(), features(5)
    plain = ZeroShot().build(model, class_texts(), None)
    expected = cosines(found, model.encode_texts([f"a photo of a {name}." for name in NAMES]))
    torch.testing.assert_close(plain.logits(found), model.scale * expected)
    described = ZeroShot(text="descriptions").build(model, class_texts(), None)
    units = normalize(model.encode_texts([text for part in DESCRIPTIONS for text in part]), dim=1)
    torch.testing.assert_close(
        described.logits(found), model.scale * cosines(found, units.unflatten(0, (4, 4)).mean(1))
    )


def test_logistic_regression_is_the_reference_optimum():
    from sklearn.linear_model import LogisticRegression

    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(40, 6)), np.arange(40) % 3
    x[:, 0] += y
    weights, intercept = fit(torch.from_numpy(x), torch.from_numpy(y), 3, inverse_penalty=0.5)
    with_one = np.concatenate([x, np.ones((40, 1))], axis=1)
    reference = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=5000).fit(with_one, y)
    found = torch.cat([weights, intercept[:, None]], dim=1).numpy()
    np.testing.assert_allclose(found, reference.coef_, atol=1e-5)


def test_a_class_without_support_has_finite_logits_and_is_never_preferred_to_those_seen():
    found = features(9)
    support = Support(features=found, labels=torch.tensor([0, 1, 3] * 3))
    method = LinearProbe().build(tiny_clip(), class_texts(), support)
    logits = method.logits(found)
    assert logits.isfinite().all()
    assert (logits.argmax(1) == support.labels).all()


def test_the_linear_probe_sees_features_at_the_root_of_the_scale():
    model, found = tiny_clip(scale=25.0), features(8)
    method = LinearProbe().build(model, class_texts(), support_of(found))
    weights, intercept = fit(5 * normalize(found.pooled, dim=1), torch.arange(8) % 4, 4, inverse_penalty=0.316)
    expected = 5 * normalize(found.pooled, dim=1) @ weights.T + intercept
    torch.testing.assert_close(method.logits(found), expected, rtol=1e-4, atol=1e-4)


def test_kgcoop_adds_the_anchor_to_the_loss_of_coop():
    model, batch = tiny_clip(), batch_of(features(8))
    kept = KgCoOp(context_length=5, context_words=None).build(model, class_texts(), seed=2)
    plain = CoOp(context_length=5).build(model, class_texts(), seed=2)
    prompts = plain.encode_prompts()
    frozen = normalize(model.encode_texts(class_texts().sentences), dim=1)
    expected = plain(batch)[0] + 8 * (1 - (prompts * frozen).sum(1).mean())
    loss, stats = kept(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(stats["cross_entropy"] + 8 * stats["anchor"], loss.detach())


def test_a_context_of_the_templates_own_words_starts_at_the_anchor():
    _, stats = KgCoOp().build(tiny_clip(), class_texts())(batch_of(features(4)))
    assert stats["anchor"] == pytest.approx(0, abs=1e-6)


def test_a_context_with_neither_words_nor_length_is_refused():
    with pytest.raises(ValueError, match="needs a length"):
        KgCoOp(context_words=None).build(tiny_clip(), class_texts())


def test_tcp_without_weight_is_kgcoop():
    model, found = tiny_clip(), features(4)
    plain = KgCoOp().build(model, class_texts()).logits(found)
    torch.testing.assert_close(TCP(weight=0.0).build(model, class_texts()).logits(found), plain, rtol=1e-5, atol=1e-5)
    assert (TCP().build(model, class_texts()).logits(found) - plain).abs().max() > 1e-2


def test_tcp_injects_what_the_bottleneck_makes_of_the_frozen_template():
    model, found = tiny_clip(), features(4)
    method = TCP(layer=1).build(model, class_texts())
    frozen = normalize(model.encode_texts(class_texts().sentences), dim=1)
    features_of = method.prompts(method.generator(frozen), layer=1, weight=1.0)[:, 0]
    torch.testing.assert_close(method.logits(found), model.scale * cosines(found, features_of))


def test_tip_adapter_is_zero_shot_plus_its_cache():
    model, found, cached = tiny_clip(), features(5), features(8, seed=1)
    method = TipAdapterF(alpha=0.7, beta=3.0).build(model, class_texts(), support_of(cached))
    similarity = normalize(found.pooled, dim=1) @ normalize(cached.pooled, dim=1).T
    expected = ZeroShot().build(model, class_texts(), None).logits(found)
    for image in range(5):
        for key in range(8):
            expected[image, key % 4] += 0.7 * (-3.0 * (1 - similarity[image, key])).exp()
    torch.testing.assert_close(method.logits(found), expected)
    assert [name for name, p in method.named_parameters() if p.requires_grad] == ["keys"]


@pytest.mark.parametrize("settings", [CoOp(), KgCoOp(), TCP(), TipAdapterF()])
def test_the_loss_of_the_baselines_has_the_right_gradient(settings):
    found = features(4, dtype=torch.float64)
    support = support_of(features(4, seed=1, dtype=torch.float64))
    method = settings.build(tiny_clip(dtype=torch.float64), class_texts(), support).double()
    learnt = {name: p.detach().clone().requires_grad_() for name, p in method.named_parameters() if p.requires_grad}

    def loss(*values):
        return torch.func.functional_call(method, dict(zip(learnt, values, strict=True)), (batch_of(found),))[0]

    assert torch.autograd.gradcheck(loss, tuple(learnt.values()), fast_mode=True)


def test_the_loss_is_a_mean_over_valid_images():
    found = features(4)
    method = CoOp(context_length=3).build(tiny_clip(), class_texts())
    labels, valid = torch.tensor([0, 1, -1, 3]), torch.tensor([True, True, False, True])
    expected = cross_entropy(method.logits(found)[valid], labels[valid])
    torch.testing.assert_close(method(batch_of(found, labels, valid=valid))[0], expected)


def test_epochs_are_those_of_the_next_larger_number_of_shots():
    assert [CoOp.schedule.epochs_for(shots) for shots in (1, 2, 4, 8, 16, 32)] == [50, 100, 100, 200, 200, 200]
    assert Schedule().epochs_for(4) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(optimizer="lion"), "optimizer"),
        (lambda: Schedule(epochs=((4, 1), (1, 2))), "rising"),
        (lambda: Schedule(learning_rate=0), "learning_rate"),
        (lambda: Coupling(tau_a=0), "tau_a must be in"),
        (lambda: Coupling(tau_b=1.1), "tau_b must be in"),
        (lambda: Coupling(kind="mean"), "kind"),
        (lambda: Coupling(kind="uniform", score="value"), "optimal value"),
        (lambda: Coupling(score="dot"), "score"),
        (lambda: Coupling(gradient="unroll"), "gradient"),
        (lambda: Coupling(epsilon=0), "epsilon"),
        (lambda: Dude(shared_n=0, class_k=0), "not both 0"),
        (lambda: Dude(shared_n=0), "need shared contexts"),
        (lambda: Dude(class_route="mean"), "class_route"),
        (lambda: Dude(views="mean"), "views"),
        (lambda: Dude(tcp_weight=2), "tcp_weight"),
        (lambda: Dude(class_weight=-1), "class_weight"),
        (lambda: Dude(chunk=0), "chunk"),
        (lambda: DudeAdapter(class_k=0), "class_k"),
        (lambda: DudeAdapter(match="mean"), "match"),
        (lambda: DudeAdapter(attn_share=2), "attn_share"),
        (lambda: PLOT(context_count=0), "context_count"),
        (lambda: CoOp(context_length=0), "context_length"),
        (lambda: KgCoOp(anchor_lambda=-1), "anchor_lambda"),
        (lambda: TCP(weight=-0.1), "weight"),
        (lambda: LinearProbe(inverse_penalty=0), "inverse_penalty"),
        (lambda: TipAdapterF(beta=0), "beta"),
        (lambda: ZeroShot(text="both"), "text"),
        (lambda: ClassTexts(names=("a", "a"), template="{}"), "differ"),
        (lambda: ClassTexts(names=("a",), template="x"), "template"),
        (lambda: replace(class_texts(), descriptions=((), (), (), ())), "at least one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
