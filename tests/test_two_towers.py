"""Two towers: the in-batch loss, training, the search of dimensions, packing, by oracles of their own."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from autodim.memory.modules import Adapter, ModuleCompressor
from autodim.method.retrieval import ndcg_at, planted_interactions, ranks
from autodim.method.search import SearchConfig
from autodim.method.two_towers import (
    SampledBatches, TowerConfig, TowersSearch, TwoTowers, fit_towers, in_batch_loss, log_shares, sampled_losses,
    search_towers, table_bytes, tower_scores)
from autodim.method.lookup import uniform_candidates

FAST = TowerConfig(width=8, tau=0.2, batch_size=64, epochs=3)


@pytest.fixture(scope="module")
def data():
    return planted_interactions(n_users=100, n_items=50, each=10)


def test_loss_of_a_batch_with_twins_is_that_of_loops_in_float64():
    item, log_q = torch.tensor([1, 2, 1, 0, 2]), torch.tensor([-1.0, -2.0, -0.5])
    s, want = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double(), 0.0
    for b in range(5):
        z = [s[b, c].item() - log_q[item[c]].item() for c in range(5) if c == b or item[c] != item[b]]
        want += np.log(np.exp(z).sum()) - (s[b, b].item() - log_q[item[b]].item())
    assert in_batch_loss(s, item, log_q).item() == pytest.approx(want / 5)


def test_shares_are_counts():
    data = planted_interactions(n_users=100, n_items=50, each=10)
    counts = [(data.train[:, 1] == i).sum() for i in range(50)]
    np.testing.assert_allclose(log_shares(data).exp(), np.maximum(counts, 1) / len(data.train), rtol=1e-5)


def test_scores_of_all_items_are_those_of_the_model(data):
    model = TwoTowers(data, [2, 3, 4, 5], FAST)
    users, items = torch.from_numpy(data.users), torch.from_numpy(data.items)
    own = np.array([5, 3])
    np.testing.assert_allclose(tower_scores(model, data)(own), 0.2 * model(users[own], items).detach(), atol=1e-6)
    assert table_bytes(model) == 4 * sum(v * d for v, d in zip(data.cardinalities, (2, 3, 4, 5)))


def test_patience_ends_training_and_the_best_epoch_stays(data):
    fitted = fit_towers(data, [4] * 4, TowerConfig(width=4, batch_size=64, epochs=40, patience=1, lr=0.05))
    assert len(fitted.history) < 40 and fitted.history.index(max(fitted.history)) == fitted.best_epoch - 1
    value = ndcg_at(ranks(tower_scores(fitted.model, data), data)[1], 10).mean()
    assert value == pytest.approx(max(fitted.history))


def test_search_reads_no_test_items(data):
    config = SearchConfig(dims=(2, 6), f=2, epochs=1, lr=0.01, alpha_lr=0.05)
    other = replace(data, test=np.roll(data.test, 1))
    found, again = search_towers(data, config, FAST), search_towers(other, config, FAST)
    assert found[0] == again[0] and torch.equal(found[1], again[1])
    moved = search_towers(replace(data, val=np.roll(data.val, 1)), config, FAST)[1]
    assert not torch.equal(moved, found[1])  # validation pairs do move alpha


def test_weights_of_the_search_are_all_but_alpha(data):
    model = TowersSearch(data, uniform_candidates(4, (2, 6)))
    own = {id(q) for q in model.weights()}
    assert {name for name, q in model.named_parameters() if id(q) not in own} == {"selection.logits"}


def test_packed_towers_fit_their_bytes_and_rank_nearly_as_before(data):
    fitted = fit_towers(data, [8] * 4, FAST)
    c = ModuleCompressor(fitted.model, SampledBatches(data, size=64), Adapter(sampled_losses, "loss", sample=500))
    assert c.full_bytes == table_bytes(fitted.model)
    own = np.arange(100)
    before = tower_scores(fitted.model, data)(own)
    errors = []
    for share in (0.35, 0.15):
        packed = c.within(share * c.full_bytes)
        assert packed.bytes <= share * c.full_bytes + len(packed.modules)  # a table may end within a byte
        errors.append(np.abs(tower_scores(packed.model, data)(own) - before).mean())
    assert errors[0] < errors[1] < before.std()


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"batch_size": 1}, {"epochs": 0}, {"lr": -1.0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="expected positive"):
        TowerConfig(**bad)


def test_sampled_batches_hold_every_pair_once_and_are_the_same_each_time(data):
    batches = SampledBatches(data, negatives=4, size=64)
    one, two = list(batches), list(batches)
    assert all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y))
    fields = np.concatenate([torch.cat([users, items[:, 0]], 1).numpy() for users, items, _ in one])
    want = np.concatenate([data.users[data.train[:, 0]], data.items[data.train[:, 1]]], 1)
    assert sorted(map(tuple, fields)) == sorted(map(tuple, want))  # none is left out, though 64 do not divide them
    assert len(data.train) % 64 and all(items.shape[1] == 5 for _, items, _ in one)
