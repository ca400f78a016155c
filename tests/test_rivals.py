"""Rivals of the compression against loops: what they look up, what they store, and that no budget is passed."""

import math

import numpy as np
import pytest
import torch

from autodim.data.batches import Data
from autodim.data.datasets import planted
from autodim.data.encode import encode_table
from autodim.data.files import DataError
from autodim.data.split import random_split
from autodim.memory.pruned import MaskedTables, ThresholdTables, dimension_saliency, kept_gates, pep_mask, salient_dims
from autodim.memory.structured import (
    Hashed, Merged, Projected, QuotientRemainder, fitting_collisions, fitting_count, fitting_rows, merged_ids,
    mixed_dims, quotient_rows, train_with,
)  # fmt: skip
from autodim.memory.trained_codes import ProductCodes, QuantisedTables, quantisation_aware, rounded, stacked_groups
from autodim.method.backbones import Network
from autodim.method.lookup import FieldEmbedding
from autodim.method.models import DLRS
from autodim.method.retrain import TrainConfig, fit, retrain

ROWS = [[5000, 700, 30, 2], [64, 64], [3], [1000, 999, 998, 5, 5, 5]]
N = 4000


@pytest.fixture(scope="module")
def data() -> Data:
    return encode_table(planted(N, 1), random_split(N, 1), name="planted")


def counts_of(data: Data) -> list[torch.Tensor]:
    return [torch.bincount(data.train.ids[:, m], minlength=v) for m, v in enumerate(data.cardinalities)]


@pytest.mark.parametrize("rows", [ROWS[0], ROWS[3]])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_mixed_dims_are_the_widest_of_a_fine_grid_that_fit(rows, share):
    d, budget = 10, share * 40 * sum(rows)

    def cost(dims):
        return 4 * sum(v * n + (0 if n == d else n * d) for v, n in zip(rows, dims))

    found = mixed_dims(rows, d, budget)
    assert cost(found) == Projected(rows, found, d).stored_bytes() <= budget
    grid = [[max(1, min(d, math.floor(scale * v**-0.3))) for v in rows] for scale in np.geomspace(0.5, 400, 4000)]
    assert sum(found) >= max(sum(dims) for dims in grid if cost(dims) <= budget)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("product", [True, False])
def test_no_two_values_share_both_rows(rows, product):
    for collisions in (1, 2, 7, 30):
        tables = QuotientRemainder(rows, collisions, 4, product)
        for m, v in enumerate(rows):
            first, second = quotient_rows(v, collisions)
            pairs = {(i % first, i // first if second else 0) for i in range(v)}
            assert len(pairs) == v and first + second <= v
        ids = torch.stack([torch.randint(0, v, (200,)) for v in rows], 1)
        seen = tables(ids).unflatten(1, (len(rows), 4))
        a, b = (t.tables[0] for t in (tables.first, tables.second))
        for row in range(0, 200, 17):
            for m, v in enumerate(rows):
                first, second = quotient_rows(v, collisions)
                x = a.weight[a.offsets[m] + ids[row, m] % first]
                y = b.weight[b.offsets[m] + ids[row, m] // first] if second else None
                expected = x if y is None else x * y if product else x + y
                assert torch.allclose(seen[row, m], expected)
        assert tables.stored_bytes() == 16 * sum(sum(quotient_rows(v, collisions)) for v in rows)


def test_budgets_are_kept_and_the_next_larger_choice_would_pass_them(data):
    counts, rows = counts_of(data), list(data.cardinalities)
    for share in (0.3, 0.5, 0.8):
        budget = share * 32 * sum(rows)
        n, least = fitting_rows(rows, 8, budget), fitting_count(counts, 8, budget)
        assert Hashed(rows, n, 8).stored_bytes() <= budget < Hashed(rows, n + 1, 8).stored_bytes()
        assert Merged(counts, least, 8).stored_bytes() <= budget
        smaller = {int(c) for count in counts for c in count.unique() if c + 1 < least}
        assert all(Merged(counts, c + 1, 8).stored_bytes() > budget for c in smaller)
    collisions = fitting_collisions(rows, 8, 0.5 * 32 * sum(rows))
    assert QuotientRemainder(rows, collisions, 8).stored_bytes() <= 16 * sum(rows)


@pytest.mark.parametrize("call", [
    lambda rows: mixed_dims(rows, 8, 50), lambda rows: fitting_collisions(rows, 8, 50),
    lambda rows: fitting_rows(rows, 8, 50), lambda rows: fitting_count([torch.ones(v) for v in rows], 8, 50),
    lambda rows: salient_dims(torch.ones(len(rows), 8), rows, 50),
])  # fmt: skip
def test_a_budget_below_the_least_is_refused_with_the_least(call):
    with pytest.raises(DataError, match=r"takes? (at least )?\d+ bytes, not 50"):
        call([500, 40, 3])


def test_ids_that_a_field_does_not_have_are_taken_for_unknown_ones(data):
    counts, rows = counts_of(data), list(data.cardinalities)
    ids = torch.zeros(2, len(rows), dtype=torch.long)
    ids[0] = torch.tensor(rows)
    for tables in (QuotientRemainder(rows, 5, 4), Hashed(rows, 9, 4), Merged(counts, 3, 4),
                   Projected(rows, [2] * len(rows), 4), ProductCodes(counts, 4, 2, (16, 4)).eval()):
        seen = tables(ids)
        assert torch.equal(seen[0], seen[1])


def test_merged_ids_by_loop():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        counts = torch.randint(0, 6, (17,), generator=generator)
        new, place = [0] * 17, 0
        for value in range(1, 17):
            if counts[value] >= 3:
                place += 1
                new[value] = place
        assert merged_ids(counts, 3).tolist() == new


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_rounded_has_the_gradients_of_learned_step_size_quantisation(bits):
    w = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
    step = torch.rand(4, 1, dtype=torch.float64).add(0.1).requires_grad_()
    upstream = torch.randn(4, 50, dtype=torch.float64)
    out = rounded(w, step, bits, 0.25)
    dw, ds = torch.autograd.grad((out * upstream).sum(), [w, step])
    for i in range(4):
        total, s = 0.0, step[i].item()
        for j in range(50):
            x = w[i, j].item() / s
            k = min(max(math.floor(x), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
            inside = abs(x) < 2 ** (bits - 1)
            assert out[i, j].item() == pytest.approx(s * (k + 0.5))
            assert dw[i, j].item() == pytest.approx(upstream[i, j].item() * inside)
            total += upstream[i, j].item() * (k + 0.5 - x * inside)
        assert ds[i].item() == pytest.approx(0.25 * total)


def test_bits_of_groups_are_what_is_stored(data):
    counts = counts_of(data)
    groups = stacked_groups(counts, 4)
    bits = torch.randint(0, 9, (int(groups.max()) + 1,), generator=torch.Generator().manual_seed(0))
    tables = QuantisedTables(FieldEmbedding(data.cardinalities, [6] * len(counts)), bits, groups)
    by_hand = sum(6 * int(bits[g]) for g in groups)
    assert tables.stored_bytes() == math.ceil(by_hand / 8) + 4 * int((bits > 0).sum())
    table = tables.tables.tables[0]
    for m, v in enumerate(data.cardinalities):
        values = torch.zeros(v, len(counts), dtype=torch.long)
        values[:, m] = torch.arange(v)
        shown = tables(values).detach().unflatten(1, (-1, 6))[:, m]
        of = groups[table.offsets[m] : table.offsets[m] + v]
        for g in of.unique():
            assert len(shown[of == g].unique()) <= 2 ** int(bits[g])


def test_training_goes_on_without_touching_the_model_it_began_from(data):
    network = Network(hidden=(8,), dropout=0.0)
    trained = retrain(data, [4] * len(data.fields), TrainConfig(epochs=1), network).model
    before = [q.clone() for q in trained.parameters()]
    fit(quantisation_aware(trained, QuantisedTables(trained.embedding, [3] * len(data.fields))), data,
        TrainConfig(epochs=1))
    assert all(torch.equal(p, q) for p, q in zip(before, trained.parameters()))


def test_product_codes_learn_from_their_commitment(data):
    network = Network(hidden=(8,), dropout=0.0)
    drawn = []
    for commitment in (0.0, 25.0):
        fitted = train_with(lambda: ProductCodes(counts_of(data), 4, 2, (8, 4), commitment), data, 4,
                            TrainConfig(epochs=2), network)
        codes = fitted.model.embedding
        table = codes.tables.tables[0]
        rows = codes(data.val.ids).unflatten(1, (-1, 4))[:, codes.coded]
        own = table(table.places(data.val.ids))[:, codes.coded]
        drawn.append((rows - own).square().mean().item())
    assert drawn[1] < drawn[0]


def test_saliency_is_the_derivative_of_the_loss(data):
    network = Network(hidden=(8,), dropout=0.0)
    model = retrain(data, [3] * len(data.fields), TrainConfig(epochs=1), network).model.double().eval()
    found = dimension_saliency(model, data, N)
    ids, labels, step = data.train.ids, data.train.labels.double(), 1e-4
    for m, j in ((0, 0), (3, 2), (9, 1)):
        losses = []
        for sign in (1, -1):
            ones = torch.ones(len(data.fields), 3, dtype=torch.float64)
            ones[m, j] += sign * step
            logits = model.backbone(model.embedding(ids) * ones.flatten(), ids)
            losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item())
        assert found[m, j].item() == pytest.approx(abs(losses[0] - losses[1]) / (2 * step), abs=1e-7)


def test_masks_keep_what_is_asked_and_no_more(data):
    groups = stacked_groups(counts_of(data), 4)
    gates = torch.rand(int(groups.max()) + 1, 5, generator=torch.Generator().manual_seed(0))
    for budget in (500, 3000, 10**6):
        mask = kept_gates(gates, groups, budget)
        tables = MaskedTables(data.cardinalities, 5, mask, groups)
        assert tables.stored_bytes() <= budget
        rows = torch.bincount(groups)
        left = budget - tables.stored_bytes()
        for g, j in (mask == 0).nonzero().tolist():  # nothing that is left out would still fit
            assert 4 * int(rows[g]) > left
    model = DLRS(data.cardinalities, [5] * len(data.fields), Network(hidden=(8,), dropout=0.0))
    model.embedding = ThresholdTables(data.cardinalities, 5)
    mask = pep_mask(model, data, 4000, TrainConfig(epochs=1))
    assert MaskedTables(data.cardinalities, 5, mask).stored_bytes() in range(4000 - 3, 4001)
