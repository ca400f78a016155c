"""Models without embeddings: scikit-learn by hand, samples, files larger than memory, and which is called best."""
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, roc_auc_score, root_mean_squared_error

from autodim.data.batches import Data, DiskPart, Part, Task
from autodim.data.vocabulary import Vocabulary
from autodim.study.alternatives import (
    CATEGORIES, CLASSES, ROWS, STRENGTHS, Alternative, alternatives, boosted_trees, compared, linear, most_rows, one_hot,
    sampled, tree_codes,
)  # fmt: skip
from autodim.method.metrics import FEW, Metrics, measure


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
    _, chosen, score, losses = linear(data, (ids, y), (val, y_val))
    assert chosen == f"C = {best:g}" and STRENGTHS[np.argmin(losses)] == best
    expected = fits[best].decision_function(dense(test))
    np.testing.assert_allclose(score(test), expected, atol=0.2)  # lbfgs stops at another place
    assert log_loss(y_test, 1 / (1 + np.exp(-score(test)))) == pytest.approx(
        log_loss(y_test, 1 / (1 + np.exp(-expected))), abs=1e-3)
    found = alternatives(data)[0]
    assert found.measured.auc == pytest.approx(roc_auc_score(y_test, score(test)), abs=1e-9)
    assert found.measured.logloss == pytest.approx(log_loss(y_test, 1 / (1 + np.exp(-found.scores))), abs=1e-6)


def test_trees_stop_by_the_validation_rows_that_are_given(data):
    (ids, y), (val, y_val) = rows(data.train), rows(data.val)
    model, chosen, score, _ = boosted_trees(data, (ids, y), (val, y_val))
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
    assert fewer[0].measured.auc < alternatives(mapped)[0].measured.auc and len(fewer[0].scores) == len(data.test.labels)


def test_without_both_classes_there_are_none(data):
    one = Part(data.test.ids, torch.zeros(len(data.test.labels)))
    none = Part(data.test.ids[:0], data.test.labels[:0])
    for part in (one, none):
        assert alternatives(Data("", data.vocabularies, data.train, data.val, part, "")) == []
        assert alternatives(Data("", data.vocabularies, part, data.val, data.test, "")) == []


def of(name: str, scores: np.ndarray, labels: np.ndarray) -> Alternative:
    return Alternative(name, "", Metrics(roc_auc_score(labels, scores), 0.5), scores, 1.0, 10)


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


# ---------------------------------------------------------------- numbers and several classes

def of_task(data: Data, name: str, classes: int = 3) -> Data:
    """The same ids with labels that are a sum of effects of the values and noise, as numbers or cut into classes."""
    rng, parts = np.random.default_rng(0), []
    effects = [rng.normal(size=v) for v in data.cardinalities]
    for part in (data.train, data.val, data.test):
        y = sum(e[part.ids[:, m]] for m, e in enumerate(effects)) + rng.normal(size=len(part.labels))
        cuts = np.quantile(y, np.arange(1, classes) / classes)
        parts.append(Part(part.ids, torch.tensor(100 + 20 * y if name == "regression" else np.digitize(y, cuts)).float()))
    mean, scale = parts[0].labels.double().mean().item(), parts[0].labels.double().std().item()
    task = Task(name, mean=mean, scale=scale) if name == "regression" else Task(name, classes)
    return Data(data.name, data.vocabularies, *parts, data.fingerprint, task)


def error(task: Task, y: np.ndarray, predicted: np.ndarray) -> float:
    """scikit-learn's, of numbers or of probabilities."""
    if task.name == "regression":
        return mean_squared_error(y, predicted)
    return log_loss(y, predicted, labels=range(task.classes))


@pytest.mark.parametrize(("name", "classes"), [("regression", 0), ("classes", 2), ("classes", 3), ("classes", 5)])
def test_other_tasks_are_fitted_as_scikit_learn_is_by_hand(data, name, classes):
    """The linear model at each strength and the trees, on labels in their own unit; and what the validation rows choose."""
    made = of_task(data, name, classes)
    (ids, y), (val, y_val), (test, y_test) = map(rows, (made.train, made.val, made.test))
    task, x, numbers = made.task, [one_hot(i, made.cardinalities) for i in (ids, val, test)], name == "regression"
    fits = [(Ridge(alpha=1 / c, tol=1e-10) if numbers else LogisticRegression(C=c, tol=1e-8, max_iter=3000)).fit(x[0], y)
            for c in STRENGTHS]
    ask = [fit.predict if numbers else fit.predict_proba for fit in fits]
    best = int(np.argmin([error(task, y_val, predict(x[1])) for predict in ask]))
    first, trees = alternatives(made)
    assert first.name == ("ridge regression" if numbers else "logistic regression")
    value = 1 / STRENGTHS[best] if numbers else STRENGTHS[best]
    assert first.setting == f"{'alpha' if numbers else 'C'} = {value:g}"
    meant = task.link(torch.from_numpy(first.scores)).numpy()
    assert meant.shape == ((len(y_test),) if numbers else (len(y_test), classes))
    if numbers:
        np.testing.assert_allclose(meant, ask[best](x[2]), rtol=1e-3)
        assert first.measured.rmse == pytest.approx(root_mean_squared_error(y_test, ask[best](x[2])), rel=1e-4)
    else:
        assert np.abs(meant - ask[best](x[2])).mean() < 0.003  # lbfgs stops at another place
        assert first.measured.logloss == pytest.approx(log_loss(y_test, softmax(first.scores, axis=1)), rel=1e-5)
        assert first.measured.accuracy == accuracy_score(y_test, first.scores.argmax(1))
    kind = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
    codes = [np.stack([tree_codes(v, ids[:, m])[0][i[:, m]] for m, v in enumerate(made.vocabularies)], 1)
             for i in (ids, val, test)]
    plain = kind(max_iter=500, early_stopping=True, categorical_features=[True] * 3, random_state=0)
    plain.fit(codes[0], y, X_val=codes[1], y_val=y_val)
    meant = task.link(torch.from_numpy(trees.scores)).numpy()
    if numbers:  # in another unit trees stop at the same place, but for rounding
        assert trees.measured.rmse == pytest.approx(root_mean_squared_error(y_test, plain.predict(codes[2])), rel=0.01)
    else:
        np.testing.assert_allclose(meant, plain.predict_proba(codes[2]), rtol=1e-5)
        assert trees.setting == f"{plain.n_iter_} trees" + " a class" * (classes > 2)


@pytest.mark.parametrize("name", ["regression", "classes"])
def test_the_lead_of_other_tasks_is_that_of_the_bootstrap(data, name):
    made, rng = of_task(data, name), np.random.default_rng(1)
    labels, n = made.test.labels, len(made.test.labels)
    first, other = alternatives(made)
    found = compared(other, [first], labels.numpy(), made.task)
    assert found["best"] == first.name and found["decided"]  # effects add up, which trees have to build
    outputs, draws = [torch.from_numpy(m.scores) for m in (other, first)], []
    for _ in range(300):
        i = torch.from_numpy(rng.integers(0, n, n))
        one, two = (measure(z[i], labels[i], made.task) for z in outputs)
        draws.append(one.loss(two))
    by, (low, high) = found["models"][1]["difference"], np.quantile(draws, [0.025, 0.975])
    assert by["mean"] == pytest.approx(measure(outputs[0], labels, made.task).loss(first.measured)) and by["high"] < 0
    assert by["high"] - by["low"] == pytest.approx(high - low, rel=0.25)
    assert {"regression": {"rmse"}, "classes": {"logloss", "accuracy"}}[name] <= {*found["models"][0]}
    few = [m._replace(scores=m.scores[:FEW - 1]) for m in (other, first)]
    unsure = compared(few[0], few[1:], labels.numpy()[:FEW - 1], made.task)
    assert not unsure["decided"] and unsure["models"][1]["difference"]["low"] is None


def test_the_more_classes_the_fewer_rows_and_of_very_many_none(data):
    made = of_task(data, "classes", 5)
    assert most_rows(made.task) == ROWS * 3 // 5 and most_rows(Task("regression")) == ROWS
    rare = made.train.labels.clone()
    rare[rare == 4] = 0
    rare[17] = 4
    (ids, labels) = sampled(Part(made.train.ids, rare), 50, 0, classes=True)
    assert set(labels) == set(range(5)) and 50 <= len(ids) <= 55
    without = Data("", made.vocabularies, Part(made.train.ids, rare.clamp(max=3)), made.val, made.test, "", made.task)
    assert alternatives(without) == []
    many = Data("", made.vocabularies, *([Part(made.train.ids, torch.arange(3000.0) % (CLASSES + 1))] * 3), "",
                Task("classes", CLASSES + 1))
    assert alternatives(many) == []


def test_values_that_no_training_row_has_weigh_nothing(data):
    """As under a penalty; scores are those of all columns."""
    made = of_task(data, "regression")
    (ids, y), (val, y_val) = rows(made.train), rows(made.val)
    kept = ids[:, 2] != 7
    fitted = linear(made, (ids[kept], y[kept]), (val, y_val))
    assert fitted.model.coef_.size == sum(made.cardinalities) - 1 and (val[:, 2] == 7).any()
    whole = Ridge(alpha=float(fitted.setting.split()[-1]), tol=1e-10).fit(one_hot(ids[kept], made.cardinalities), y[kept])
    np.testing.assert_allclose(made.task.mean + made.task.scale * fitted.score(val),
                               whole.predict(one_hot(val, made.cardinalities)), rtol=1e-3)
