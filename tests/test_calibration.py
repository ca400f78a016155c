"""Calibration: scikit-learn and loops in float64 as oracles, few rows, odd logits, and what a report has of it."""
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss, roc_auc_score

from autodim.method.calibration import SPREAD, calibration_record, platt, reliability


def drawn(n: int, slope: float = 0.7, intercept: float = -0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model, and labels whose true logit is slope * logit + intercept."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.5, 1.4, n)
    return z, (rng.random(n) < expit(slope * z + intercept)).astype(float)


class Scores(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose scores are its input."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, X):
        return X[:, 0]

    def predict(self, X):
        return self.decision_function(X) > 0


@pytest.mark.parametrize("seed", range(3))
def test_on_many_rows_it_is_sklearns_sigmoid_calibration(seed):
    z, y = drawn(60_000, seed=seed)
    oracle = CalibratedClassifierCV(FrozenEstimator(Scores().fit(None, None)), method="sigmoid", ensemble=False).fit(z[:, None], y)
    slope, intercept = platt(z, y)
    new = np.linspace(-6, 3, 50)
    np.testing.assert_allclose(expit(slope * new + intercept), oracle.predict_proba(new[:, None])[:, 1], atol=2e-3)


@pytest.mark.parametrize("n, truth", [(30, (0.7, -0.5)), (200, (0.7, -0.5)), (2000, (1.6, 1.0)), (2000, (1.0, 0.0))])
def test_it_minimises_the_objective_written_as_a_loop(n, truth):
    z, y = drawn(n, *truth)
    mean = sum(z) / n

    def objective(at) -> float:
        slope, shift = at
        total = ((slope - 1) ** 2 + shift**2) / (2 * SPREAD**2)
        for z_i, y_i in zip(z.tolist(), y.tolist()):
            u = mean + shift + slope * (z_i - mean)
            total += math.log1p(math.exp(-abs(u))) + max(u, 0) - y_i * u
        return total

    slope, shift = minimize(objective, (1, 0), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x
    np.testing.assert_allclose(platt(z, y), (slope, (1 - slope) * mean + shift), atol=1e-5)


def test_the_mean_prediction_becomes_the_base_rate_and_no_rank_changes():
    z, y = drawn(50_000)
    assert expit(z).mean() / y.mean() > 1.1
    slope, intercept = platt(z, y)
    assert expit(slope * z + intercept).mean() == pytest.approx(y.mean(), rel=5e-3)
    assert roc_auc_score(y, slope * z + intercept) == roc_auc_score(y, z)


@pytest.mark.parametrize("z, y", [([-1, 1], [0, 1]), ([-5, -4, 3, 4], [0, 0, 1, 1]), ([0.3], [1]), ([-2] * 9, [0] * 9)])
def test_few_or_separable_rows_change_little(z, y):
    slope, intercept = platt(np.array(z, dtype=np.float32), np.array(y, dtype=np.float32))
    assert abs(slope - 1) < SPREAD and abs((slope - 1) * np.mean(z) + intercept) < SPREAD


@pytest.mark.parametrize("z", [[np.nan, 1.0], [np.inf, -1.0], []])
def test_logits_that_are_no_numbers_leave_it_as_it_is(z):
    assert platt(np.array(z), np.zeros(len(z))) == (1.0, 0.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-4, 10.0, 1e4, 1e8])
def test_logits_of_any_scale(scale):
    z, y = drawn(5000)
    slope, intercept = platt(z * scale, y)
    assert slope > 0 and np.isfinite(intercept)

    def loss(a: float, b: float) -> float:
        return np.mean(np.logaddexp(0, a * scale * z + b) - y * (a * scale * z + b))

    assert loss(slope, intercept) <= loss(1, 0) + 1e-9
    assert platt(-z * max(scale, 1), y) == (1.0, 0.0)  # ranks backwards


def test_it_does_not_harm_a_model_that_is_right():
    """Over tables with few positives, the expected Logloss on new rows hardly rises, and with many not at all."""
    new = np.random.default_rng(9).normal(-1.5, 1.4, 5000)
    best = np.mean(np.logaddexp(0, new) - expit(new) * new)
    for n, limit in ((20, 0.004), (200, 0.002), (2000, 0.0005)):
        found = [platt(*drawn(n, 1, 0, seed)) for seed in range(40)]
        costs = [np.mean(np.logaddexp(0, u) - expit(new) * u) for u in (a * new + b for a, b in found)]
        assert np.mean(costs) - best < limit


def test_reliability_by_a_loop():
    rng = np.random.default_rng(1)
    p = rng.choice([0.1, 0.2, 0.4, 0.8], 4000, p=[0.05, 0.5, 0.4, 0.05])
    y = rng.random(4000) < p
    groups = reliability(p, y)
    assert sum(g["rows"] for g in groups) == 4000
    runs = [p[np.isin(p, values)] for values in ([0.1], [0.2], [0.4, 0.8])]  # equal predictions stay together
    assert [(g["rows"], g["mean"]) for g in groups] == [(len(run), pytest.approx(run.mean())) for run in runs]
    for g in groups:
        assert 0 <= g["low"] <= g["share"] <= g["high"] <= 1
        k, n, z = g["share"] * g["rows"], g["rows"], 1.959963985
        roots = [(k + z * z / 2 + s * z * math.sqrt(k * (n - k) / n + z * z / 4)) / (n + z * z) for s in (-1, 1)]
        np.testing.assert_allclose((g["low"], g["high"]), roots, atol=1e-9)
    assert len(reliability(np.arange(100) / 100, np.zeros(100))) == 10
    assert reliability(np.full(7, 0.5), [1] * 7)[0]["high"] == 1


def test_a_record_of_before_and_after():
    z, y = drawn(3000)
    record = calibration_record(z, y, (0.5, 0.25))
    for name, p in (("before", expit(z)), ("after", expit(0.5 * z + 0.25))):
        assert record[name]["logloss"] == pytest.approx(log_loss(y, p))
        assert record[name]["mean"] == pytest.approx(p.mean()) and record[name]["groups"] == reliability(p, y)
    assert record["share"] == y.mean() and (record["slope"], record["intercept"]) == (0.5, 0.25)
    same = calibration_record(z, y, (1.0, 0.0))
    assert same["before"] == same["after"] == record["before"]
