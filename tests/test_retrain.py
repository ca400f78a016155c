"""Algorithm 2: early stopping under a script of validation AUCs, what is read, and what a seed fixes."""
import copy
import dataclasses

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from oracles import field_tables
from sklearn.metrics import roc_auc_score

import autodim.method.retrain
from autodim.data.batches import Part
from autodim.data.datasets import load_dataset
from autodim.method.metrics import Metrics, evaluate
from autodim.method.backbones import Network
from autodim.method.models import DLRS, loss_of
from autodim.method.retrain import TrainConfig, fit, retrain
from autodim.training.optimizer import Adam
from autodim.training.runtime import Runtime


SMALL, QUIET = Network(hidden=(8,), dropout=0.5), Runtime(progress=False)


def copied(model) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(t.equal(b[name]) for name, t in a.items())


@pytest.fixture
def scripted(monkeypatch):
    """Replace validation by a list of AUCs; returns the weights that were shown to it."""
    def install(*aucs: float) -> list[dict]:
        script, shown = iter(aucs), []

        def fake(model, part, processes, task) -> Metrics:
            shown.append(copied(model))
            scripted = next(script)
            return scripted if isinstance(scripted, Metrics) else Metrics(scripted, 0.25)
        monkeypatch.setattr(autodim.method.retrain, "evaluate", fake)
        return shown
    return install


SCRIPTS = [  # AUC of each epoch, patience, best epoch, epochs run
    ((0.6, 0.7, 0.69, 0.68, 0.9), 2, 2, 4),
    ((0.6, 0.7, 0.69, 0.71, 0.70, 0.70, 0.9), 2, 4, 6),
    ((0.6, 0.5, 0.9), 1, 1, 2),
    ((0.5, 0.6, 0.7, 0.8, 0.9), 2, 5, 5),
    ((0.7, 0.7, 0.7, 0.7), 2, 1, 3),  # an equal AUC is not a better one
    ((0.5, 0.7, 0.6, 0.6, 0.6), 10, 2, 5),
    ((0.7, 0.6, 0.6, 0.8, 0.1, 0.1, 0.1, 0.9), 3, 4, 7),
    ((0.4,), 1, 1, 1),
    ((0.5, 0.5 + 1e-12, 0.4, 0.4), 2, 2, 4),
]


@pytest.mark.parametrize("aucs, patience, best, run", SCRIPTS)
def test_the_best_epochs_weights_are_kept(aucs, patience, best, run, scripted, make_data):
    data, shown = make_data(), scripted(*aucs)
    epochs = len(aucs) if run == len(aucs) else 30
    config = TrainConfig(epochs=epochs, patience=patience, batch_size=100)
    result = retrain(data, [2, 2, 2, 2], config, SMALL, QUIET)
    assert (result.best_epoch, len(result.history), result.val.auc) == (best, run, aucs[best - 1])
    assert same(copied(result.model), shown[best - 1])
    assert all(not same(shown[best - 1], other) for i, other in enumerate(shown) if i != best - 1)
    assert [row["epoch"] for row in result.history] == list(range(1, run + 1))
    assert [row["auc_val"] for row in result.history] == list(aucs[:run])


PARTS = [
    # AUCs of validations, of which each epoch has four, patience in epochs, the best one, the number that is run
    ((0.6, 0.7, 0.69, 0.68, 0.9), 0.5, 2, 4),
    ((0.6, 0.7, 0.69, 0.68, 0.9, 0.8, 0.8), 0.75, 5, 8),
    ((0.7, 0.6, 0.9), 0.1, 1, 2),
    ((0.5, 0.6, 0.5, 0.5, 0.5, 0.5), 1, 2, 6),
]


@pytest.mark.parametrize("aucs, patience, best, run", PARTS)
def test_validations_within_an_epoch_end_a_training_there(aucs, patience, best, run, scripted, make_data):
    aucs += (0.1,) * (run - len(aucs))
    shown = scripted(*aucs)
    config = TrainConfig(patience=patience, batch_size=50, validations=4)
    result = retrain(make_data(), [2] * 4, config, SMALL, QUIET)
    assert (result.best_epoch, len(result.history), result.val.auc) == (best / 4, run, aucs[best - 1])
    assert same(copied(result.model), shown[best - 1])
    assert [row["epoch"] for row in result.history] == [n / 4 for n in range(1, run + 1)]


@pytest.mark.parametrize("validations", [2, 3, 1000])  # 1000: more than there are steps
def test_looking_more_often_changes_nothing_of_what_is_learnt(validations, make_data):
    data = make_data()
    once, often = (retrain(data, [2] * 4, TrainConfig(epochs=3, patience=9, batch_size=50, validations=n), SMALL, QUIET)
                   for n in (1, validations))
    steps = len(data.train.labels) // 50
    assert len(often.history) == 3 * min(validations, steps)
    ends = [row for row in often.history if row["epoch"] in (1, 2, 3)]
    assert [(r["epoch"], r["auc_val"], r["logloss_val"]) for r in ends] == [
        (r["epoch"], r["auc_val"], r["logloss_val"]) for r in once.history]


def test_epochs_may_end_in_part_of_one(make_data):
    config = TrainConfig(epochs=1.5, patience=9, batch_size=50, validations=2)
    assert [row["epoch"] for row in retrain(make_data(), [2] * 4, config, SMALL, QUIET).history] == [0.5, 1, 1.5]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_decay_pulls_the_rows_of_the_batch_alone(sparse):
    torch.manual_seed(0)
    table, ids, rate = torch.nn.Embedding(4, 3), torch.tensor([1, 1, 2]), 0.3
    start = table.weight.detach().clone()
    optimizer = Adam(table, table.parameters(), 0.01, sparse, rate)
    (table(ids) * torch.arange(1.0, 4.0)).sum().backward()
    optimizer.step()
    # by hand: Adam's first step is lr · g / (|g| + eps), of the gradient that counts row 1 twice, plus rate · weight
    gradient = torch.stack([torch.zeros(3), 2 * torch.arange(1.0, 4.0), torch.arange(1.0, 4.0), torch.zeros(3)])
    gradient += rate * start * torch.tensor([0.0, 1, 1, 0]).unsqueeze(1)
    moved = start - 0.01 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(table.weight, moved, atol=1e-6) and table.weight[[0, 3]].equal(start[[0, 3]])
    assert torch.allclose(table.weight.grad.to_dense(), gradient, atol=1e-6)


def test_of_equal_aucs_the_lower_logloss_is_better(scripted, make_data):
    epochs = [Metrics(*pair) for pair in ((1.0, 0.5), (1.0, 0.4), (1.0, 0.45), (0.9, 0.1), (0.9, 0.1))]
    shown = scripted(*epochs)
    result = retrain(make_data(), [2] * 4, TrainConfig(batch_size=100), SMALL, QUIET)
    assert (result.best_epoch, len(result.history), result.val) == (2, 4, epochs[1])
    assert same(copied(result.model), shown[1])


def test_reported_metrics_are_those_of_the_returned_model(make_data):
    data = make_data()
    result = retrain(data, [2] * 4, TrainConfig(epochs=12, batch_size=30, lr=0.05), SMALL, QUIET)
    assert evaluate(result.model, data.val) == result.val
    assert result.val.auc == max(row["auc_val"] for row in result.history)


def test_each_epoch_reads_each_training_row_once_in_a_new_order(make_data, monkeypatch):
    data = make_data(sizes=(300, 4), rows=(300, 50, 50))
    train = Part(data.train.ids.clone(), data.train.labels)
    train.ids[:, 0] = torch.arange(300)
    data, seen = dataclasses.replace(data, train=train), []
    forward = DLRS.forward

    def spy(self, ids):
        if self.training:
            seen.append(ids[:, 0].tolist())
        return forward(self, ids)
    monkeypatch.setattr(DLRS, "forward", spy)
    config = TrainConfig(epochs=3, patience=3, batch_size=70)
    retrain(data, [2, 2], config, SMALL, QUIET)
    assert [len(rows) for rows in seen] == [70] * 12  # four full batches an epoch, the rest left out
    epochs = [sum(seen[4 * e:4 * e + 4], []) for e in range(3)]
    assert all(len(set(rows)) == 280 for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 3


def test_training_loss_is_the_mean_over_batches(make_data):
    """With a learning rate of 0 and no dropout, an epoch's loss is that of the rows, and nothing moves."""
    data = make_data(rows=(240, 60, 60))
    model = DLRS(data.cardinalities, [2] * 4)
    model.backbone = Sum()
    expected = loss_of(model(data.train.ids), data.train.labels).item()
    result = fit(model, data, TrainConfig(epochs=1, batch_size=60, lr=0.0), QUIET)
    assert result.history[0]["loss_train"] == pytest.approx(expected, rel=1e-5)


class Sum(torch.nn.Module):
    """A backbone without weights."""

    def forward(self, h0, ids):
        return h0.sum(1) * 100


def test_validation_decides_when_to_stop_and_moves_nothing_and_test_is_not_read(scripted, make_data):
    data, config = make_data(), TrainConfig(epochs=2, batch_size=50)
    garbage = Part(torch.full((9, 4), 10**6, dtype=torch.int32), torch.full((9,), torch.nan))
    states = []
    for given in (data, dataclasses.replace(data, val=garbage, test=garbage)):
        scripted(0.5, 0.6)
        states.append(copied(retrain(given, [2] * 4, config, SMALL, Runtime(3, progress=False)).model))
    assert same(*states)


def test_test_part_is_not_touched(make_data):
    data, config = make_data(), TrainConfig(epochs=3, batch_size=50)
    garbage = Part(torch.full((9, 4), 10**6, dtype=torch.int32), torch.full((9,), torch.nan))
    results = [retrain(given, [2] * 4, config, SMALL, QUIET)
               for given in (data, dataclasses.replace(data, test=garbage))]
    assert results[0].history == results[1].history


def test_a_seed_fixes_everything_and_the_callers_random_numbers_go_on(make_data):
    data, config = make_data(), TrainConfig(epochs=2, batch_size=50)
    torch.manual_seed(77)
    before, results = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        results.append(retrain(data, [2, 4, 2, 4], config, SMALL, Runtime(seed, progress=False)))
        assert torch.get_rng_state().equal(before)
        torch.randn(3)
        before = torch.get_rng_state()
    first, again, other = results
    assert first.history == again.history and same(copied(first.model), copied(again.model))
    assert first.history != other.history


def test_all_parameters_are_trained(make_data):
    data = make_data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = copied(DLRS(data.cardinalities, [2, 4, 2, 4], SMALL))
    result = retrain(data, [2, 4, 2, 4], TrainConfig(epochs=1, batch_size=50), SMALL, QUIET)
    assert all(not t.equal(start[name]) for name, t in result.model.state_dict().items())


def test_batches_larger_than_the_training_part(make_data):
    data = make_data(rows=(60, 20, 20))
    result = retrain(data, [2] * 4, TrainConfig(epochs=2), SMALL, QUIET)
    assert len(result.history) == 2


def test_training_has_the_reference_loops_auc():
    """Planted data, four epochs: one nn.Embedding a field, nn.Linear, nn.BatchNorm1d and default Adam, written out.

    In float64: a bias before BatchNorm has no gradient but rounding noise, which Adam blows up to full steps in
    float32 (two such loops that sum in another order differ by some 1e-4 of AUC), and which here is below its eps.
    """
    data, dims, config = load_dataset("planted", 0), [2, 4] * 5, TrainConfig(epochs=4, patience=4, batch_size=500)
    parts = {name: Part(part.ids, part.labels.double()) for name in ("train", "val") for part in [getattr(data, name)]}
    data = dataclasses.replace(data, **parts)
    torch.manual_seed(0)
    start = DLRS(data.cardinalities, dims, Network(hidden=(32,), dropout=0.0)).double()
    result = fit(copy.deepcopy(start), data, config, QUIET)
    layers = [q for q in copy.deepcopy(start.backbone.layers) if isinstance(q, (nn.Linear, nn.BatchNorm1d))]
    tables = [nn.Parameter(t.clone()) for t in field_tables(start.embedding, data.cardinalities)]
    parameters = tables + [q for layer in layers for q in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.001)

    def logits(ids):
        h = torch.cat([F.embedding(ids[:, m].long(), table) for m, table in enumerate(tables)], 1)
        return layers[2](F.relu(layers[1](layers[0](h)))).squeeze(1)

    generator, scores = torch.Generator().manual_seed(0), []
    for _ in range(config.epochs):
        layers[1].train()
        order = torch.randperm(len(data.train.labels), generator=generator)
        for rows in order.split(config.batch_size):
            if len(rows) < config.batch_size:
                continue
            loss = F.binary_cross_entropy_with_logits(logits(data.train.ids[rows]), data.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        layers[1].eval()
        with torch.no_grad():
            scores.append(roc_auc_score(data.val.labels, logits(data.val.ids)))
    ours = [epoch["auc_val"] for epoch in result.history]
    assert ours == pytest.approx(scores, abs=1e-6) and max(scores) > 0.7
