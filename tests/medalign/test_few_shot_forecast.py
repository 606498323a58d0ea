"""The forecast of a few-shot comparison: weights, epochs and steps are those that its cells then have."""

from dataclasses import replace
from pathlib import Path

import few_shot_recipe
import pytest

from medalign.few_shot import FewShot
from medalign.few_shot.forecast import ComparisonForecast, cell_steps, forecast
from medalign.few_shot.settings import Method
from medalign_core.models.dual.settings import Clip
from medalign_core.objectives.few_shot.coop import CoOp


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> FewShot:
    methods = {name: {"settings": {"type": name}} for name in ("zero_shot", "linear_probe", "tip_adapter_f")}
    methods |= {name: {"settings": {"type": name, "context_length": 2}} for name in ("coop", "plot")}
    return few_shot_recipe.built(few_shot_recipe.write_recipe(tmp_path_factory.mktemp("few_shot"), methods=methods))


@pytest.fixture(scope="module")
def found(recipe: FewShot) -> ComparisonForecast:
    return forecast(recipe)


def test_steps_are_epochs_of_whole_batches_and_a_rest() -> None:
    method = Method(settings=CoOp(), epochs=3)
    batch = method.schedule.batch
    assert cell_steps(method, classes=batch, shots=2) == (3, 6)
    assert cell_steps(method, classes=batch + 1, shots=2) == (3, 9)


def test_cells_are_tasks_by_methods_by_shots_by_seeds(recipe: FewShot, found: ComparisonForecast) -> None:
    each = len(recipe.tasks) * len(recipe.shots) * len(recipe.seeds)
    assert found.cells == each * len(recipe.methods)
    assert found.supports == each
    assert {method.name for method in found.methods} == set(recipe.methods)


def test_weights_that_nothing_trains_take_no_step(found: ComparisonForecast) -> None:
    assert not found.notes
    trained = {method.name: method.trained for method in found.methods}
    # a cache of 4 classes x 2 shots; 2 context vectors of the small CLIP's text tower, and 4 times as many
    assert trained["coop"] is not None
    assert (trained["zero_shot"], trained["linear_probe"], trained["plot"]) == (0, 0, 4 * trained["coop"])
    for method in found.methods:
        assert method.trained is not None
        assert (method.trained > 0) == (method.total_steps > 0), method


def test_an_encoder_that_cannot_be_opened_is_told(recipe: FewShot, tmp_path: Path) -> None:
    told = forecast(replace(recipe, encoder=Clip(source=str(tmp_path / "nothing"))))
    assert all(method.trained is None for method in told.methods)
    assert "are not known" in told.notes[0]
