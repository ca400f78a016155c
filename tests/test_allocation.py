"""Bits within a budget of bytes: an exact dynamic programme, byte counts by loops, and what a budget must never do."""
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn as nn
from scipy import integrate, stats

from autodim.memory.allocation import (
    PULL, TIES, Components, Ladder, allocate, best_rungs, best_widths, components, concave, gaussian_quantiser, halvings,
    ladder, least_packed, packed_bytes, predicted_loss, rises, units_of,
)  # fmt: skip
from autodim.memory import sensitivity as page
from autodim.memory.budget import knapsack
from autodim.memory.sensitivity import BLOCKS, Groups, Sensitivity, Table, frequency_groups

seeds = pytest.mark.parametrize("seed", range(10))


def offer(rng, width=None, tables=3) -> list[Components]:
    """Tables of random sizes, widths, groups and scores over many orders of magnitude, some of them zero."""
    found = []
    for m in range(tables):
        v, d = int(rng.integers(1, 400)), width or int(rng.integers(1, 5))
        starts = (0, *sorted({int(s) for s in rng.integers(1, v, 2)} if v > 3 else ()))
        score = rng.exponential(size=(d, len(starts))) ** 4 * (rng.random((d, len(starts))) > 0.2)
        found.append(Components(Table(f"t{m}", m, nn.Embedding(v, d), slice(0, v)), Groups(torch.arange(v), starts),
                                torch.zeros(d), torch.eye(d), torch.eye(d), torch.ones(d, len(starts)),
                                torch.tensor(score)))
    return found


def bytes_by_hand(offers, plan) -> int:
    """What is stored, counted number by number."""
    codes = widths = whole = 0
    for c, bits in zip(offers, plan):
        v, d = c.table.module.weight.shape
        ends = [*c.groups.starts[1:], v]
        whole += 2 * d + 4 * (len(ends) - 1)
        for row in bits.tolist():
            if any(row):
                whole += 2 * d
                widths += 4 * len(ends)
            for b, start, end in zip(row, c.groups.starts, ends):
                whole += b > 0
                codes += b * (end - start)
    return whole + int(np.ceil(codes / 8)) + int(np.ceil(widths / 8))


@seeds
@pytest.mark.parametrize("tied", TIES)
def test_a_plan_is_within_the_budget_and_a_larger_one_is_no_worse(seed, tied):
    offers = offer(np.random.default_rng(seed))
    least = packed_bytes(offers, [torch.zeros_like(c.score) for c in offers])
    losses = []
    for budget in np.unique(np.geomspace(least, 6_000, 60).astype(int)):
        plan = allocate(offers, budget, tied=tied)
        assert packed_bytes(offers, plan) == bytes_by_hand(offers, plan) <= budget
        losses.append(predicted_loss(offers, plan))
        for c, bits in zip(offers, plan):
            assert not bits[c.score == 0].any()
    assert (np.diff(losses) <= 1e-12).all()
    assert all((bits[c.score > 1e-9] == 8).all() for c, bits in zip(offers, allocate(offers, float("inf"), tied=tied)))
    with pytest.raises(ValueError, match=f"offsets of its groups take {least:,}"):
        allocate(offers, least - 1, tied=tied)


def best_by_programme(offers, budget: int, choices) -> float:
    """The least predicted loss within a budget of bits, by a dynamic programme over components, bit by bit."""
    least = packed_bytes(offers, [torch.zeros_like(c.score) for c in offers])
    room = 8 * (budget - least) - 14
    best = np.zeros(room + 1)  # the most gain within so many bits
    for c in offers:
        sizes = c.groups.sizes().tolist()
        for row in c.score.tolist():
            opened = 16 * len(c.mean) + 4 * len(sizes)
            options = []
            for bits in product(choices, repeat=len(sizes)):
                if any(bits) and not any(b and not s for b, s in zip(bits, row)):
                    cost = opened + sum(8 * (b > 0) + b * n for b, n in zip(bits, sizes))
                    options.append((cost, sum(s * (1 - gaussian_quantiser(b)[1]) for s, b in zip(row, bits))))
            before = best.copy()
            for cost, gain in options:
                if cost <= room:
                    best[cost:] = np.maximum(best[cost:], before[: room + 1 - cost] + gain)
    return (sum(c.score.sum().item() for c in offers) - best[-1]) / 2


@seeds
@pytest.mark.parametrize("budget", [60, 150, 400])
def test_it_misses_less_than_a_step_of_the_exact_optimum(seed, budget):
    rng, choices = np.random.default_rng(seed), (0, 1, 2, 4)
    offers = offer(rng, width=2, tables=2)
    exact = best_by_programme(offers, budget, choices)
    found = predicted_loss(offers, allocate(offers, budget, choices))
    step = max((r.gain for unit in units_of(offers, "segment") for r in rises(offers, unit, choices)), default=0) / 2
    assert exact - 1e-9 <= found <= exact + step + 1e-9


@seeds
def test_tied_components_against_the_knapsack(seed):
    """Bits equal over a component's groups are a multiple-choice knapsack, which the budget's page solves exactly."""
    rng, choices = np.random.default_rng(seed), (0, 2, 5)
    offers = offer(rng)
    rows = [(c, score) for c in offers for score in c.score]
    gain = np.array([[score.sum().item() * (1 - gaussian_quantiser(b)[1]) for b in choices] for _, score in rows])
    cost = np.array([[0 if not b else 16 * len(c.mean) + 4 * len(score) + sum(
        8 + b * n for n, s in zip(c.groups.sizes().tolist(), score.tolist()) if s) for b in choices]
        for c, score in rows])
    least = packed_bytes(offers, [torch.zeros_like(c.score) for c in offers])
    for budget in (least + 60, least + 500):
        room = 8 * (budget - least) - 14
        best = gain[np.arange(len(rows)), knapsack(gain, cost, room)].sum()
        plan = allocate(offers, budget, choices, "component")
        found = sum(c.score.sum().item() for c in offers) - 2 * predicted_loss(offers, plan)
        assert best - gain.max() - 1e-9 <= found <= best + 1e-6


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_quantiser_is_the_best_and_its_error_is_the_integral(bits):
    step, error = gaussian_quantiser(bits)
    whole = np.arange(2**bits) - (2**bits - 1) / 2

    def of(step: float) -> float:
        edges = [-12, *step * (whole[1:] - 0.5), 12]
        return sum(integrate.quad(lambda y: (y - step * l) ** 2 * stats.norm.pdf(y), a, b)[0]
                   for a, b, l in zip(edges, edges[1:], whole))

    assert of(step) == pytest.approx(error, rel=1e-4) and of(0.97 * step) > error < of(1.03 * step)
    y = np.random.default_rng(0).normal(size=200_000)
    stored = step * (np.floor(y / step).clip(-(2**bits) / 2, 2**bits / 2 - 1) + 0.5)
    assert ((y - stored) ** 2).mean() == pytest.approx(error, rel=0.03)


@seeds
def test_corners_are_those_of_the_hull(seed):
    """Points above which no line between two others passes, by trying all pairs."""
    rng = np.random.default_rng(seed)
    points = list(zip(np.arange(12).tolist(), np.concatenate([[0], rng.integers(0, 30, 11)]).tolist()))
    corners = concave(points)
    assert corners[0] == 0 and max(p[1] for p in points) == points[corners[-1]][1]
    slopes = [(points[b][1] - points[a][1]) / (b - a) for a, b in zip(corners, corners[1:])]
    assert slopes == sorted(slopes, reverse=True) and all(s > 0 for s in slopes)
    for i, gain in points[: corners[-1] + 1]:
        hull = np.interp(i, corners, [points[c][1] for c in corners])
        assert gain <= hull + 1e-12


# ---------------------------------------------------------------- components and widths

def sensitivity(seed: int, v: int = 40, d: int = 3) -> Sensitivity:
    """A random table whose values have random frequencies, and a curvature of its own in each group."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    counts = torch.tensor(rng.poisson(20 * rng.random(v)))
    groups = frequency_groups(counts, 3, 2)
    roots = torch.randn(BLOCKS, len(groups.starts), d, d).double()
    mass = torch.zeros(len(groups.starts)).double().index_add_(0, groups.of_ids(), counts.double()) / counts.sum()
    gradients = roots @ roots.transpose(2, 3) * mass.view(-1, 1, 1) * 1e6
    return Sensitivity(Table("t", 0, nn.Embedding(v, d), slice(0, v)), counts, groups, gradients,
                       torch.full((BLOCKS,), 1e6).double())


@seeds
def test_scores_are_what_errors_in_a_group_cost(seed):
    """Dropping one component in one group, value by value; with so many rows nothing is pulled to the field's mean."""
    s = sensitivity(seed)
    c = components(s)
    weight, of_ids, q = s.table.weight(), s.groups.of_ids(), s.counts.double() / s.counts.sum()
    of_groups = s.gradients.sum(0) / s.rows.sum()
    for j, k in product(range(len(c.score)), range(len(s.groups.starts))):
        inside = (of_ids == k) & (s.counts > 0)
        if not inside.any():
            assert c.score[j, k] == 0
            continue
        total = sum(q[v] * ((weight[v] - c.mean) @ c.encode[:, j]) ** 2 for v in inside.nonzero().flatten())
        inner = of_groups[k] / q[of_ids == k].sum()  # the curvature at a row of this group
        expected = total * (c.decode[j] @ inner @ c.decode[j])
        assert c.score[j, k].item() == pytest.approx(expected.item(), rel=1e-3)
        assert c.deviation[j, k].item() == pytest.approx((total / q[of_ids == k].sum()).sqrt().item(), rel=1e-6)


def test_a_group_that_the_sample_missed_gets_the_fields_curvature():
    s = sensitivity(0)
    s.gradients[:, -2:] = 0
    s.rows.fill_(1e-6)
    c = components(s)
    share = torch.einsum("jd,de,je->j", c.decode, s.curvature(), c.decode)
    weights = s.counts.double() / s.counts.sum()
    mass = torch.zeros(len(c.groups.starts)).double().index_add_(0, s.groups.of_ids(), weights)
    torch.testing.assert_close(c.score, share.unsqueeze(1) * mass * c.deviation.square(), rtol=0.02, atol=0)


@seeds
def test_widths_are_the_best_of_all(seed):
    offers = offer(np.random.default_rng(seed), width=3)
    sizes = [len(c.groups.order) for c in offers]
    for budget in (4 * sum(sizes), 7 * sum(sizes), 12 * sum(sizes)):
        fit = [w for w in product((1, 2, 3), repeat=3) if 4 * np.dot(w, sizes) <= budget]
        loss = {w: sum(c.score[d:].sum().item() for c, d in zip(offers, w)) for w in fit}
        assert loss[tuple(best_widths(offers, budget))] == pytest.approx(min(loss.values()), abs=1e-6)
    with pytest.raises(ValueError, match="tables of width 1 take"):
        best_widths(offers, 4 * sum(sizes) - 1)


# ---------------------------------------------------------------- large tables

@pytest.mark.parametrize("size", [1, 7, 39])
def test_in_pieces_the_same_as_at_once(size, monkeypatch):
    s = sensitivity(0)
    whole, weight, C = components(s), s.table.weight(), s.covariance()
    monkeypatch.setattr(page, "PIECE", size)
    assert [len(e) for _, e in s.table.pieces()] == [size] * (40 // size) + [40 % size] * (40 % size > 0)
    assert torch.equal(s.table.weight(), weight) and torch.equal(weight, s.table.module.weight.double())
    torch.testing.assert_close(s.covariance(), C)
    for a, b in zip(components(s)[2:], whole[2:]):
        torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-6, atol=1e-9)  # an eigenvector's sign is nobody's
    s.table.module.weight.data[-1, 0] = float("inf")
    with pytest.raises(ValueError, match="not a finite number"):
        components(s)


def test_ten_million_rows_would_fit_two_gibibytes(root):
    """A fifth of them: beside the table itself, what is needed grows by less than (2 GiB - the start) / 10^7 a row."""
    done = subprocess.run([sys.executable, root / "tests" / "memory_job.py", "2000000"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    before, peak = map(int, done.stdout.split())
    assert peak - before < 220  # MiB: the table in float64 alone is 244


# ---------------------------------------------------------------- how many groups

def long_tailed(rng, v=300, d=4, groups=12, unseen=20) -> Sensitivity:
    """A table with values that training never saw, and random sums of gradients of each group."""
    counts = torch.tensor(np.sort(rng.zipf(1.6, v).clip(1, 3_000))[::-1].copy())
    counts[:1], counts[v - unseen:] = 0, 0
    table = Table("t", 0, nn.Embedding(v, d), slice(0, v))
    own = frequency_groups(counts, groups)
    roots = torch.tensor(rng.normal(size=(BLOCKS, len(own.starts), d, 2 * d)))
    roots[:, [0, -1]] = 0
    return Sensitivity(table, counts, own, roots @ roots.mT * 50, torch.full((BLOCKS,), 700.0).double())


def by_loops(s: Sensitivity, first: Components, starts) -> np.ndarray:
    """The score of each component in groups that begin at these places, from the definition, value by value."""
    q, e = s.counts.double().numpy() / s.counts.sum().item(), s.table.weight().numpy()
    mean = sum(q[v] * e[v] for v in range(len(e)))
    fine, score = [*s.groups.starts, len(e)], np.zeros((len(first.decode), len(starts)))
    whole = s.gradients.sum((0, 1)).numpy()
    for k, (start, end) in enumerate(zip(starts, [*starts[1:], len(e)])):
        ids = s.groups.order[start:end].tolist()
        mass = sum(q[v] for v in ids)
        inside = sum((s.gradients[:, g].sum(0).numpy() for g in range(len(fine) - 1) if start <= fine[g] < end), 0 * whole)
        rows = s.rows.sum().item()
        curvature = (inside + PULL * whole / rows) / (rows * mass + PULL)
        for j, row in enumerate(first.decode.numpy()):
            y = [(e[v] - mean) @ first.encode[:, j].numpy() for v in ids]
            score[j, k] = row @ curvature @ row * sum(q[v] * a * a for v, a in zip(ids, y))
    return score


@seeds
def test_a_rung_is_what_the_definition_says_of_its_groups(seed):
    s = long_tailed(np.random.default_rng(seed))
    for rung in ladder(s).rungs:
        np.testing.assert_allclose(rung.score.numpy(), by_loops(s, rung, rung.groups.starts), rtol=1e-9, atol=1e-15)
        assert torch.equal(rung.groups.order, s.groups.order) and set(rung.groups.starts) <= set(s.groups.starts)
        sizes = rung.groups.sizes().tolist()
        assert all(len({bool(n) for n in s.counts[own]}) == 1 for own in s.groups.order.split(sizes))  # seen, or not


@pytest.mark.parametrize("seen, expected", [
    ([True], [[0]]),
    ([True] * 5, [[0, 1, 2, 3, 4], [0, 2, 4], [0, 4], [0]]),
    ([False, True], [[0, 1]]),
    ([False, False, True, True, True, False], [[0, 1, 2, 3, 4, 5], [0, 2, 4, 5], [0, 2, 5]]),
])
def test_neighbours_are_merged_by_twos(seen, expected):
    assert halvings(seen) == expected


@seeds
def test_no_choice_of_rungs_for_all_tables_is_much_better(seed):
    """All choices tried; what is missed is less than the largest step, as it is of bits alone."""
    rng = np.random.default_rng(seed)
    ladders = [ladder(long_tailed(rng, int(rng.integers(20, 300)), 3, 8, 4)) for _ in range(3)]
    least = least_packed([own.rungs[-1] for own in ladders])
    for budget in (least, least + 40, least + 150, least + 400):
        chosen = best_rungs(ladders, budget)
        plan = allocate(chosen, budget)
        assert packed_bytes(chosen, plan) <= budget
        every = [list(own) for own in product(*(own.rungs for own in ladders)) if least_packed(own) <= budget]
        best = min(predicted_loss(own, allocate(own, budget)) for own in every)
        step = max((r.gain for own in (chosen, *every) for u in units_of(own, "segment") for r in rises(own, u, range(9))),
                   default=0) / 2
        assert predicted_loss(chosen, plan) <= best + step


def test_one_rung_alone_is_taken():
    own = offer(np.random.default_rng(0))
    assert best_rungs([Ladder([c], [[0]]) for c in own], 1.0) == own
