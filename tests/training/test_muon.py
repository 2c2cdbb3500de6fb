"""Muon: a step along the momentum, the same length in every direction."""

from __future__ import annotations

import pytest
import torch

from aligner_chains.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 40), (2, 40, 16)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrices))
    assert 0.5 < singular.min() < singular.max() < 1.3


def test_it_comes_close_to_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, target = torch.randn(64, 8, generator=generator), torch.randn(8, 8, generator=generator)
    weight = torch.zeros(8, 8, requires_grad=True)
    muon = Muon([weight], lr=0.1, weight_decay=0.0)
    for step in range(300):
        muon.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        weight.grad = None
        (inputs @ (weight - target)).square().mean().backward()
        muon.step()
    assert (weight - target).norm() < 0.1 * target.norm()


def test_the_gradient_s_length_does_not_matter() -> None:
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    steps = []
    for length in (1e-3, 1e3):
        weight = torch.zeros(8, 8)
        weight.grad = gradient * length
        Muon([weight]).step()
        steps.append(weight)
    assert torch.allclose(*steps, rtol=1e-2, atol=1e-5)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        Muon([torch.zeros(4)])
