"""The estimator for numbers and several classes: scikit-learn's habits, packing, saving, ONNX, and labels that do not fit."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

from autodim.app.estimator import AutoDim, load
from autodim.app.export import write_exports, write_onnx
from autodim.app.steps import loss_differences
from autodim.data.batches import Task
from autodim.data.columns import label_task
from autodim.data.files import DataError
from autodim.data.split import SplitOptions, parts_of_rows
from autodim.data.table import prepare
from autodim.data.columns import ColumnOptions

FAST = dict(hidden=(16,), dropout=0.0, search_epochs=1, epochs=8, batch_size=50, f=2, lr=0.01, dims=(1, 2, 4), repeats=1)
NAMES = np.array(["low", "mid", "high", "top"])


def table(n: int = 1500, seed: int = 0) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Three fields, and labels that are the sum of their effects as a number or as four classes; synthetic."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, size, n) for size in (12, 30, 4)]
    y = sum(rng.normal(size=size)[i] for size, i in zip((12, 30, 4), ids)) + 0.3 * rng.normal(size=n)
    frame = pd.DataFrame(np.stack(ids, 1).astype(str), columns=list("abc"))
    return frame, {"regression": 100 + 20 * y, "classes": NAMES[np.digitize(y, (-1, 0, 1))]}


X, LABELS = table()


@pytest.fixture(scope="module", params=["regression", "classes"])
def fitted(request):
    return AutoDim(task=request.param, **FAST).fit(X, LABELS[request.param]), request.param


def test_it_is_what_scikit_learn_expects(fitted):
    model, task = fitted
    y, predicted = LABELS[task], model.predict(X)
    assert (is_regressor(model), is_classifier(model)) == (task == "regression", task == "classes")
    if task == "regression":
        assert model.score(X, y) == pytest.approx(r2_score(y, predicted)) and model.score(X, y) > 0.7
        for name in ("predict_proba", "decision_function", "classes_"):
            assert not hasattr(model, name)
    else:
        assert list(model.classes_) == sorted(NAMES) and model.score(X, y) == accuracy_score(y, predicted) > 0.6
        np.testing.assert_allclose(model.predict_proba(X), softmax(model.decision_function(X), axis=1), rtol=1e-6)
        assert (predicted == model.classes_[model.predict_proba(X).argmax(1)]).all()
    assert len(model.predict(X[:0])) == 0
    unfitted = clone(model)
    assert (is_regressor(unfitted), unfitted.task) == (task == "regression", task)


def test_the_record_has_the_measures_of_test_rows(fitted):
    """Against scikit-learn, on the rows that the estimator held out, which its seed says."""
    model, task = fitted
    codes = np.searchsorted(sorted(NAMES), LABELS[task]) if task == "classes" else np.zeros(len(X), int)
    test = parts_of_rows(codes, SplitOptions(), classes=4 if task == "classes" else 1) == 2
    found = model.record_["outcomes"][0]["test"][0]
    y = LABELS[task][test]
    if task == "regression":
        assert found == {"rmse": pytest.approx(root_mean_squared_error(y, model.predict(X[test])), rel=1e-5)}
    else:
        chances = model.predict_proba(X[test])
        assert found["logloss"] == pytest.approx(log_loss(y, chances, labels=model.classes_), rel=1e-4)
        assert found["accuracy"] == pytest.approx(accuracy_score(y, model.predict(X[test])))
    word = {"regression": "RMSE", "classes": "accuracy"}[task]
    assert word in str(model.report()) and word in model.report()._repr_html_()
    assert model.curve_[{"regression": "search_rmse", "classes": "search_logloss"}[task]].gt(0).all()


def test_differences_to_rivals_are_those_of_their_measures(fitted):
    model, task = fitted
    outcomes = {o["name"]: o["test"][0] for o in model.record_["outcomes"]}
    for d in model.record_["differences"]:
        own, rival = outcomes["AutoDim"], outcomes[d["rival"]]
        expected = (100 * (rival["rmse"] / own["rmse"] - 1) if task == "regression" else
                    100 * (rival["logloss"] - own["logloss"]))
        assert d["mean"] == pytest.approx(expected) and d["low"] <= d["mean"] <= d["high"]


def test_packed_saved_and_loaded(fitted, tmp_path):
    model, task = fitted
    packed = clone(model).set_params(max_loss=8.0, sure=False, rivals=False).fit(X, LABELS[task])
    about = packed.record_["compression"]
    assert about["val"]["loss"] <= 8 and about["bytes"] < 0.6 * about["full_bytes"]
    packed.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X), packed.predict(X))
    assert again.trained_.task == packed.trained_.task and str(again.report()) == str(packed.report())
    again.report().save(tmp_path / "report.html")
    assert "packed:" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "model" / "model.json").read_text())["format"] == 5


def test_onnx_gives_numbers_or_chances(fitted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, task = fitted
    trained, fields = model.trained_, [v.name for v in model.vocabularies_]
    write_onnx(trained.model, fields, tmp_path / "m.onnx", task=trained.task)
    ids = np.stack([v.encode(X[v.name]) for v in model.vocabularies_], 1).astype(np.int64)[:100]
    name = {"regression": "number", "classes": "probabilities"}[task]
    (found,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run([name], {"ids": ids})
    np.testing.assert_allclose(found, (model.predict if task == "regression" else model.predict_proba)(X[:100]), rtol=1e-4)
    with pytest.raises(ValueError, match=f"task '{task}': folders of exports explain the probability of a positive label"):
        write_exports(trained, tmp_path / "folder")
    if task == "classes":
        with pytest.raises(ValueError, match=r"gives \[4\] numbers a row, and task 'binary' has other outputs"):
            write_onnx(trained.model, fields, tmp_path / "m.onnx")


def test_the_path_of_a_file_will_do(tmp_path):
    X.assign(size=LABELS["regression"]).to_csv(tmp_path / "t.csv", index=False)
    quick = AutoDim(task="auto", **FAST | {"epochs": 1, "rivals": False}).fit(tmp_path / "t.csv", label="size")
    assert quick.trained_.task.name == "regression" and len(quick.predict(tmp_path / "t.csv")) == len(X)
    with pytest.raises(ValueError, match="task='regression': files are prepared for two classes alone; read the table"):
        prepare(tmp_path / "t.csv", "size", ColumnOptions(task="regression"))


BAD = [
    ({"task": "regression"}, NAMES[np.arange(len(X)) % 4], r"label 'label' row 0: 'low' \(in 1,500 of 1,500 rows\), expected"),
    ({"task": "regression"}, np.where(np.arange(len(X)) == 7, np.nan, 1.5), "row 7: missing .*task='classes'"),
    ({"task": "regression"}, np.ones(len(X)), "all of the train are 1, nothing to learn"),
    ({"task": "classes"}, LABELS["regression"], "expected texts or whole numbers; of numbers, take task='regression'"),
    ({"task": "classes"}, ["a"] * len(X), "needs two classes, has one class"),
    ({"task": "classes"}, [None, *["a", "b"] * 749, "a"], "row 0: missing"),
    ({"task": "classes"}, [*"ab" * 749, "c", "c"], "2 rows of class 2 among 1500"),
    ({"task": "classes", "backbone": "FM"}, LABELS["classes"], "FM has one output, not one a class; take backbone='MLP'"),
    ({"task": "regression", "refit": True}, LABELS["regression"], "refit=True is for two classes alone; leave it out"),
    ({"task": "classes", "positive": "top"}, LABELS["classes"], "task='classes' and positive='top'.*give one of the two"),
    ({"task": "ranking"}, LABELS["classes"], "task='ranking': expected 'auto', 'binary', 'regression' or 'classes'"),
    ({}, LABELS["classes"], r"4 distinct values .*take AutoDim\(task='classes'\) or 'regression'"),
]


@pytest.mark.parametrize(("settings", "labels", "message"), BAD)
def test_a_label_or_setting_that_does_not_fit(settings, labels, message):
    with pytest.raises(ValueError, match=message):
        AutoDim(**FAST | settings).fit(X, labels)


@pytest.mark.parametrize(("labels", "task"), [
    ([0, 1, 1], "binary"), (["a", "b", None], "binary"), ([1, 2, 3], "classes"), (list("abc"), "classes"),
    (range(20), "classes"), (range(21), "regression"), ([0.5, 1, 2], "regression"), ([1.0, 2.0, 3.0], "classes"),
    ([0.5, 2.0], "binary")])
def test_what_labels_look_like(labels, task):
    assert label_task(pd.Series(labels)) == task


def test_each_part_has_its_share_of_each_class():
    labels = np.random.default_rng(0).choice(5, 3000, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    parts = parts_of_rows(labels, SplitOptions(validation=0.2, test=0.1), classes=5)
    for k in range(5):
        own = parts[labels == k]
        assert [(own == p).sum() for p in (1, 2)] == [round(0.2 * len(own)), round(0.1 * len(own))]
    two = (labels > 0).astype(int)  # of two classes nothing has changed
    assert (parts_of_rows(two, SplitOptions()) == parts_of_rows(two, SplitOptions(), classes=2)).all()


def test_numbers_among_the_columns_are_found_by_a_label_that_is_a_number():
    """A whole number whose order predicts is cut into buckets; one that is a name is kept by value."""
    rng = np.random.default_rng(0)
    age, code = rng.integers(0, 60, 3000), rng.integers(0, 60, 3000)
    label = age + 30 * rng.permutation(60)[code] / 60 + rng.normal(size=3000)
    with pytest.warns(UserWarning, match="'age', a number, its order predicts"):
        made = prepare(pd.DataFrame({"age": age, "code": code, "y": label}), "y", ColumnOptions(task="regression"))
    assert list(made.schema.buckets) == ["age"] and made.data.task.name == "regression"


def test_more_seeds_have_wider_intervals_than_their_rows_alone():
    class Told:
        def __init__(self, scores: np.ndarray) -> None:
            self.scores = scores.astype(np.float32)

    rng, labels = np.random.default_rng(0), torch.zeros(500)
    trials = [{"AutoDim": Told(rng.normal(size=500)), "widest": Told(rng.normal(size=500))} for _ in range(3)]
    (found,) = loss_differences(trials, labels, Task("regression"))
    by_seed = [100 * (np.sqrt((t["widest"].scores ** 2).mean() / (t["AutoDim"].scores ** 2).mean()) - 1) for t in trials]
    assert found["mean"] == pytest.approx(np.mean(by_seed), rel=1e-4)
    assert found["high"] - found["mean"] > 4.3 * np.std(by_seed, ddof=1) / 3**0.5


def test_errors_of_labels_are_data_errors():
    with pytest.raises(DataError):
        AutoDim(task="regression", **FAST).fit(X, NAMES[np.arange(len(X)) % 4])
