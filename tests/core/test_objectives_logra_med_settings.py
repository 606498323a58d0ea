import subprocess
import sys

import pytest

from medalign_core.objectives.logra_med.baselines.info_nce import ChatInfoNCE
from medalign_core.objectives.logra_med.baselines.siglip import ChatSigLIP
from medalign_core.objectives.logra_med.baselines.transport import ChatTransport
from medalign_core.objectives.logra_med.baselines.vlap import ChatVLAP
from medalign_core.objectives.logra_med.settings import Autoregressive, LoGraMed
from medalign_core.solvers.graph_matching import GraphMatching
from medalign_core.solvers.sinkhorn import Sinkhorn


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (LoGraMed, {"alpha": -1.0}, "alpha must be finite and >= 0, got -1.0"),
        (LoGraMed, {"graphs": ("image",)}, "graphs must be two or more of image, answer, extended"),
        (LoGraMed, {"graphs": ("image", "image")}, "none twice"),
        (LoGraMed, {"graphs": ("image", "question")}, "graphs must be two or more"),
        (LoGraMed, {"duplicates": "drop"}, "duplicates must be 'mask' or 'count', got 'drop'"),
        (LoGraMed, {"neighbours": 0}, "neighbours must be >= 1, got 0"),
        (LoGraMed, {"graph_width": 0}, "graph_width must be >= 1, or None, got 0"),
        (LoGraMed, {"graph_dropout": 1.0}, r"graph_dropout must be in \[0, 1\), got 1.0"),
        (LoGraMed, {"noise_scale": -0.1}, "noise_scale must be finite and >= 0"),
        (LoGraMed, {"strength": 0.0}, r"strength \(lambda\) must be > 0 and finite, got 0.0"),
        (LoGraMed, {"threshold": float("nan")}, "threshold must be finite, or None"),
        (LoGraMed, {"edges": "both"}, "edges must be 'shared' or 'own', got 'both'"),
        (LoGraMed, {"target": "mean"}, "target must be 'barycenter' or 'leave_one_out' or 'pairwise'"),
        (LoGraMed, {"estimator": "compat", "samples": 2}, r"\('compat'\) takes samples = 1, got 2"),
        (LoGraMed, {"solver": GraphMatching(partial=True)}, "set edge_weight, second_order and threshold"),
        (LoGraMed, {"edge_weight": -1.0}, "edge_weight must be finite and >= 0"),
        (ChatInfoNCE, {"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
        (ChatInfoNCE, {"negatives": "some"}, "negatives must be 'across' or 'all', got 'some'"),
        (ChatSigLIP, {"scale": 0.0}, "scale must be > 0 and finite"),
        (ChatTransport, {"loss": "plan"}, "loss must be 'identity' or 'value', got 'plan'"),
        (ChatTransport, {"loss": "identity", "solver": Sinkhorn()}, "solver.gradient must be 'implicit' or 'unroll'"),
        (ChatVLAP, {"epsilon": 0.0}, "epsilon must be > 0 and finite, got 0.0"),
    ],
)
def test_settings_out_of_range_raise(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_a_micro_batch_of_one_is_refused_where_samples_are_aligned():
    Autoregressive().validate(1)
    LoGraMed().validate(2)
    with pytest.raises(ValueError, match="micro_batch must be >= 2: samples are aligned among each other, got 1"):
        LoGraMed().validate(1)


def test_the_solver_takes_its_mode_from_the_objective():
    solver = LoGraMed(solver=GraphMatching(starts=7)).matcher()
    assert (solver.starts, solver.edge_weight, solver.second_order, solver.partial) == (7, 0.5, True, True)
    full = LoGraMed(threshold=None, second_order=False, edge_weight=2.0).matcher()
    assert (full.edge_weight, full.second_order, full.partial) == (2.0, False, False)


def test_settings_import_neither_torch_nor_transformers():
    modules = ["settings", *(f"baselines.{name}" for name in ("info_nce", "siglip", "transport", "vlap"))]
    code = "import sys\n" + "\n".join(f"import medalign_core.objectives.logra_med.{name}" for name in modules)
    code += "\nassert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
