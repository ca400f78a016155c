"""What a change of an embedding costs: explicit loops and differences of the loss in float64, for any network."""
import numpy as np
import pytest
import torch
import torch.nn as nn

from autodim.data.batches import Part, batches
from autodim.memory.sensitivity import (
    BLOCKS, Groups, Sensitivity, Table, effective_dimension, frequency_groups, model_tables, sample_rows,
    sensitivities, spectrum, spectrum_error,
)  # fmt: skip
from autodim.method.backbones import Network
from autodim.method.models import DLRS

DIMS = (2, 4, 2, 3)


def sharp_model(data, network: Network) -> DLRS:
    """A model with weights of a size that matters, in float64: untrained ones are all but linear."""
    torch.manual_seed(0)
    model = DLRS(data.cardinalities, DIMS, network).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or "linear" in name:
                parameter.copy_(0.5 * torch.randn_like(parameter))
    return model


def measured(model, data, rows=slice(None), batch_size: int = 50):
    """Sensitivities of a model on rows of the training part, with the counts of all of it."""
    counts = [torch.bincount(data.train.ids[:, m], minlength=v) for m, v in enumerate(data.cardinalities)]
    groups = [frequency_groups(c, 3, 2) for c in counts]
    part = Part(data.train.ids[rows], data.train.labels[rows])
    return sensitivities(model, model_tables(model, data.fields), counts, groups,
                         (batch.ids for batch in batches(part, batch_size)))


def loop_curvature(model, table: Table, ids: torch.Tensor, allowed=None) -> np.ndarray:
    """G by a loop over rows: each row's own gradient of the weight, of the value that it has."""
    total = 0.0
    for row in ids:
        model.zero_grad()
        logit = model(row.unsqueeze(0))[0]
        logit.backward()
        value, p = int(row[table.field]), logit.sigmoid().item()
        if allowed is None or value in allowed:
            g = table.module.weight.grad[table.rows, table.columns][value].numpy()
            total = total + p * (1 - p) * np.outer(g, g)
    return total / len(ids)


@pytest.mark.parametrize("name", ["MLP", "FM", "DeepFM", "FFM", "DCNv2", "AutoInt"])
def test_curvature_is_the_loop_over_rows_whatever_the_network(name, make_data):
    """For every table of the model, those of the linear part and each of FFM's included."""
    data = make_data(rows=(60, 9, 9))
    model = sharp_model(data, Network(name, hidden=(6,)))
    found = measured(model, data)
    assert sum(s.table.weight().numel() for s in found) == sum(
        q.numel() for n, q in model.named_parameters() if "tables" in n)
    for s in found:
        expected = loop_curvature(model, s.table, data.train.ids)
        np.testing.assert_allclose(s.curvature(), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def test_the_groups_share_it_out(make_data):
    data = make_data(rows=(60, 9, 9))
    model = sharp_model(data, Network(hidden=(6,)))
    s = measured(model, data)[3]
    of_groups = s.gradients.sum(0) / s.rows.sum()
    assert len(s.groups.starts) > 2
    for k, part in enumerate(of_groups):
        values = (s.groups.of_ids() == k).nonzero().flatten().tolist()
        expected = np.broadcast_to(loop_curvature(model, s.table, data.train.ids, values), part.shape)
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(of_groups.sum(0), s.curvature())


@pytest.mark.parametrize("name", ["MLP", "FM", "DeepFM"])
def test_it_is_what_small_steps_cost(name, make_data):
    """Up, down and back in one random direction: second differences of the loss at the model's own probabilities."""
    data, step = make_data(), 1e-4
    model = sharp_model(data, Network(name, hidden=(16, 8)))
    ids = data.train.ids
    labels = model(ids).sigmoid().detach()
    for s in measured(model, data):
        weight, losses = s.table.module.weight.data, []
        delta = torch.randn(s.table.weight().shape[1], generator=torch.Generator().manual_seed(1)).double()
        for sign in (1, -1, 0):
            before = weight.clone()
            weight[s.table.rows, s.table.columns] += sign * step * delta
            losses.append(nn.functional.binary_cross_entropy_with_logits(model(ids), labels).item())
            weight.copy_(before)
        assert (losses[0] + losses[1] - 2 * losses[2]) / step**2 == pytest.approx(
            (delta @ s.curvature() @ delta).item(), rel=2e-3, abs=1e-7)


def test_sums_are_additive_over_rows_and_batches(make_data):
    """The shares of two processes add up to what one finds, and how rows are cut into batches is the same to it."""
    data = make_data()
    model = sharp_model(data, Network(hidden=(6,)))
    one, cut = measured(model, data), measured(model, data, batch_size=7)
    shares = [measured(model, data, rows) for rows in (slice(0, 140), slice(140, None))]
    for a, b, first, second in zip(one, cut, *shares):
        torch.testing.assert_close(a.curvature(), b.curvature())
        torch.testing.assert_close(a.gradients.sum(0), (first.gradients + second.gradients).sum(0))
        assert a.rows.sum() == first.rows.sum() + second.rows.sum() == 300


def test_mean_and_covariance_are_those_of_the_rows(make_data):
    """Of the training rows' own vectors, as a loop over rows has them; values that none has do not count."""
    data = make_data()
    data.train.ids[:, 1].clamp_(max=6)  # of nine values, two are never seen
    model = sharp_model(data, Network(hidden=(6,)))
    for s in measured(model, data):
        vectors = s.table.weight()[data.train.ids[:, s.table.field].long()]
        torch.testing.assert_close(s.mean(), vectors.mean(0))
        torch.testing.assert_close(s.covariance(), torch.cov(vectors.T, correction=0).reshape(vectors.shape[1], -1))


def test_looking_leaves_the_model_as_it_is(make_data):
    data = make_data(rows=(60, 9, 9))
    model = sharp_model(data, Network(hidden=(6,)))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    logits = model(data.val.ids)
    measured(model, data)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(data.val.ids), logits) and logits.requires_grad
    assert all(q.grad is None for q in model.parameters())


# ---------------------------------------------------------------- the spectrum

@pytest.mark.parametrize("seed", range(10))
def test_dropping_components_costs_their_eigenvalues(seed):
    """Of all projections to k components none loses less: the optimum of a weighted low-rank approximation."""
    rng = np.random.default_rng(seed)
    v, d = rng.integers(3, 12), rng.integers(1, 6)
    e, q, root = rng.normal(size=(v, d)), rng.dirichlet(np.ones(v)), rng.normal(size=(d, d))
    e -= q @ e
    G, C = root @ root.T, e.T @ (e * q[:, None])
    values, encode, decode = spectrum(torch.tensor(C), torch.tensor(G))
    assert len(values) == min(d, v - 1)
    for k in range(len(values) + 1):
        kept = e @ encode.numpy()[:, :k] @ decode.numpy()[:k]
        cost = (q * np.einsum("vi,ij,vj->v", e - kept, G, e - kept)).sum()
        assert cost == pytest.approx(values[k:].sum().item(), rel=1e-6, abs=1e-9)
        best = np.linalg.svd(np.sqrt(q)[:, None] * e @ np.linalg.cholesky(G))[1][k:]  # Eckart and Young
        assert cost == pytest.approx((best**2).sum(), rel=1e-6, abs=1e-9)


def test_of_two_values_one_component_and_of_one_none():
    for v in (1, 2, 3):
        module = nn.Embedding(v, 8)
        counts = torch.arange(1, v + 1)
        s = Sensitivity(Table("f", 0, module, slice(0, v)), counts, frequency_groups(counts),
                        torch.eye(8).double().expand(BLOCKS, 1, 8, 8), torch.ones(BLOCKS).double())
        assert len(spectrum(s.covariance(), s.curvature()).values) == v - 1


def test_the_error_is_that_of_other_samples(make_data):
    """The jackknife's standard error against the spread over samples that do not overlap."""
    data = make_data(sizes=(12, 9), rows=(24_000, 9, 9))
    torch.manual_seed(0)
    model = DLRS(data.cardinalities, (3, 3), Network(hidden=(8,))).double().eval()
    for table in model.embedding.tables:
        nn.init.normal_(table.weight)
    found = [measured(model, data, slice(k * 2_000, (k + 1) * 2_000))[0] for k in range(12)]
    values = torch.stack([spectrum(s.covariance(), s.curvature()).values for s in found])
    errors = torch.stack([spectrum_error(s) for s in found]).square().mean(0).sqrt()
    ratio = errors / values.std(0)
    assert (ratio > 0.5).all() and (ratio < 2).all(), ratio


# ---------------------------------------------------------------- groups, rows, dimensions

@pytest.mark.parametrize("seed", range(20))
def test_groups_fall_in_frequency_and_hold_every_value_once(seed):
    rng = np.random.default_rng(seed)
    v, n, least = rng.integers(1, 60), int(rng.integers(1, 20)), int(rng.integers(1, 10))
    counts = torch.tensor(rng.poisson(rng.choice([0.5, 3]), v))
    pinned = [p for p in {0, v - 1} if rng.random() < 0.5]
    groups = frequency_groups(counts, n, least, pinned)
    assert groups.order.sort().values.tolist() == list(range(v))
    assert all(groups.order[p] == p for p in pinned)
    assert groups.starts[0] == 0 and list(groups.starts) == sorted(set(groups.starts)) and groups.starts[-1] < v
    assert groups.sizes().sum() == v and (groups.sizes() > 0).all()
    parts = [counts[part].tolist() for part in groups.order.split(groups.sizes().tolist())]
    own = [c for part, start in zip(parts, groups.starts) if start not in pinned for c in part]
    assert own == sorted(own, reverse=True)
    assert not any(0 in part and max(part) > 0 for part in parts)  # unseen values keep to themselves
    assert torch.equal(groups.of_ids()[groups.order], torch.arange(len(parts)).repeat_interleave(groups.sizes()))


def test_a_sample_is_spread_over_the_part():
    part = Part(torch.arange(1000).view(-1, 1), torch.zeros(1000))
    assert sample_rows(part, 4).ids.flatten().tolist() == [0, 250, 500, 750]
    assert torch.equal(sample_rows(part, 5000).ids, part.ids)


def test_dimensions_that_carry_a_share():
    assert effective_dimension(torch.tensor([0.99, 0.01])) == 1
    assert effective_dimension(torch.tensor([0.98, 0.02])) == 2
    assert effective_dimension(torch.ones(7).double(), 1.0) == 7
    assert Groups(torch.tensor([1, 0]), (0,)).sizes().tolist() == [2]
