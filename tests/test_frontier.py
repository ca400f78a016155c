"""The frontier's statistics and its rivals, against slow oracles."""
import numpy as np
import pandas as pd
import pytest
import torch

from autodim.data.batches import Part
from autodim.data.datasets import FLIGHTS, flights, load_dataset, planted
from autodim.data.encode import encode_table
from autodim.data.split import random_split
from autodim.memory.allocation import TIES
from autodim.memory.compress import Compressor
from autodim.memory.precision import by_columns, by_rows, same_precision
from autodim.memory.variants import at_random, merged, tied, truncated, with_metric, within
from autodim.method.backbones import Network
from autodim.method.models import DLRS
from autodim.study.frontier import area, areas, bytes_for, curve, curves, holm, over_seeds, score


def slow_curve(points: list[tuple[float, float, float]], size: float) -> float:
    """AUC of a method within so many bytes, by walking along the points that no cheaper one equals."""
    kept = sorted(p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q is not p for q in points))
    before, after = [p for p in kept if p[0] <= size], [p for p in kept if p[0] > size]
    if not before:
        return float("nan")
    (b0, _, y0) = before[-1]
    if not after:
        return y0
    b1, _, y1 = after[0]
    return y0 + (y1 - y0) * np.log(size / b0) / np.log(b1 / b0)


@pytest.mark.parametrize("seed", range(8))
def test_a_curve_and_an_area_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    methods = [[(float(b), *rng.normal(0.8, 0.01, 2)) for b in np.exp(rng.uniform(3, 7, 5))] for _ in "ab"]
    grid = np.exp(np.linspace(np.log(25), np.log(1000), 20_001))
    one, other = (curve(*zip(*points)) for points in methods)
    slow = [np.array([slow_curve(points, size) for size in grid]) for points in methods]
    np.testing.assert_allclose(one.at(grid), slow[0], atol=1e-12)
    gap = slow[0] - slow[1]
    there, found = ~np.isnan(gap), area(one, other, 25, 1000)
    assert found.covered == pytest.approx(there.mean(), abs=2e-4)
    assert found.mean == pytest.approx(np.nanmean(gap), abs=1e-5)
    least = float(np.median(one.auc))
    enough = [size for size in grid if all(slow_curve(methods[0], b) >= least for b in grid[grid >= size][::400])]
    if enough and not np.isnan(bytes_for(one, least)) and bytes_for(one, least) > 25:
        assert bytes_for(one, least) <= max(enough[0] * 1.001, np.exp(one.log_bytes[0]) * 1.001)


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=6) ** 3
        rejected, k = set(), 6
        for i in p.argsort():
            if p[i] > 0.05 / k:
                break
            rejected.add(i)
            k -= 1
        assert rejected == set(np.flatnonzero(holm(p) <= 0.05))


def test_what_covers_little_or_has_few_seeds_is_not_tested():
    rows = pd.DataFrame([{"method": m, "seed": s, "bytes": b, "val_auc": v + s / 1e3,
                          "test_auc": v + s / 1e3 + s * b / 1e7}
                         for m, sizes in (("uniform", (10, 100)), ("wide", (10, 90)), ("short", (80, 100)))
                         for s in range(4) for b, v in zip(sizes, (0.7, 0.8))])
    table = over_seeds(areas(curves(rows), "uniform", 10, 100))
    assert np.isnan(table.p_holm["short"]) and table.n["short"] == 4 and table.covered["short"] < 0.5
    assert not np.isnan(table.p_holm["wide"])
    assert np.isnan(over_seeds(areas(curves(rows[rows.seed < 2]), "uniform", 10, 100)).p_holm["wide"])


@pytest.fixture(scope="module")
def trained():
    """A model with tables that matter, and its data; not trained: nothing here depends on that."""
    data = encode_table(planted(6_000), random_split(6_000, 0), name="planted")
    torch.manual_seed(0)
    model = DLRS(data.cardinalities, [6] * len(data.fields), Network(hidden=(16,))).eval()
    for p in model.embedding.parameters():
        torch.nn.init.normal_(p)
    return model, data


def test_every_method_keeps_to_its_budget_and_answers_the_ids_of_the_data(trained):
    model, data = trained
    c = Compressor(model, data)
    sizes = [int(c.full_bytes * share) for share in (0.3, 0.1, 0.05)]
    ways = [within(c, sizes, {}, c.within), within(with_metric(c), sizes, {}, with_metric(c).within),
            at_random(c, sizes, 3), truncated(c, sizes), merged(c, sizes),
            *(tied(c, sizes, tie, [(0, 8), range(9)]) for tie in TIES)]
    for candidates in ways:
        found = [(candidate, score(candidate, data)) for candidate in candidates]
        assert found
        for candidate, row in found:
            assert 0 < row["bytes"] <= candidate.settings.get("max_bytes", max(sizes))


def test_with_all_bits_a_packed_model_is_the_model(trained):
    model, data = trained
    c, rows = Compressor(model, data), Part(data.test.ids[:50], data.test.labels[:50])
    exact = model(rows.ids)
    for candidates in (within(c, [10**9], {}, c.within), tied(c, [10**9], "group", [(0, 8)])):
        torch.testing.assert_close(next(iter(candidates)).make().model(rows.ids), exact, atol=0.05, rtol=0)


def test_a_random_allocation_is_one_of_its_seed(trained):
    c = Compressor(*trained)
    bits = [[candidate.make().bits for candidate in at_random(c, [c.full_bytes // 10], seed)] for seed in (0, 0, 1)]
    assert bits[0] == bits[1] != bits[2] and bits[0][0] != bits[0][1]


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_uniform_precision_errs_by_half_a_step_at_most(bits):
    torch.manual_seed(bits)
    weight, counts = torch.rand(300, 8) - 0.5, torch.ones(300)
    if bits > 1:
        steps = (weight.amax(1) - weight.amin(1)) / (2**bits - 1)
        assert ((by_rows(weight, bits) - weight).abs().amax(1) <= steps / 2 + 1e-3).all()
    columns = by_columns(weight, counts, bits)
    assert all(len(column.unique()) <= 2**bits for column in columns.T)
    assert (columns - weight).square().mean() < 1.3 / 12 / 4**bits + 1e-5  # of a uniform on [0, 1]


def test_the_forms_of_a_model_lose_more_the_fewer_bits(trained):
    found = {tuple(c.settings.values()): c.make() for c in same_precision(*trained)}
    columns = [found["columns", b].bytes for b in range(1, 9)]
    assert columns == sorted(columns) and len(found) == 13


def test_flights_are_split_by_date_and_know_nothing_of_the_day():
    source = flights()
    data = load_dataset("flights", 0, "chronological")
    assert data.fields == tuple(FLIGHTS)
    assert sum(len(p.labels) for p in (data.train, data.val, data.test)) == len(source.times)
    days = np.sort(source.times)
    assert days[len(data.train.labels)] > days[0] and np.unique(days).size == 365
