"""Models without embeddings: scikit-learn by hand, samples, files larger than memory, and which is called best."""
import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from autodim.data.batches import Data, DiskPart, Part
from autodim.data.vocabulary import Vocabulary
from autodim.study.alternatives import (
    CATEGORIES, STRENGTHS, Alternative, alternatives, boosted_trees, compared, logistic_regression, one_hot, sampled,
    tree_codes,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(make_data) -> Data:
    return make_data(sizes=(5, 9, 40), rows=(3000, 800, 900))


def rows(part) -> tuple[np.ndarray, np.ndarray]:
    return part.ids.numpy(), part.labels.numpy()


def test_logistic_regression_by_a_dense_fit_of_each_strength(data):
    def dense(ids: np.ndarray) -> np.ndarray:
        made = np.zeros((len(ids), sum(data.cardinalities)))
        for i, row in enumerate(ids):
            for m, value in enumerate(row):
                made[i, sum(data.cardinalities[:m]) + value] = 1
        return made

    (ids, y), (val, y_val), (test, y_test) = map(rows, (data.train, data.val, data.test))
    assert (one_hot(val, data.cardinalities).toarray() == dense(val)).all()
    fits = {c: LogisticRegression(C=c, tol=1e-8, max_iter=2000).fit(dense(ids), y) for c in STRENGTHS}
    best = min(fits, key=lambda c: log_loss(y_val, fits[c].predict_proba(dense(val))[:, 1]))
    _, chosen, score = logistic_regression(data, (ids, y), (val, y_val), 0)
    assert chosen == f"C = {best:g}"
    expected = fits[best].decision_function(dense(test))
    np.testing.assert_allclose(score(test), expected, atol=0.2)  # lbfgs stops at another place
    assert log_loss(y_test, 1 / (1 + np.exp(-score(test)))) == pytest.approx(
        log_loss(y_test, 1 / (1 + np.exp(-expected))), abs=1e-3)
    found = alternatives(data)[0]
    assert found.auc == pytest.approx(roc_auc_score(y_test, score(test)), abs=1e-9)
    assert found.logloss == pytest.approx(log_loss(y_test, 1 / (1 + np.exp(-found.scores))), abs=1e-6)


def test_trees_stop_by_the_validation_rows_that_are_given(data):
    (ids, y), (val, y_val) = rows(data.train), rows(data.val)
    model, chosen, score = boosted_trees(data, (ids, y), (val, y_val), 0)
    assert chosen == f"{model.n_iter_} trees" and model.n_iter_ < 500
    losses = [log_loss(y_val, p[:, 1]) for p in model.staged_predict_proba(
        np.stack([tree_codes(v, ids[:, m])[0][val[:, m]] for m, v in enumerate(data.vocabularies)], 1))]
    assert len(losses) - 1 - int(np.argmin(losses)) <= 10
    plain = HistGradientBoostingClassifier(max_iter=model.n_iter_, early_stopping=False, categorical_features=[0, 1, 2],
                                           random_state=0).fit(ids, y)
    assert roc_auc_score(y_val, score(val)) == pytest.approx(roc_auc_score(y_val, plain.decision_function(val)), abs=0.01)


@pytest.mark.parametrize("size", [3, CATEGORIES - 1, CATEGORIES, CATEGORIES + 1, 1000])
def test_categories_are_as_many_as_trees_take(size):
    rng = np.random.default_rng(size)
    ids = rng.integers(0, size + 1, 5000)
    vocabulary = Vocabulary("a", np.array([f"v{i}" for i in range(size)], dtype=object))
    codes, categorical = tree_codes(vocabulary, ids)
    assert categorical and codes.shape == (size + 1,) and not np.isnan(codes).any()
    assert len(set(codes)) == min(size + 1, CATEGORIES) and codes.min() == 0 and codes.max() < CATEGORIES
    if size + 1 > CATEGORIES:
        counts = np.bincount(ids, minlength=size + 1)
        alone = codes < CATEGORIES - 1
        assert alone.sum() == CATEGORIES - 1 and counts[alone].min() >= counts[~alone].max()


def test_numbers_keep_their_order_and_missing_ones_have_none():
    price = Vocabulary("price", np.array([0, 2, 5]), missing_id=4, rule="criteo")
    codes, categorical = tree_codes(price, np.array([0]))
    assert not categorical and np.isnan(codes[[0, 4]]).all() and list(codes[1:4]) == [0, 2, 5]
    many = Vocabulary("count", np.arange(0, 900, 3), missing_id=301)
    codes, categorical = tree_codes(many, np.array([0]))
    assert not categorical and list(codes[1:301]) == list(range(0, 900, 3)) and np.isnan(codes[[0, 301]]).all()


def test_rows_mapped_from_files_and_a_sample_of_them(data, tmp_path):
    parts = []
    for name, part in zip("abc", (data.train, data.val, data.test)):
        for what, tensor in zip(("ids", "labels"), part):
            np.save(tmp_path / f"{name}-{what}.npy", tensor.numpy())
        parts.append(DiskPart(*(torch.from_numpy(np.load(tmp_path / f"{name}-{what}.npy", mmap_mode="c"))
                                for what in ("ids", "labels"))))
    mapped = Data(data.name, data.vocabularies, *parts, data.fingerprint)
    for one, other in zip(alternatives(data), alternatives(mapped)):
        assert (one.scores == other.scores).all() and one.bytes == other.bytes
    ids, labels = sampled(mapped.train, 700, seed=1)
    whole = {(*map(int, i), int(y)) for i, y in zip(*rows(data.train))}
    assert len(ids) == len(labels) == 700 and {(*map(int, i), int(y)) for i, y in zip(ids, labels)} <= whole
    assert (sampled(mapped.train, 700, seed=1)[0] == ids).all() and (sampled(mapped.train, 700, seed=2)[0] != ids).any()
    fewer = alternatives(mapped, rows=700)
    assert fewer[0].auc < alternatives(mapped)[0].auc and len(fewer[0].scores) == len(data.test.labels)


def test_without_both_classes_there_are_none(data):
    one = Part(data.test.ids, torch.zeros(len(data.test.labels)))
    none = Part(data.test.ids[:0], data.test.labels[:0])
    for part in (one, none):
        assert alternatives(Data("", data.vocabularies, data.train, data.val, part, "")) == []
        assert alternatives(Data("", data.vocabularies, part, data.val, data.test, "")) == []


def of(name: str, scores: np.ndarray, labels: np.ndarray) -> Alternative:
    return Alternative(name, "", roc_auc_score(labels, scores), 0.5, scores, 1.0, 10)


@pytest.mark.parametrize("noise, best, decided", [((1, 3, 3), "ours", True), ((3, 1, 3), "one", True),
                                                  ((3, 3, 1), "two", True), ((1, 1.01, 3), None, False)])
def test_the_best_and_whether_that_is_sure(noise, best, decided):
    rng = np.random.default_rng(0)
    labels = (rng.random(3000) < 0.4).astype(int)
    ours, *others = (of(name, labels + s * rng.normal(size=3000), labels)
                     for name, s in zip(("ours", "one", "two"), noise))
    found = compared(ours, others, labels)
    assert found["decided"] == decided and best in (None, found["best"])
    assert [m["name"] for m in found["models"]] == ["ours", "one", "two"] and "scores" not in found["models"][0]
    assert found["models"][0]["difference"] is None
    draws = []  # the bootstrap over rows, against DeLong
    for _ in range(300):
        rows = rng.integers(0, 3000, 3000)
        draws.append(roc_auc_score(labels[rows], ours.scores[rows]) - roc_auc_score(labels[rows], others[0].scores[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    width = found["models"][1]["difference"]["high"] - found["models"][1]["difference"]["low"]
    assert width == pytest.approx(high - low, rel=0.25)


def test_too_few_test_rows_decide_nothing():
    labels = np.array([1, 0, 0, 0])
    found = compared(of("ours", np.array([4, 3, 2, 1.0]), labels), [of("one", np.array([1, 2, 3, 4.0]), labels)], labels)
    difference = found["models"][1]["difference"]
    assert (difference["low"], difference["high"], found["decided"]) == (-1, 1, False)
