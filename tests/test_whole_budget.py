"""Whole recommenders within a budget: the best against all of them and against SciPy's solver, draws against a count."""
from itertools import product

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from autodim.memory.whole_budget import design_within, random_design
from autodim.method.lookup import uniform_candidates
from autodim.method.whole import Choices, Cost, Design, NetworkSpace, derive_design, design_cost

SIZES = [5, 30, 9]


def alpha_of(choices: Choices, seed: int, sharpness: float = 1.0) -> torch.Tensor:
    logits = sharpness * torch.randn(choices.mask().shape, generator=torch.Generator().manual_seed(seed))
    return logits.where(choices.mask(), -torch.inf).softmax(1)


def every_row(choices: Choices, alpha: torch.Tensor) -> list[tuple[float, Design, Cost]]:
    """Each assignment of an option to each row, by falling probability: Σ log α, its design, and what that costs."""
    found = []
    for taken in product(*(range(n) for n in choices.sizes())):
        rows = torch.zeros(alpha.shape)
        rows[range(len(taken)), list(taken)] = 1.0
        design = derive_design(rows, choices)
        found.append((sum(np.log(float(alpha[r, k])) for r, k in enumerate(taken)), design, design_cost(design, SIZES)))
    return sorted(found, key=lambda own: -own[0])


@pytest.mark.parametrize("seed, backbones", [(0, ("MLP", "FM")), (1, ("DCNv2", "FM")), (2, ("WideDeep", "DCNv2"))])
def test_no_design_within_the_budget_is_more_probable(seed, backbones):
    choices = Choices(uniform_candidates(3, (1, 4)), NetworkSpace((2, 6), 2, backbones))
    alpha = alpha_of(choices, seed)
    found, rng = every_row(choices, alpha), np.random.default_rng(seed)
    costs = [cost for _, _, cost in found]
    for _ in range(40):
        budget = Cost(int(rng.choice(costs)[0]), int(rng.choice(costs)[1]))
        best = next(((score, own) for score, own, cost in found if np.less_equal(cost, budget).all()), None)
        if best is None:
            with pytest.raises(ValueError, match="is too small"):
                design_within(alpha, choices, SIZES, budget)
            continue
        ours = design_within(alpha, choices, SIZES, budget)
        assert np.less_equal(design_cost(ours, SIZES), budget).all()
        assert max(score for score, own, _ in found if own == ours) == pytest.approx(best[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_dims_of_many_fields_are_those_of_scipys_solver(seed):
    """An MLP of one size: a multiple-choice knapsack in bytes and multiply-adds, solved as an integer programme."""
    rng, m, dims = np.random.default_rng(seed), 24, np.array([1, 2, 3, 5, 8])
    sizes = np.exp(rng.uniform(1, 9, m)).astype(int).tolist()
    choices = Choices(uniform_candidates(m, tuple(dims.tolist())), NetworkSpace((16,), 1, ("MLP",)))
    alpha = alpha_of(choices, seed)
    alpha[m + 1] = torch.tensor([1e-9, 1, 0, 0, 0])  # one layer, unless nothing else would do
    full = design_cost(Design((8,) * m, "MLP", (16,)), sizes)
    budget = Cost(int(0.4 * full.bytes), int(0.45 * full.macs))
    ours = design_within(alpha, choices, sizes, budget)
    score = alpha[:m].double().log().numpy()
    inputs = np.tile(dims, m)
    values = np.outer(sizes, dims).ravel() + 16 * inputs
    limits = optimize.LinearConstraint(np.stack([values, 16 * inputs]), ub=[budget.bytes // 4 - 33, budget.macs - 16])
    one = optimize.LinearConstraint(np.kron(np.eye(m), np.ones(len(dims))), 1, 1)
    solved = optimize.milp(-score.ravel(), constraints=[limits, one], integrality=1, bounds=(0, 1),
                           options={"mip_rel_gap": 0.0})
    assert ours.hidden == (16,) and np.less_equal(design_cost(ours, sizes), budget).all()
    assert score[range(m), np.searchsorted(dims, ours.dims)].sum() == pytest.approx(-solved.fun, abs=1e-6)


@pytest.mark.parametrize("budget, backbones", [
    (Cost(900, 90), ("MLP", "FM", "DCNv2")), (Cost(560, 10**6), ("WideDeep", "DCNv2")), (Cost(10**6, 70), ("DCNv2",)),
])
def test_draws_are_uniform_among_all_that_fit(budget, backbones):
    choices = Choices(uniform_candidates(3, (1, 2, 4)), NetworkSpace((2, 4, 6), 2, backbones))
    every = [Design(dims, *network) for network in choices.networks() for dims in product((1, 2, 4), repeat=3)]
    within = [own for own in every if np.less_equal(design_cost(own, SIZES), budget).all()]
    assert 5 < len(within) < len(every)
    drawn = random_design(choices, SIZES, budget, seed=0, draws=20 * len(within))
    counts = [drawn.count(own) for own in within]
    assert sum(counts) == len(drawn)  # no other
    assert stats.chisquare(counts).pvalue > 0.001
    assert random_design(choices, SIZES, budget, 3, 4) == random_design(choices, SIZES, budget, 3, 4)


def test_nothing_is_given_up_where_all_fits_and_an_alpha_of_0_is_the_last_resort():
    choices = Choices(uniform_candidates(3, (1, 2, 4)), NetworkSpace((2, 6), 1, ("MLP",)))
    alpha = alpha_of(choices, 5)
    assert design_within(alpha, choices, SIZES, Cost(10**6, 10**6)) == derive_design(alpha, choices)
    alpha[:3] = torch.tensor([0.0, 0.0, 1.0])
    least = design_cost(Design((1, 1, 1), "MLP", ()), SIZES)
    assert design_within(alpha, choices, SIZES, least) == Design((1, 1, 1), "MLP", ())
    for make in (lambda b: design_within(alpha, choices, SIZES, b), lambda b: random_design(choices, SIZES, b, 0)):
        with pytest.raises(ValueError, match=f"the least of any design are {least.bytes} bytes, and {least.macs} mul"):
            make(Cost(least.bytes - 1, 10**6))
