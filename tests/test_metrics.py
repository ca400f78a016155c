"""Metrics against scikit-learn, loops over pairs, and counted parameters."""
import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from autodim.data.batches import Part
from autodim.method.metrics import auc, evaluate, logloss, predict, space
from autodim.method.models import DLRS


def draw(seed: int, n: int, levels: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores on few levels, so that most pairs are tied, and labels of which at least one is of each kind."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < rate).astype(np.float32)
    labels[:2] = 0, 1
    return (rng.integers(0, levels, n) + labels * rng.integers(0, 2, n)).astype(np.float32), labels


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_auc_by_pairs_and_by_scikit_learn(seed, rate, levels):
    scores, labels = draw(seed, 150, levels, rate)
    wins = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    found = auc(torch.tensor(scores), torch.tensor(labels))
    assert found == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("positives", [1, 299_999, 150_000])
def test_auc_of_many_rows(positives):
    """One positive among 300,000, all but one, and half: sums of ranks leave float32 far behind."""
    rng = np.random.default_rng(positives)
    scores = rng.normal(size=300_000).astype(np.float32).round(3)
    labels = (rng.permutation(300_000) < positives).astype(np.float32)
    assert auc(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_ignores_order_and_scale_and_mirrors(seed):
    scores, labels = (torch.tensor(x) for x in draw(seed, 400, 20, 0.3))
    value, order = auc(scores, labels), torch.randperm(400)
    assert auc(scores[order], labels[order]) == pytest.approx(value, abs=1e-14)
    for transformed in (3 * scores - 100, scores.double().exp(), (scores - 10) ** 3, scores.double().sigmoid()):
        assert auc(transformed, labels) == pytest.approx(value, abs=1e-14)
    assert auc(-scores, labels) == auc(scores, 1 - labels) == pytest.approx(1 - value, abs=1e-14)


@pytest.mark.parametrize("rate", [0.02, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_logloss_against_scikit_learn(seed, rate):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=500) * 3, draw(seed, 500, 2, rate)[1]
    expected = log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert logloss(torch.tensor(logits), torch.tensor(labels)) == pytest.approx(expected, rel=1e-12)


def test_logloss_of_confident_mistakes_is_finite_and_exact():
    assert logloss(torch.tensor([500.0, -500.0]), torch.tensor([0.0, 1.0])) == 500


@pytest.mark.parametrize("seed", range(8))
def test_space_counts_the_parameters_of_real_models(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, rng.integers(1, 6)).tolist()
    dims, d_max = rng.choice([2, 4, 6, 8, 10], len(sizes)).tolist(), 10

    def counted(widths: list[int]) -> int:
        return sum(q.numel() for q in DLRS(sizes, widths).embedding.parameters())

    assert space(dims, sizes, d_max) == counted(dims) / counted([d_max] * len(sizes))


def test_space_refuses_dims_that_miss_a_field():
    with pytest.raises(ValueError):
        space([2, 2], [3, 3, 3], 10)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_uses_running_statistics_no_dropout_and_leaves_the_model_alone(training):
    torch.manual_seed(0)
    model = DLRS([20, 5], [4, 2])
    part = Part(torch.stack([torch.randint(20, (500,)), torch.randint(5, (500,))], 1).int(), torch.rand(500).round())
    model(part.ids)  # statistics that differ from those of a batch
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = evaluate(model.train(training), part)
    assert model.training == training
    assert all(t.equal(before[name]) for name, t in model.state_dict().items())
    logits = model.eval()(part.ids).detach()
    assert found.auc == pytest.approx(roc_auc_score(part.labels, logits), abs=1e-9)
    assert found.logloss == pytest.approx(log_loss(part.labels, logits.double().sigmoid()), rel=1e-9)
    assert not predict(model, part).requires_grad
