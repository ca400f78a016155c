"""The estimator for numbers and several classes: scikit-learn's habits, packing, saving, ONNX, and labels that do not fit."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

from autodim import AutoDim, load
from autodim.app.estimator import Report
from autodim.app.export import write_exports, write_onnx
from autodim.app.page import advice, cautions, facts, page
from autodim.app.workflow import loss_differences
from autodim.data.batches import Task
from autodim.data.columns import label_task
from autodim.data.files import DataError
from autodim.data.split import SplitOptions, parts_of_rows
from autodim.data.table import prepare
from autodim.data.columns import ColumnOptions
from autodim.method.metrics import FEW

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
    parts = parts_of_rows(codes, SplitOptions(), classes=4 if task == "classes" else 1)
    test = parts == 2
    found = model.record_["outcomes"][0]
    y = LABELS[task][test]
    if task == "regression":
        predicted = model.predict(X[test])
        assert found["test_rmse"] == pytest.approx(root_mean_squared_error(y, predicted), rel=1e-5)
        squares = (predicted - y) ** 2  # of the root of their mean, by a jackknife
        left_out = np.sqrt((squares.sum() - squares) / (len(y) - 1))
        jackknife = np.sqrt((len(y) - 1) / len(y) * ((left_out - left_out.mean()) ** 2).sum())
        assert found["test_rmse_error"] == pytest.approx(jackknife, rel=0.05)
        mean = LABELS[task][parts == 0].mean()
        assert model.record_["baseline"]["rmse"] == pytest.approx(root_mean_squared_error(y, np.full(len(y), mean)), rel=1e-5)
    else:
        chances = model.predict_proba(X[test])
        assert found["test_logloss"] == pytest.approx(log_loss(y, chances, labels=model.classes_), rel=1e-4)
        assert found["test_accuracy"] == pytest.approx(accuracy_score(y, model.predict(X[test])))
        shares = pd.Series(LABELS[task][parts == 0]).value_counts(normalize=True)
        assert model.record_["baseline"] == {"logloss": pytest.approx(-np.log(shares[y]).mean(), rel=1e-5),
                                             "accuracy": pytest.approx((y == shares.idxmax()).mean())}
        for k, (name, c) in enumerate(zip(model.classes_, model.record_["classes"])):
            own = model.predict(X[test]) == name
            assert c == {"rows": (y == name).sum(), "chance": pytest.approx(chances[:, k].mean(), rel=1e-5),
                         "predicted": own.sum(), "right": (own & (y == name)).sum()}
    word = {"regression": "RMSE", "classes": "accuracy"}[task]
    assert word in str(model.report()) or "right in" in str(model.report())
    assert word in model.report()._repr_html_() and "AUC" not in str(model.report()) + model.report()._repr_html_()
    assert model.curve_[{"regression": "search_rmse", "classes": "search_logloss"}[task]].gt(0).all()


def test_differences_to_rivals_are_those_of_their_measures(fitted):
    model, task = fitted
    outcomes = {o["name"]: o for o in model.record_["outcomes"]}
    for d in model.record_["differences"]:
        own, rival = outcomes["AutoDim"], outcomes[d["rival"]]
        expected = (100 * (rival["test_rmse"] / own["test_rmse"] - 1) if task == "regression" else
                    100 * (rival["test_logloss"] - own["test_logloss"]))
        assert d["mean"] == pytest.approx(expected) and d["low"] <= d["mean"] <= d["high"]


def test_models_without_embeddings_stand_beside_it(fitted):
    """In the record, the summary, the page and what a program asks; and what to do where one of them is better."""
    model, task = fitted
    key, name = ("rmse", "ridge regression") if task == "regression" else ("logloss", "logistic regression")
    found, record = model.record_["rivals"], copy.deepcopy(model.record_)
    ours, first, trees = found["models"]
    assert [ours["name"], first["name"], trees["name"]] == ["AutoDim", name, "boosted trees"]
    assert ours[key] == record["outcomes"][0][f"test_{key}"] and found["best"] == min(found["models"], key=lambda m: m[key])["name"]
    expected = 100 * (first[key] / ours[key] - 1) if task == "regression" else 100 * (first[key] - ours[key])
    assert first["difference"]["mean"] == pytest.approx(expected) and found["rows"] == record["data"]["rows"]["train"]
    assert facts(record)["rivals"] == found and facts(record)["advice"] == advice(record)
    for said in (str(model.report()), model.report()._repr_html_()):
        assert f"without embeddings is {name} " in said
        assert ("By accuracy" in said) <= (task == "classes") and "DeLong" not in said
    html = page(record)
    assert f"ours: {name} on" in html and f"HistGradientBoosting{'Regressor' if task == 'regression' else 'Classifier'}" in html
    assert "it minus ours, 95 %" in html
    record["rivals"] |= {"best": "boosted trees", "decided": True}
    assert advice(record).startswith("take boosted trees: on this table") and "Another kind of model is better" in str(Report(record))
    assert "Models without embeddings" not in page(record | {"rivals": None})


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
    page = (tmp_path / "report.html").read_text()
    assert "times smaller tables" in page and "Packed tables" in page and "AUC" not in page
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
    write_exports(trained, tmp_path / "folder", ["onnx", "deepctr"])
    served = onnxruntime.InferenceSession(tmp_path / "folder" / "model.onnx")
    np.testing.assert_array_equal(served.run([name], {"ids": ids})[0], found)
    example, told = (json.loads((tmp_path / "folder" / f"{part}.json").read_text()) for part in ("example", "label"))
    raw = pd.DataFrame([row["row"] for row in example["rows"]])
    wanted = model.predict(raw) if task == "regression" else model.predict_proba(raw)
    np.testing.assert_allclose([row[name] for row in example["rows"]], wanted, rtol=1e-4)
    if task == "regression":  # as label.json says
        made = [eval(told["number"], {"output": row["output"]}) for row in example["rows"]]
        np.testing.assert_allclose(made, wanted, rtol=1e-5)
    else:
        assert told["classes"] == example["classes"] == list(model.classes_)
        np.testing.assert_allclose(softmax([row["logits"] for row in example["rows"]], axis=1), wanted, rtol=1e-5)
    readme = (tmp_path / "folder" / "README.md").read_text()
    assert f"to `{name}` float32" in readme and f"these its `{name}`" in readme and "positive" not in readme
    if task == "classes":
        with pytest.raises(ValueError, match=r"gives \[4\] numbers a row, and task 'binary' has other outputs"):
            write_onnx(trained.model, fields, tmp_path / "m.onnx")


def test_the_path_of_a_file_will_do(tmp_path):
    X.assign(size=LABELS["regression"]).to_csv(tmp_path / "t.csv", index=False)
    quick = AutoDim(task="auto", **FAST | {"epochs": 1, "rivals": False}).fit(tmp_path / "t.csv", label="size")
    assert quick.trained_.task.name == "regression" and len(quick.predict(tmp_path / "t.csv")) == len(X)


BAD = [
    ({"task": "regression"}, NAMES[np.arange(len(X)) % 4], r"label 'label' row 0: 'low' \(in 1,500 of 1,500 rows\), expected"),
    ({"task": "regression"}, np.where(np.arange(len(X)) == 7, np.nan, 1.5), "row 7: missing .*task='classes'"),
    ({"task": "regression"}, np.ones(len(X)), "all of the train are 1, nothing to learn"),
    ({"task": "classes"}, LABELS["regression"], "expected texts or whole numbers; of numbers, take task='regression'"),
    ({"task": "classes"}, ["a"] * len(X), "needs two classes, has one class"),
    ({"task": "classes"}, [None, *["a", "b"] * 749, "a"], "row 0: missing"),
    ({"task": "classes"}, [*"ab" * 749, "c", "c"], r"fewer than 3 rows of 'c' \(1 of 3 classes\): each of training, validation and test"),
    ({"task": "classes", "backbone": "FM"}, LABELS["classes"], "FM has one output, not one a class; take backbone='MLP'"),
    ({"task": "regression"}, pd.date_range("2026-01-01", periods=len(X)), "'2026-01-01 00:00:00', expected a number; of times"),
    ({"task": "regression"}, 1.7e9 + np.arange(len(X)) % 60, "differ too little to be told apart in 32 bits; subtract a constant"),
    ({"task": "classes"}, [f"c{k}" for k in range(len(X))], "1,500 classes, expected 1,000 at most.*recommend"),
    ({"task": "classes", "positive": "top"}, LABELS["classes"], "task='classes' and positive='top'.*give one of the two"),
    ({"task": "ranking"}, LABELS["classes"], r"task='ranking': a label of each row .* autodim.AutoDimRanker in Python, as guide_retrieval shows"),
    ({"task": "regresion"}, LABELS["classes"], "task='regresion': expected 'auto', 'binary', 'regression' or 'classes'"),
    ({}, LABELS["classes"], r"4 distinct values .*take task='classes' or task='regression'"),
]


@pytest.mark.parametrize(("settings", "labels", "message"), BAD)
def test_a_label_or_setting_that_does_not_fit(settings, labels, message):
    with pytest.raises(ValueError, match=message):
        AutoDim(**FAST | settings).fit(X, labels)


def test_a_part_of_one_row_is_refused_and_of_two_will_do():
    numbers = LABELS["regression"]
    with pytest.raises(ValueError, match="12 rows, of which one of training, validation and test gets 1: each needs two"):
        AutoDim(task="regression", **FAST).fit(X[:12], numbers[:12])
    assert np.isfinite(AutoDim(task="regression", **FAST).fit(X[:21], numbers[:21]).predict(X[:5])).all()


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
        def __init__(self, scores: np.ndarray, **dims: int) -> None:
            self.scores, self.dims = scores.astype(np.float32), dims

    rng, labels = np.random.default_rng(0), torch.zeros(500)
    trials = [{"AutoDim": Told(rng.normal(size=500)), "widest": Told(rng.normal(size=500), a=2)} for _ in range(3)]
    (found,) = loss_differences(trials, labels, Task("regression"))
    by_seed = [100 * (np.sqrt((t["widest"].scores ** 2).mean() / (t["AutoDim"].scores ** 2).mean()) - 1) for t in trials]
    assert found["mean"] == pytest.approx(np.mean(by_seed), rel=1e-4)
    assert found["high"] - found["mean"] > 4.3 * np.std(by_seed, ddof=1) / 3**0.5


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_few_test_rows_give_no_interval_and_no_verdict(task):
    """However far apart two models are on them; and a page, a summary and JSON of it that hold."""
    n, rng = FEW - 1, np.random.default_rng(0)
    size = (n,) if task == "regression" else (n, 4)
    told = Task(task) if task == "regression" else Task(task, 4)

    class Told:
        def __init__(self, scores: np.ndarray, **dims: int) -> None:
            self.scores, self.dims = scores.astype(np.float32), dims

    good = np.zeros(n) if task == "regression" else 9 * np.eye(4)[np.arange(n) % 4]
    labels = torch.tensor(0.1 * rng.normal(size=n) if task == "regression" else np.arange(n) % 4)
    trials = [{"AutoDim": Told(rng.normal(size=size)), "widest": Told(good, a=2)} for _ in range(3)]
    for rows in (2, n):
        cut = [{name: Told(t.scores[:rows], **t.dims) for name, t in trial.items()} for trial in trials]
        (found,) = loss_differences(cut, labels[:rows], told)
        assert found["mean"] < 0 and found["low"] is found["high"] is None
        assert found["words"] == f"these test rows cannot tell: {rows} are too few for an interval, which takes {FEW}"
    model = AutoDim(task=task, **FAST | {"packed": True, "max_space": 0.5}).fit(X[:100], LABELS[task][:100])
    text, html, record = str(model.report()), model.report()._repr_html_(), model.record_
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    for said in (text, html):
        assert "10 are too few for an interval" in said and "[too few rows for an interval]" in said
        assert "interval over test rows" not in said and "; better." not in said and "; worse." not in said
    assert cautions(record)[0].startswith("Nothing here is sure: 10 test rows") and "hold more rows" in advice(record)
    assert record["outcomes"][0][f"test_{'rmse' if task == 'regression' else 'logloss'}_error"] is None
    with pytest.raises(ValueError, match="the validation rows are too few, or .* give a budget of bytes, or sure=False"):
        AutoDim(task=task, **FAST | {"max_loss": 50.0}).fit(X[:100], LABELS[task][:100])


def test_errors_of_labels_are_data_errors():
    with pytest.raises(DataError):
        AutoDim(task="regression", **FAST).fit(X, NAMES[np.arange(len(X)) % 4])


def test_worse_than_no_model_comes_first(fitted):
    """A model whose error is not below that of the label's mean, or of the classes' shares, is not to be used."""
    model, task = fitted
    key = {"regression": "rmse", "classes": "logloss"}[task]
    for factor, words in ((1.0, "worse than no model"), (0.999, "may be no better than none")):
        bad = copy.deepcopy(model.record_)
        bad["outcomes"][0][f"test_{key}"] = factor * bad["baseline"][key]
        assert words in cautions(bad)[0] and words in page(bad) and str(Report(bad)).startswith(cautions(bad)[0])
        assert advice(bad).startswith("use none of these") == (factor == 1)
    assert not [said for said in cautions(model.record_) if "no model" in said or "none" in said]


@pytest.mark.parametrize(("words", "said"), [
    (["worse", "better"], "needs no search and is better"), (["better", "worse"], "counts more than size"),
    (["better", "better"], "better than uniform ones"), (["these test rows cannot tell"] * 2, "do not tell the two apart")])
def test_what_to_do_follows_the_differences(words, said, fitted):
    record = copy.deepcopy(fitted[0].record_)
    record["search"]["decided"], record["rivals"] = True, None
    record["differences"] = [{"rival": rival, "mean": 1.0, "low": 0.5, "high": 2.0, "words": word}
                             for rival, word in zip(("uniform 2", "widest"), words)]
    assert said in advice(record) and "AUC" not in advice(record)


def test_a_refit_learns_from_all_rows_and_is_packed_by_the_judged_model(fitted, tmp_path):
    model, task = fitted
    again = clone(model).set_params(refit=True, rivals=False).fit(X, LABELS[task])
    assert again.record_["refit"]["rows"] == len(X) and "learnt once more" in str(again.report())
    first = f"test_{'rmse' if task == 'regression' else 'logloss'}"
    assert again.record_["outcomes"][0][first] == pytest.approx(model.record_["outcomes"][0][first])
    small = clone(again).set_params(packed=True, max_space=0.5, refit=True).fit(X, LABELS[task])
    small.save(tmp_path / "model")
    assert len(load(tmp_path / "model").predict(X)) == len(X) and small.record_["compression"]["bytes"] > 0


@pytest.mark.parametrize("backbone", ["IPNN", "AutoInt", "DCN"])
def test_other_networks_have_an_output_for_each_class(backbone):
    model = AutoDim(task="classes", **FAST | {"epochs": 4, "backbone": backbone, "rivals": False, "packed": True,
                                              "max_space": 0.9}).fit(X, LABELS["classes"])
    chances = model.predict_proba(X)
    assert chances.shape == (len(X), 4) and np.allclose(chances.sum(1), 1, atol=1e-5)
    assert log_loss(LABELS["classes"], chances) < model.record_["baseline"]["logloss"] - 0.1


def test_a_class_that_nothing_sets_apart_is_named(fitted):
    model, task = fitted
    if task == "classes":
        record = copy.deepcopy(model.record_)
        record["classes"][2]["predicted"] = record["classes"][2]["right"] = 0
        assert f"Never the most probable class: {model.classes_[2]}." in page(record)
