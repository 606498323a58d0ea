"""Averages: weighted means of what was committed; padding and skipped steps leave no trace."""

import torch

from medalign.training.averages import Averages


def values(loss: float, hamming: float = 0.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "hamming": torch.tensor(hamming)}


def test_the_mean_is_over_what_was_committed_and_starts_again() -> None:
    averages = Averages(torch.device("cpu"))
    averages.add(1.0, values(1.0, 4.0))
    averages.add(1.0, values(2.0, 6.0))
    averages.commit()
    averages.add(1.0, values(6.0, 8.0))
    averages.commit()
    assert averages.reduce() == {"loss": 3.0, "hamming": 6.0}
    assert averages.reduce() == {}


def test_a_step_that_was_not_applied_is_forgotten() -> None:
    averages = Averages(torch.device("cpu"))
    averages.add(1.0, values(1.0))
    averages.commit()
    averages.add(1.0, values(float("nan")))
    averages.forget()
    assert averages.reduce() == {"loss": 1.0, "hamming": 0.0}


def test_padding_counts_nothing_even_where_its_figures_are_not_numbers() -> None:
    averages = Averages(torch.device("cpu"))
    averages.add(0.0, values(float("nan"), float("inf")))
    averages.add(1.0, values(2.0, 3.0))
    averages.commit()
    assert averages.reduce() == {"loss": 2.0, "hamming": 3.0}


def test_many_small_figures_do_not_lose_their_digits() -> None:
    averages = Averages(torch.device("cpu"))
    for _ in range(1000):
        averages.add(1.0, values(0.1, 1e6))
        averages.commit()
    found = averages.reduce()
    assert abs(found["loss"] - float(torch.tensor(0.1))) < 1e-12
    assert found["hamming"] == 1e6


def test_sums_that_are_saved_and_loaded_give_the_line_that_would_have_been() -> None:
    straight, first, second = (Averages(torch.device("cpu")) for _ in range(3))
    values = torch.rand(6, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    for place, value in enumerate(values):
        for averages in (straight, first if place < 2 else second):
            if place == 2 and averages is second:
                second.load(first.state(is_first=True), is_first=True)
            averages.add(1.0, {"loss": value})
            averages.commit()
    assert second.reduce() == straight.reduce()
    assert second.state(is_first=True) == {}
