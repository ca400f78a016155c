"""Random dimensions against their distribution, and the floor against scikit-learn."""
from collections import Counter
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import autodim.method.retrain
from autodim.method.baselines import bias_only, random_dims, uniform_dims
from autodim.method.lookup import Candidates, uniform_candidates
from autodim.method.metrics import Metrics, evaluate, predict
from autodim.method.retrain import TrainConfig
from autodim.training.runtime import Runtime


def test_random_dims_are_uniform_and_independent():
    """All 4 x 2 x 3 combinations of three fields' own candidates are equally frequent over seeds and draws."""
    candidates = Candidates((2, 4, 6, 8), ((2, 4, 6, 8), (2, 8), (4, 6, 8)))
    drawn = Counter(tuple(random_dims("abc", candidates, seed, draw).values())
                    for seed in range(60) for draw in range(100))
    everything = list(product(*candidates.allowed))
    assert set(drawn) == set(everything)
    assert scipy.stats.chisquare([drawn[c] for c in everything]).pvalue > 0.001


def test_random_dims_are_fixed_by_seed_and_draw_and_by_nothing_else():
    candidates, fields = uniform_candidates(30), [f"field {m}" for m in range(30)]
    draws = {(s, d): tuple(random_dims(fields, candidates, s, d).items()) for s in range(6) for d in range(6)}
    assert len(set(draws.values())) == 36  # (1, 2) is not (2, 1)
    np.random.seed(1), torch.manual_seed(1)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert all(tuple(random_dims(fields, candidates, s, d).items()) == dims for (s, d), dims in draws.items())
    assert np.array_equal(np.random.get_state()[1], states[0]) and torch.get_rng_state().equal(states[1])
    assert all(type(d) is int for d in dict(draws[0, 0]).values())


def test_random_dims_refuses_candidates_of_other_fields():
    with pytest.raises(ValueError):
        random_dims("ab", uniform_candidates(3), 0, 0)


def test_uniform_dims():
    assert uniform_dims(["b", "a"], 7) == {"b": 7, "a": 7}
    with pytest.raises(ValueError, match="dimension 0"):
        uniform_dims("ab", 0)


def one_hot(ids: torch.Tensor, sizes) -> np.ndarray:
    return np.concatenate([np.eye(size)[ids[:, m].numpy()] for m, size in enumerate(sizes)], 1)


@pytest.mark.parametrize("seed", range(2))
def test_bias_only_is_a_logistic_regression(seed, make_data, monkeypatch):
    """Run to the minimum of the training loss, it gives the logits of scikit-learn's unpenalised fit."""
    data = make_data(sizes=(4, 7, 3), rows=(900, 50, 300), seed=seed, effect=1.0)

    def by_training_loss(model, part, processes, task) -> Metrics:
        found = evaluate(model, data.train)
        return Metrics(-found.logloss, found.logloss)
    monkeypatch.setattr(autodim.method.retrain, "evaluate", by_training_loss)
    fitted = bias_only(data, TrainConfig(epochs=400, patience=60, batch_size=900, lr=0.1), Runtime(progress=False))
    exact = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    exact.fit(one_hot(data.train.ids, data.cardinalities), data.train.labels.numpy())
    expected = exact.decision_function(one_hot(data.test.ids, data.cardinalities))
    np.testing.assert_allclose(predict(fitted.model, data.test), expected, atol=0.02)


def test_bias_only_as_it_is_run_reaches_the_regressions_auc(make_data):
    data = make_data(sizes=(20, 40, 10), rows=(4000, 1000, 1000), effect=0.8)
    fitted = bias_only(data, TrainConfig(lr=0.01, batch_size=100), Runtime(progress=False))
    exact = LogisticRegression().fit(one_hot(data.train.ids, data.cardinalities), data.train.labels.numpy())
    expected = roc_auc_score(data.test.labels, exact.decision_function(one_hot(data.test.ids, data.cardinalities)))
    assert evaluate(fitted.model, data.test).auc == pytest.approx(expected, abs=0.005)
    assert sum(q.numel() for q in fitted.model.parameters()) == 20 + 40 + 10 + 1


def test_bias_only_leaves_the_callers_random_numbers_alone(make_data):
    torch.manual_seed(77)
    before = torch.get_rng_state()
    bias_only(make_data(), TrainConfig(epochs=1), Runtime(progress=False))
    assert torch.get_rng_state().equal(before)
