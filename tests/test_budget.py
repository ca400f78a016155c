"""Dimensions within a budget against all N^M assignments, integer arithmetic, and what they must not depend on."""
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from autodim.memory.budget import (
    budget_parameters, dims_within, knapsack, log_probability, space_curve, table_bytes, undominated,
)  # fmt: skip
from autodim.method.lookup import Candidates, uniform_candidates
from autodim.method.metrics import space
from autodim.method.selection import derive_dims

seeds = pytest.mark.parametrize("seed", range(20))
DIMS = (2, 4, 6, 8, 10)


def stored(dims, rows, multiple: int = 1) -> int:
    """Values that tables store, counted one row after the other: widen until the multiple divides."""
    total = 0
    for d, v in zip(dims, rows, strict=True):
        while d % multiple:
            d += 1
        total += d * v
    return total


def instance(seed: int, fields: int = 4, grid=(2, 4, 6)):
    """Alpha in whole 64ths, so that it is exact in float32; fields of equal rows and equal alpha make ties."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, len(grid) + 1, fields)
    sets = [tuple(sorted(rng.choice(grid, size, replace=False).tolist())) for size in sizes]
    weights = rng.choice([1, 2, 4, 8, 8], (fields, len(grid)))
    weights = [[w if d in s else 0 for w, d in zip(row, grid)] for row, s in zip(weights.tolist(), sets)]
    rows = rng.choice([1, 2, 3, 3, 50], fields).tolist()
    return torch.tensor(weights) / 64, Candidates(grid, tuple(sets)), rows, [f"f{m}" for m in range(fields)]


def best_by_brute_force(alpha, candidates, rows, limit: int, multiple: int = 1) -> tuple[Fraction, int] | None:
    """The largest product of alpha, as a fraction, of all assignments that fit, and the least stored of its equals."""
    found = []
    for dims in product(candidates.dims, repeat=len(rows)):
        chances = [Fraction(row[candidates.dims.index(d)]) for row, d in zip(alpha.tolist(), dims)]
        if math.prod(chances) > 0 and all(d in s for d, s in zip(dims, candidates.allowed)):
            if (cost := stored(dims, rows, multiple)) <= limit:
                found.append((-math.prod(chances), cost))
    return (-min(found)[0], min(found)[1]) if found else None


def chance(alpha, candidates, dims) -> Fraction:
    return math.prod(Fraction(row[candidates.dims.index(d)]) for row, d in zip(alpha.tolist(), dims))


# ---------------------------------------------------------------- the assignment

@seeds
@pytest.mark.parametrize("multiple", [1, 4])
def test_no_assignment_that_fits_is_more_probable_or_as_probable_and_smaller(seed, multiple):
    alpha, candidates, rows, fields = instance(seed)
    smallest = stored([min(s) for s in candidates.allowed], rows, multiple)
    largest = stored([max(s) for s in candidates.allowed], rows, multiple)
    for limit in sorted({*np.linspace(smallest - 1, largest + 1, 25).astype(int).tolist(), smallest}):
        expected = best_by_brute_force(alpha, candidates, rows, limit, multiple)
        if expected is None:
            assert limit < smallest
            with pytest.raises(ValueError, match="too small"):
                dims_within(alpha, candidates, fields, rows, limit, multiple)
            continue
        dims = dims_within(alpha, candidates, fields, rows, limit, multiple)
        assert list(dims) == fields and all(d in s for d, s in zip(dims.values(), candidates.allowed))
        assert (chance(alpha, candidates, dims.values()), stored(dims.values(), rows, multiple)) == expected


@seeds
def test_equal_products_of_unequal_factors_tie(seed):
    """1/3 · 4/9 and 2/9 · 2/3 differ in float32 and in the sum of their logarithms, by rounding only."""
    rng = np.random.default_rng(seed)
    weights = rng.permutation([[2, 4, 3], [1, 2, 6], [1, 4, 4]])
    alpha, rows, grid = torch.tensor(weights) / 9.0, rng.integers(1, 40, 3).tolist(), uniform_candidates(3, (2, 4, 6))
    for limit in np.linspace(2 * sum(rows), 6 * sum(rows), 12).astype(int).tolist():
        best = min((-math.prod(int(w[n]) for w, n in zip(weights, place)), stored([(2, 4, 6)[n] for n in place], rows))
                   for place in product(range(3), repeat=3) if stored([(2, 4, 6)[n] for n in place], rows) <= limit)
        dims = dims_within(alpha.double(), grid, "abc", rows, limit)
        product_of = math.prod(int(w[(2, 4, 6).index(d)]) for w, d in zip(weights, dims.values()))
        assert (-product_of, stored(dims.values(), rows)) == best


def test_of_two_equal_products_the_cheaper_is_taken_however_their_logarithms_round():
    """r·q = p·s, the two halves of one budget: where one costs a unit less it wins, first this way, then that."""
    found = 0
    for p, q, r, s in product(range(1, 13), repeat=4):
        if p < r and q < s and r * q == p * s:
            score = np.log([[p, r], [q, s]])
            assert knapsack(score, np.array([[0, 10], [0, 9]]), 10) == [0, 1]
            assert knapsack(score, np.array([[0, 10], [0, 11]]), 11) == [1, 0]
            found += 1
    assert found > 100


@seeds
def test_undominated_against_all_pairs(seed):
    rng = np.random.default_rng(seed)
    score, cost, kept = rng.integers(0, 12, 40), rng.integers(0, 12, 40), np.flatnonzero(rng.random(40) < 0.8)
    states = {(int(cost[k]), int(score[k])) for k in kept}
    expected = sorted((c, s) for c, s in states if not any(
        c2 <= c and s2 >= s and (c2, s2) != (c, s) for c2, s2 in states))
    found = undominated(score, cost, kept)
    assert [(int(cost[k]), int(score[k])) for k in found] == expected and set(found) <= set(kept)


def test_a_forbidden_candidate_does_not_count_as_the_cheapest():
    score, cost = np.array([[-np.inf, 0.0], [-1.0, -2.0]]), np.array([[1, 5], [2, 3]])
    assert knapsack(score, cost, 7) == [1, 0]
    with pytest.raises(ValueError, match="costs 7"):
        knapsack(score, cost, 6)


@seeds
def test_without_a_binding_budget_it_is_equation_13(seed):
    alpha, candidates, rows, fields = instance(seed, fields=12, grid=DIMS)
    wished = derive_dims(alpha, candidates, fields)
    need = stored(wished.values(), rows)
    for limit in (need, need + 1, 10**30, math.inf):
        assert dims_within(alpha, candidates, fields, rows, limit) == wished
    assert dims_within(alpha, candidates, fields, rows, stored(wished.values(), rows, 4), multiple=4) == wished


@seeds
def test_the_frontier_alone_finds_equation_13_too(seed):
    """`knapsack` has no shortcut for budgets that do not bind."""
    alpha, candidates, rows, fields = instance(seed, fields=12, grid=DIMS)
    score = np.where(alpha > 0, alpha.double().log(), -np.inf)
    chosen = knapsack(score, np.outer(rows, DIMS), 10**30)
    assert [DIMS[n] for n in chosen] == list(derive_dims(alpha, candidates, fields).values())


@seeds
def test_a_larger_budget_never_lowers_the_probability(seed):
    rng = np.random.default_rng(seed)
    alpha, rows = torch.tensor(rng.dirichlet(np.ones(5), 15)), rng.integers(2, 10_000, 15).tolist()
    grid, fields, before = uniform_candidates(15), [f"f{m}" for m in range(15)], -np.inf
    for limit in np.linspace(2 * sum(rows), 10 * sum(rows), 30).astype(int).tolist():
        dims = list(dims_within(alpha, grid, fields, rows, limit).values())
        now = log_probability(alpha, grid, dims)
        assert now >= before - 1e-8 and stored(dims, rows) <= limit
        before = now


@seeds
def test_the_order_of_the_fields_is_irrelevant(seed):
    rng = np.random.default_rng(seed)
    alpha, rows = torch.tensor(rng.dirichlet(np.ones(5), 12)), rng.integers(2, 10_000, 12).tolist()
    grid, order, limit = uniform_candidates(12), rng.permutation(12), int(4.3 * sum(rows))
    one = dims_within(alpha, grid, [f"f{m}" for m in range(12)], rows, limit)
    other = dims_within(alpha[order], grid, [f"f{m}" for m in order], [rows[m] for m in order], limit)
    assert one == other


@seeds
def test_another_unit_of_rows_leaves_the_dims(seed):
    """A million times the rows and the budget, 10^9 parameters and more: the same choice."""
    alpha, candidates, rows, fields = instance(seed, fields=6, grid=DIMS)
    ends = ([end(s) for s in candidates.allowed] for end in (min, max))
    limit = sum(stored(dims, rows) for dims in ends) // 2
    small = dims_within(alpha, candidates, fields, rows, limit)
    large = dims_within(alpha, candidates, fields, [v * 10**12 for v in rows], limit * 10**12 + 10**12 - 1)
    assert small == large


def scaled_down(alpha, grid, rows, limit) -> list[int]:
    """The rival: one factor for all of Eq. 13's dims, rounded down, then the largest table first."""
    dims = list(derive_dims(alpha, grid, [str(m) for m in range(len(rows))]).values())
    factor = min(1.0, limit / stored(dims, rows))
    dims = [max([c for c in grid.dims if c <= factor * d], default=grid.dims[0]) for d in dims]
    while stored(dims, rows) > limit:
        m = max((m for m, d in enumerate(dims) if d > grid.dims[0]), key=lambda m: dims[m] * rows[m])
        dims[m] = grid.dims[grid.dims.index(dims[m]) - 1]
    return dims


@seeds
@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_never_less_probable_than_scaling_down(seed, share):
    rng = np.random.default_rng(seed)
    alpha, grid = torch.tensor(rng.dirichlet(np.ones(5), 25)), uniform_candidates(25)
    rows = np.ceil(10 ** rng.uniform(0.5, 5, 25)).astype(int).tolist()
    limit = budget_parameters(rows, 10, max_space=share)
    dims = list(dims_within(alpha, grid, [str(m) for m in range(25)], rows, limit).values())
    rival = scaled_down(alpha, grid, rows, limit)
    assert stored(rival, rows) <= limit
    assert log_probability(alpha, grid, dims) >= log_probability(alpha, grid, rival) - 1e-8


# ---------------------------------------------------------------- large tables

@seeds
def test_a_budget_one_value_short_is_held_with_billions_of_parameters(seed):
    """Tables of a billion rows, give or take five: one value in 24 billion decides what fits."""
    rng = np.random.default_rng(seed)
    rows = (10**9 + rng.integers(0, 5, 8)).tolist()
    alpha, grid, fields = torch.tensor(rng.dirichlet(np.ones(3), 8)), uniform_candidates(8, (2, 4, 6)), "abcdefgh"
    dims = dims_within(alpha, grid, fields, rows, 4 * sum(rows))
    exact = stored(dims.values(), rows)
    assert exact <= 4 * sum(rows)
    assert dims_within(alpha, grid, fields, rows, exact) == dims
    less = dims_within(alpha, grid, fields, rows, exact - 1)
    assert stored(less.values(), rows) < exact
    expected = best_by_brute_force(alpha, grid, rows, exact - 1)
    assert float(chance(alpha, grid, less.values())) == pytest.approx(float(expected[0]), rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_hundreds_of_fields_against_an_integer_program(seed):
    """HiGHS may leave the budget by its tolerance; so its best is a bound where it does, and ours where it does not."""
    rng = np.random.default_rng(seed)
    score, sizes = np.log(rng.dirichlet(np.ones(5), 200)), np.ceil(10 ** rng.uniform(0.5, 5, 200)).astype(int)
    cost, limit, every = sizes[:, None] * np.array(DIMS), int(4 * sizes.sum()), np.arange(200)
    ours = knapsack(score, cost, limit)
    one_a_row = LinearConstraint(np.kron(np.eye(200), np.ones(5)), 1, 1)
    fits = LinearConstraint(cost.reshape(1, -1), -np.inf, limit)
    found = milp(-score.ravel(), constraints=[one_a_row, fits], integrality=np.ones(1000), bounds=Bounds(0, 1),
                 options={"mip_rel_gap": 0})
    theirs = found.x.reshape(200, 5).argmax(1)
    assert cost[every, ours].sum() <= limit
    assert score[every, ours].sum() <= -found.mip_dual_bound + 1e-5
    if cost[every, theirs].sum() <= limit:
        assert score[every, ours].sum() >= score[every, theirs].sum() - 1e-7


# ---------------------------------------------------------------- errors

def test_too_small_a_budget_says_what_the_smallest_is():
    grid, rows = Candidates((2, 4, 6), ((2, 4, 6), (4, 6))), [1000, 10]
    alpha = torch.tensor([[0.2, 0.4, 0.4], [0.0, 0.5, 0.5]])
    assert dims_within(alpha, grid, ["user", "film"], rows, 2040) == {"user": 2, "film": 4}
    with pytest.raises(ValueError) as caught:
        dims_within(alpha, grid, ["user", "film"], rows, 2039)
    for part in ("2,039", f"{2040 / 6060:.4g}", "2,040 values", "8,160 bytes", "candidate dimensions", "min_count"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="16,160 bytes"):
        dims_within(alpha, grid, ["user", "film"], rows, 4039, multiple=4)
    for limit in (0, -1, math.nan):
        with pytest.raises(ValueError, match="too small"):
            dims_within(alpha, grid, ["user", "film"], rows, limit)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_alpha_that_is_not_a_number_names_its_fields(bad):
    alpha = torch.full((3, 5), 0.2)
    alpha[1, 2] = bad
    with pytest.raises(ValueError, match="α of film is not a number"):
        dims_within(alpha, uniform_candidates(3), ["user", "film", "zip"], [10] * 3, 10**6)


def test_lengths_that_disagree():
    alpha = torch.full((2, 5), 0.2)
    with pytest.raises(ValueError, match="1 field names"):
        dims_within(alpha, uniform_candidates(2), ["a"], [10, 10], 1000)
    with pytest.raises(ValueError, match="3 cardinalities"):
        dims_within(alpha, uniform_candidates(2), ["a", "b"], [10, 10, 10], 1000)
    with pytest.raises(ValueError, match=r"2\^62"):
        dims_within(alpha, uniform_candidates(2), ["a", "b"], [10, 10**18], 1000)


def test_a_forbidden_candidate_is_not_taken_even_if_alpha_says_so():
    grid = Candidates((2, 4), ((2,), (2, 4)))
    alpha = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    assert dims_within(alpha, grid, "ab", [5, 5], 1000) == {"a": 2, "b": 4}
    assert dims_within(alpha, grid, "ab", [5, 5], 29) == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="α of a is 0"):
        dims_within(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), grid, "ab", [5, 5], 1000)


# ---------------------------------------------------------------- bytes and budgets

@seeds
def test_bytes_are_counted_value_by_value(seed):
    rng = np.random.default_rng(seed)
    dims, rows = rng.integers(1, 20, 6).tolist(), rng.integers(1, 1000, 6).tolist()
    assert table_bytes(dims, rows) == 4 * stored(dims, rows)
    assert table_bytes(dims, rows, bytes_per_value=2) == 2 * stored(dims, rows)
    for multiple in (1, 2, 4, 8):
        assert table_bytes(dims, rows, multiple) == 4 * stored(dims, rows, multiple)
    with pytest.raises(ValueError):
        table_bytes(dims, rows[:5])


@seeds
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_share_is_the_largest_number_of_values_that_respects_it(seed, multiple):
    rng = np.random.default_rng(seed)
    rows, hundredths = rng.integers(1, 10**9, 5).tolist(), int(rng.integers(1, 101))
    limit = budget_parameters(rows, 10, max_space=hundredths / 100, multiple=multiple)
    total = stored([10] * 5, rows, multiple)
    assert 100 * limit <= hundredths * total < 100 * (limit + 1)
    assert limit / total <= hundredths / 100
    assert budget_parameters(rows, 10, max_space=1.0, multiple=multiple) == total
    assert budget_parameters(rows, 10, max_bytes=4 * limit + 3) == limit


@seeds
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_a_budget_of_bytes_is_kept_in_the_bytes_that_are_stored(seed, multiple):
    rng = np.random.default_rng(seed)
    alpha, rows = torch.tensor(rng.dirichlet(np.ones(5), 8)), rng.integers(1, 10**6, 8).tolist()
    grid, room = uniform_candidates(8), int(rng.uniform(0.35, 1) * 48 * sum(rows))
    room = max(room, 4 * stored([2] * 8, rows, multiple))
    limit = budget_parameters(rows, 10, max_bytes=room, multiple=multiple)
    dims = list(dims_within(alpha, grid, "abcdefgh", rows, limit, multiple).values())
    assert 4 * stored(dims, rows, multiple) <= room


@pytest.mark.parametrize("limits", [{}, {"max_space": 0.3, "max_bytes": 100}, *({"max_space": s} for s in (
    0, -0.1, 1.0001, 30, math.nan, math.inf)), *({"max_bytes": b} for b in (0, 3, -8, math.nan, math.inf))])
def test_budgets_out_of_range(limits):
    with pytest.raises(ValueError, match="max_space|max_bytes"):
        budget_parameters([10, 20], 10, **limits)


@pytest.mark.parametrize("multiple", [0, -4])
def test_padding_needs_a_multiple(multiple):
    with pytest.raises(ValueError, match="multiple"):
        table_bytes([2], [10], multiple)


# ---------------------------------------------------------------- the curve

@seeds
@pytest.mark.parametrize("multiple", [1, 4])
def test_the_curve_is_the_assignments_one_by_one(seed, multiple):
    rng = np.random.default_rng(seed)
    alpha, rows = torch.tensor(rng.dirichlet(np.ones(5), 6)), rng.integers(2, 5000, 6).tolist()
    grid, fields, shares = uniform_candidates(6), "abcdef", (0.9, 0.1, 0.5, 0.34, 0.35, 0.7, 0.2, 1.0)
    curve = space_curve(alpha, grid, fields, rows, shares, multiple)
    assert list(curve) == ["share", "space", "parameters", "bytes", "log_probability", "dims"]
    expected = {}
    for share in sorted(shares):
        limit = budget_parameters(rows, 10, max_space=share, multiple=multiple)
        if limit >= stored([2] * 6, rows, multiple):
            expected.setdefault(tuple(dims_within(alpha, grid, fields, rows, limit, multiple).values()), share)
    assert [tuple(dims.values()) for dims in curve.dims] == list(expected)
    assert curve.share.tolist() == list(expected.values())
    assert all(list(dims) == list(fields) for dims in curve.dims)
    for row in curve.itertuples():
        widths = list(row.dims.values())
        assert row.space == pytest.approx(space(widths, rows, 10), rel=1e-12)
        assert (row.parameters, row.bytes) == (stored(widths, rows), 4 * stored(widths, rows, multiple))
        exact = sum(math.log(alpha[m, grid.dims.index(d)]) for m, d in enumerate(widths))
        assert row.log_probability == pytest.approx(exact, rel=1e-12)
    assert curve.bytes.is_monotonic_increasing and curve.log_probability.is_monotonic_increasing
    assert curve.dims.iloc[-1] == derive_dims(alpha, grid, fields)
    if multiple == 1:
        assert (curve.space <= curve.share).all()


def test_the_curve_needs_one_share_that_fits():
    alpha, grid = torch.full((2, 5), 0.2), uniform_candidates(2)
    assert len(space_curve(alpha, grid, "ab", [10, 20], shares=(0.1, 0.2))) == 1
    with pytest.raises(ValueError, match="Space of 0.2 "):
        space_curve(alpha, grid, "ab", [10, 20], shares=(0.1, 0.19))
    with pytest.raises(ValueError, match="max_space=1.2"):
        space_curve(alpha, grid, "ab", [10, 20], shares=(0.5, 1.2))
