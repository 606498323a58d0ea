import pytest

from medalign_core.objectives.lvm_med.settings import PRESETS, LVMMed
from medalign_core.solvers.graph_matching import GraphMatching


def test_the_defaults_are_the_pseudo_code_with_the_papers_numbers():
    settings = LVMMed()
    assert (settings.graph_size, settings.neighbours, settings.projection_size) == (16, 5, 128)
    assert (settings.graph_layers, settings.graph_width, settings.alpha, settings.strength) == (2, 128, 0.8, 80.0)
    assert settings.values() == PRESETS["pseudo_code"]
    assert settings.matcher() == GraphMatching()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_key_that_is_given_outweighs_the_preset_and_others_stay(preset):
    values = LVMMed(preset=preset, noise_scale=0.05, local_matches=4).values()
    assert values == PRESETS[preset]._replace(noise_scale=0.05, local_matches=4)


def test_the_ablation_preset_is_a_margin_with_half_the_edge_weight():
    settings = LVMMed(preset="bb_gm")
    assert settings.matcher().edge_weight == 0.5
    assert settings.values().noise == "margin"


def test_the_solver_is_told_the_objectives_weight_and_order():
    settings = LVMMed(edge_weight=0.25, second_order=False, solver=GraphMatching(steps=3, starts=2))
    assert settings.matcher() == GraphMatching(steps=3, starts=2, edge_weight=0.25, second_order=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "paper"}, "preset must be one of pseudo_code, paper_equations, bb_gm, got 'paper'"),
        ({"graph_size": 1}, "graph_size must be >= 2"),
        ({"neighbours": 16}, r"neighbours in \[1, graph_size - 1\], got 16 and 16"),
        ({"neighbours": 0}, "neighbours in"),
        ({"projection_size": 0}, "projection_size must be >= 1, got 0"),
        ({"graph_layers": 0}, "graph_layers must be >= 1, got 0"),
        ({"graph_dropout": 1.0}, r"graph_dropout must be in \[0, 1\), got 1.0"),
        ({"graph_layer": "gat"}, "graph_layer must be 'gcn' or 'graph_conv', got 'gat'"),
        ({"alpha": 1.2}, r"alpha must be in \[0, 1\], got 1.2"),
        ({"strength": 0.0}, "strength .lambda. must be > 0 and finite, got 0.0"),
        ({"strength": float("nan")}, "strength .lambda. must be > 0"),
        ({"noise_scale": -0.1}, "noise_scale must be >= 0, got 20 and -0.1"),
        ({"local_matches": -1}, "local_matches and noise_scale must be >= 0"),
        ({"noise": "gauss"}, "noise 'gumbel', 'sum_of_gamma' or 'margin', got 'mean' and 'gauss'"),
        ({"samples": 0}, "samples must be >= 1, got 0"),
        ({"estimator": "published"}, "estimator must be 'homogeneous', or 'compat' with samples = 1, got 'published'"),
        ({"estimator": "compat", "samples": 2}, "got 'compat' with samples = 2"),
        ({"projector_norm": "layer"}, "projector_norm must be 'none' or 'batch', got 'layer'"),
        ({"edge_weight": -1.0}, "edge_weight must be finite and >= 0, got -1.0"),
        ({"solver": GraphMatching(edge_weight=0.5)}, "set edge_weight and second_order of the objective"),
        ({"solver": GraphMatching(second_order=False)}, "set edge_weight and second_order of the objective"),
    ],
)
def test_settings_that_cannot_work_raise_with_their_value(change, message):
    with pytest.raises(ValueError, match=message):
        LVMMed(**change)


def test_a_micro_batch_must_hold_whole_graphs():
    LVMMed().validate(48)
    for wrong in (0, 8, 40):
        with pytest.raises(ValueError, match=f"micro_batch must be a multiple of graph_size = 16, got {wrong}"):
            LVMMed().validate(wrong)
