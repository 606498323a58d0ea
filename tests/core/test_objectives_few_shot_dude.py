import math
from dataclasses import replace

import pytest
import torch
from few_shot_cases import DESCRIPTIONS, NAMES, batch_of, class_texts, features, support_of, tiny_clip, train
from torch.nn.functional import cross_entropy, normalize

from medalign_core.models.dual.encoder import CONTEXT_START, VisualTokens
from medalign_core.objectives.few_shot.coop import CoOp
from medalign_core.objectives.few_shot.coupling import Coupling
from medalign_core.objectives.few_shot.dude.settings import Dude
from medalign_core.objectives.few_shot.dude_adapter.settings import DudeAdapter
from medalign_core.objectives.few_shot.plot import PLOT

SHARP = Coupling(epsilon=0.05, tol=1e-12)
ROUTES = ["tcp_inject", "attn_pool", "atoms"]


def built(*, dtype: torch.dtype = torch.float64, texts=None, seed: int = 0, **settings):
    settings = {"coupling": SHARP, **settings}
    method = Dude(**settings).build(tiny_clip(dtype=dtype), texts or class_texts(), seed=seed)
    return method.to(dtype)


def units_of(method, sentences) -> torch.Tensor:
    """Unit features of texts by the method's own frozen tower."""
    model = tiny_clip(dtype=torch.float64)
    return normalize(model.encode_texts([text for part in sentences for text in part]), dim=-1).unflatten(0, (4, -1))


def sinkhorn_by_loops(similarity: torch.Tensor, *, epsilon: float, tau_b: float, sweeps: int = 1000) -> torch.Tensor:
    """T of one problem with hard rows, by scaling under the reference a b', from its two fixed-point equations."""
    rows, columns = similarity.shape
    kernel = ((similarity - 1) / epsilon).exp() / (rows * columns)
    u, v = torch.ones(rows, dtype=kernel.dtype), torch.ones(columns, dtype=kernel.dtype)
    for _ in range(sweeps):
        u = (1 / rows) / (kernel @ v)
        v = ((1 / columns) / (kernel.T @ u)) ** tau_b
    return u[:, None] * kernel * v[None]


def by_loops(method, found: VisualTokens, *, epsilon: float, tau_b: float) -> torch.Tensor:
    """Logits from the contexts, prompt by prompt and problem by problem."""
    model = tiny_clip(dtype=torch.float64)
    contexts, rows = method.prompts.contexts.detach(), []
    for name in NAMES:
        tokens, prompts = model.tokenize([f"{name}."], contexts.shape[1]), []
        for context in contexts:
            embedded = model.text.embed(tokens.ids).clone()
            embedded[0, CONTEXT_START : CONTEXT_START + len(context)] = context
            prompts.append(model.text.encode(embedded, tokens.attended)[0])
        g = normalize(torch.stack(prompts), dim=1)
        similarities = [normalize(image, dim=1) @ g.T for image in found.tokens]
        rows.append([(sinkhorn_by_loops(s, epsilon=epsilon, tau_b=tau_b) * s).sum() for s in similarities])
    return model.scale * torch.tensor(rows, dtype=torch.float64).T


def test_balanced_transport_of_shared_prompts_is_plot():
    found = features(3, dtype=torch.float64)
    settings = PLOT(context_length=3).as_dude()
    assert settings.coupling.solver().both_rho == (math.inf, math.inf)
    method = replace(settings, coupling=replace(settings.coupling, tol=1e-12)).build(
        tiny_clip(dtype=torch.float64), class_texts()
    )
    method.double()
    torch.testing.assert_close(method.logits(found), by_loops(method, found, epsilon=0.1, tau_b=1.0), rtol=0, atol=1e-9)
    as_plot = PLOT(context_length=3).build(tiny_clip(dtype=torch.float64), class_texts()).double()
    torch.testing.assert_close(as_plot.logits(found), method.logits(found), rtol=0, atol=1e-5)


def test_a_soft_prompt_side_solves_its_own_equations():
    found = features(3, dtype=torch.float64)
    method = built(class_k=0, coupling=Coupling(epsilon=0.05, tau_b=0.5, tol=1e-12))
    torch.testing.assert_close(
        method.logits(found), by_loops(method, found, epsilon=0.05, tau_b=0.5), rtol=0, atol=1e-9
    )


def test_one_context_and_the_pooled_feature_are_coop():
    model, found = tiny_clip(), features(6)
    ours = Dude(shared_n=1, shared_len=5, class_k=0, tokens="global").build(model, class_texts(), seed=3)
    theirs = CoOp(context_length=5).build(model, class_texts(), seed=3)
    torch.testing.assert_close(ours.logits(found), theirs.logits(found), rtol=0, atol=1e-5)
    for method in (ours, theirs):
        loss, _ = method(batch_of(found))
        loss.backward()
    torch.testing.assert_close(ours.prompts.contexts.grad, theirs.prompts.contexts.grad, rtol=1e-4, atol=1e-5)


def test_injected_vectors_without_weight_leave_the_shared_prompts():
    found = features(4, dtype=torch.float64)
    plain = built(class_k=0).logits(found)
    torch.testing.assert_close(built(tcp_weight=0.0).logits(found), plain, rtol=1e-9, atol=1e-9)
    assert (built(tcp_weight=1.0).logits(found) - plain).abs().max() > 1e-3


def test_atoms_are_the_descriptions_as_they_are():
    found = features(4, dtype=torch.float64)
    method = built(shared_n=0, class_route="atoms", class_k=3)
    expected = units_of(method, [sentences[:3] for sentences in DESCRIPTIONS])
    torch.testing.assert_close(method.encode_prompts()[0].units, expected)
    score = SHARP.solver().score(normalize(found.tokens, dim=2), expected)
    torch.testing.assert_close(method.logits(found), method.scale * score)
    assert not [p for p in method.parameters() if p.requires_grad]


def test_ragged_descriptions_score_as_if_the_missing_were_never_there():
    found = features(4, dtype=torch.float64)
    texts = class_texts(descriptions=(DESCRIPTIONS[0][:1], *DESCRIPTIONS[1:]))
    method = built(texts=texts, class_route="atoms", fusion="sum", shared_n=1)
    alone = built(
        texts=class_texts(descriptions=tuple(s[:1] for s in DESCRIPTIONS)),
        class_route="atoms",
        fusion="sum",
        shared_n=1,
    )
    torch.testing.assert_close(method.logits(found)[:, 0], alone.logits(found)[:, 0], rtol=1e-9, atol=1e-9)
    plan = method.explain(found)
    assert (plan[:, 0, :, 2:] == 0).all()


def test_the_union_is_one_transport_over_all_prompts():
    found = features(3, dtype=torch.float64)
    method = built(class_route="atoms")
    shared = built(class_k=0).encode_prompts()[0].units
    atoms = torch.cat([shared, units_of(method, DESCRIPTIONS)], dim=1)
    score = SHARP.solver().score(normalize(found.tokens, dim=2), atoms)
    torch.testing.assert_close(method.logits(found), method.scale * score)


@pytest.mark.parametrize("route", ROUTES)
def test_the_sum_adds_both_transports(route):
    found = features(3, dtype=torch.float64)
    both = built(class_route=route, fusion="sum", class_weight=0.3)
    shared, own = both.encode_prompts()
    torch.testing.assert_close(shared.units, built(class_k=0).encode_prompts()[0].units)
    if route != "tcp_inject":
        alone = built(class_route=route, shared_n=0).encode_prompts()[0]
        assert own.units.shape == alone.units.shape == ((4, 1, 12) if route == "attn_pool" else (4, 4, 12))
    parts = [SHARP.solver().score(normalize(found.tokens, dim=2), p.units, valid_b=p.valid) for p in (shared, own)]
    torch.testing.assert_close(both.logits(found), both.scale * (parts[0] + 0.3 * parts[1]))


def test_the_global_logit_is_that_of_the_mean_prompt():
    found = features(3, dtype=torch.float64)
    plain, more = (built(class_k=0, add_global=kind) for kind in ("none", "logit_sum"))
    mean = normalize(plain.encode_prompts()[0].units.mean(1), dim=1)
    expected = plain.logits(found) + plain.scale * normalize(found.pooled, dim=1) @ mean.T
    torch.testing.assert_close(more.logits(found), expected)


def test_a_uniform_coupling_is_mean_pooling():
    found = features(3, dtype=torch.float64)
    method = built(class_route="atoms", coupling=Coupling(kind="uniform"))
    units = method.encode_prompts()[0].units
    table = torch.einsum("bmd,cnd->bcmn", normalize(found.tokens, dim=2), units)
    torch.testing.assert_close(method.logits(found), method.scale * table.mean((2, 3)))
    torch.testing.assert_close(method.explain(found), torch.full_like(table, 1 / (5 * 8)))


def test_views_are_samples_or_one_set_of_tokens():
    found = features(6, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1])
    samples, union = (built(class_k=0, views=views) for views in ("samples", "token_union"))
    batch = batch_of(found, labels, views=2)
    expected = cross_entropy(samples.logits(found), labels.repeat_interleave(2))
    torch.testing.assert_close(samples(batch)[0], expected)
    merged = VisualTokens(found.tokens.reshape(3, 10, 12), found.pooled[:3])
    torch.testing.assert_close(union(batch)[0], cross_entropy(union.logits(merged), labels))


def test_copies_of_an_image_as_one_set_of_tokens_are_that_image():
    found = features(2, dtype=torch.float64)
    twice = VisualTokens(*(x.repeat_interleave(3, dim=0) for x in found))
    method = built(class_k=0, views="token_union")
    labels = torch.tensor([1, 3])
    once = method(batch_of(found, labels))[0]
    torch.testing.assert_close(method(batch_of(twice, labels, views=3))[0], once)


@pytest.mark.parametrize("coupling", [Coupling(), Coupling(tau_a=0.8, score="norm_sim"), Coupling(kind="uniform")])
def test_the_logits_of_an_image_do_not_depend_on_its_batch(coupling):
    found = features(9)
    method = built(dtype=torch.float32, coupling=coupling)
    whole = method.logits(found).detach()
    for row in range(9):
        alone = method.logits(VisualTokens(found.tokens[row : row + 1], found.pooled[row : row + 1]))
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-5, atol=1e-4)
    louder = VisualTokens(found.tokens * 1000, found.pooled)
    torch.testing.assert_close(method.logits(louder), whole, rtol=1e-4, atol=1e-3)


def test_holes_count_for_nothing_whatever_they_hold():
    found = features(4, dtype=torch.float64)
    valid = torch.tensor([True, False, True, True])
    method = built()
    kept = VisualTokens(found.tokens[valid], found.pooled[valid])
    expected = method(batch_of(kept, torch.tensor([0, 2, 3])))
    found.tokens[1] = found.pooled[1] = torch.nan
    labels = torch.tensor([0, -1, 2, 3])
    loss, stats = method(batch_of(found, labels, valid=valid))
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(stats, expected[1])
    loss.backward()
    assert method.prompts.contexts.grad.isfinite().all()
    empty, _ = method(batch_of(found, labels, valid=torch.zeros(4, dtype=torch.bool)))
    assert empty == 0


@pytest.mark.parametrize(
    ("settings", "learnt"),
    [
        ({"class_k": 0}, {"prompts.contexts"}),
        ({"class_route": "atoms"}, {"prompts.contexts"}),
        ({"class_route": "tcp_inject"}, {"prompts.contexts", "generator"}),
        ({"class_route": "attn_pool"}, {"prompts.contexts", "attention"}),
        ({"class_route": "attn_pool", "shared_n": 0}, {"attention"}),
    ],
)
def test_only_contexts_bottleneck_or_attention_learn_and_the_model_stays_as_it_is(settings, learnt):
    model = tiny_clip()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = Dude(anchor_lambda=0.0 if settings.get("shared_n") == 0 else 1.0, **settings).build(model, class_texts())
    names = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name if name.startswith("prompts") else name.split(".")[0] for name in names} == learnt
    method.train()
    started = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    train(method, batch_of(features(8)), steps=3)
    changed = {name for name, p in method.named_parameters() if name in started and not torch.equal(p, started[name])}
    assert changed == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "coupling",
    [
        Coupling(epsilon=0.1, tol=1e-13, gradient="implicit"),
        Coupling(epsilon=0.1, tau_a=0.6, tol=1e-13, gradient="implicit", score="norm_sim"),
        Coupling(epsilon=0.1, tau_a=0.9, tol=1e-13, gradient="envelope", score="value"),
    ],
)
def test_the_loss_has_the_right_gradient(route, coupling):
    method = built(class_route=route, fusion="sum", coupling=coupling, anchor_lambda=0.5, add_global="logit_sum")
    batch = batch_of(features(4, dtype=torch.float64), views=2)
    learnt = [p for p in method.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(method(batch)[0], learnt)
    draws = torch.Generator().manual_seed(0)
    ways = [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in learnt]
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            for p, way in zip(learnt, ways, strict=True):
                p += step * way
            values.append(method(batch)[0])
            for p, way in zip(learnt, ways, strict=True):
                p -= step * way
    expected = (values[0] - values[1]) / 2e-5
    found = sum((g * way).sum() for g, way in zip(gradients, ways, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_detached_plan_is_the_gradient_by_the_similarities():
    found = features(2, dtype=torch.float64)
    method = built(class_route="atoms", shared_n=0)
    tokens = normalize(found.tokens, dim=2).requires_grad_()
    method.logits(VisualTokens(tokens, found.pooled))[1, 2].backward()
    expected = method.scale * method.explain(found)[1, 2] @ method.encode_prompts()[0].units[2]
    unit = tokens.detach()[1]
    expected = expected - unit * (expected * unit).sum(1, keepdim=True)  # the length of a token does not matter
    torch.testing.assert_close(tokens.grad[1], expected)
    assert (tokens.grad[0] == 0).all()


def test_plans_ship_every_token_and_say_whether_they_do_anything():
    found = features(3, dtype=torch.float64)
    method = built(class_route="atoms", fusion="sum")
    plan = method.explain(found)
    assert plan.shape == (3, 4, 5, 8)
    torch.testing.assert_close(plan.sum(3), torch.full((3, 4, 5), 2 / 5, dtype=torch.float64))
    health = method.health(found)
    assert {name.split("/")[0] for name in health} == {"shared", "class"}
    assert health["class/plan_entropy"] < 1
    assert health["class/unconverged"] == 0


def test_prompts_are_encoded_once_between_eval_and_train():
    method, found = built(), features(2, dtype=torch.float64)
    calls = []
    method.prompts.register_forward_pre_hook(lambda *_: calls.append(1))
    method.eval()
    with torch.no_grad():
        first = method.logits(found)
        assert torch.equal(method.logits(found), first)
        assert len(calls) == 1
        method.prompts.contexts += 0.1
        assert not torch.equal(method.logits(found), first)
    method.train()
    method.logits(found)
    assert len(calls) == 3


def test_new_parameters_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = built(seed=1)
    torch.manual_seed(2)
    again, other = built(seed=1), built(seed=2)
    found = features(2, dtype=torch.float64)
    assert torch.equal(first.logits(found), again.logits(found))
    assert not torch.equal(first.logits(found), other.logits(found))


def test_dropout_of_the_attention_is_drawn_by_the_step():
    method, found = built(class_route="attn_pool").train(), features(4, dtype=torch.float64)
    first, again, other = (method(batch_of(found, step=step))[0].detach() for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_adapter_is_attention_then_transport_or_the_pooled_feature():
    found, model = features(4), tiny_clip()
    pooled = DudeAdapter(match="pooled").build(model, class_texts(), None)
    mean = normalize(pooled.attention(encoded(pooled)).mean(1), dim=1)
    torch.testing.assert_close(pooled.logits(found), pooled.scale * normalize(found.pooled, dim=1) @ mean.T)
    transport = DudeAdapter(coupling=SHARP).build(model, class_texts(), support_of(found))
    atoms = normalize(transport.attention(encoded(transport)), dim=2)
    score = SHARP.solver().score(normalize(found.tokens, dim=2), atoms)
    torch.testing.assert_close(transport.logits(found), transport.scale * score, rtol=1e-4, atol=1e-4)
    assert {name.split(".")[0] for name, p in transport.named_parameters() if p.requires_grad} == {"attention"}


def encoded(method):
    from medalign_core.models.dual.sentences import Sentences

    return Sentences(method.sentences, method.valid)
