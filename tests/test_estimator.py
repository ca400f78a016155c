"""The estimator: scikit-learn's own checks, predictions by a NumPy forward pass, budgets by sums, resumption to the bit."""
import dataclasses
import inspect
import math
import pickle
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from autodim.data.files import DataError
from autodim import AutoDim, load
from autodim.app.settings import SETTINGS, Settings, settings_table, table_options
from autodim.app.steps import (
    default_batch_size, default_repeats, default_tau_decay, fitted_settings, network_of, search_step,
)  # fmt: skip
from autodim.app.workflow import decision
from autodim.data.datasets import planted
from autodim.data.table import prepare
from autodim.data.batches import Part
from autodim.memory.compress import Compressor, apply_plan, renumbered_ids
from autodim.method.calibration import platt
from autodim.method.metrics import predict
from autodim.training.checkpoint import FileCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:left out")
SMALL = {"hidden": (8,), "dropout": 0.1, "search_epochs": 2, "epochs": 3, "batch_size": 50, "f": 2, "dims": (2, 4, 8),
         "repeats": 1}  # fmt: skip


def clicks(n: int = 500, seed: int = 0) -> pd.DataFrame:
    """A small table: text, whole numbers, fractions, missing values, and a label that depends on them."""
    rng = np.random.default_rng(seed)
    user, item, price = rng.integers(0, 20, n), rng.integers(0, 9, n), rng.gamma(2, 5, n).round(2)
    logit = rng.normal(0, 1.5, 20)[user] + rng.normal(0, 1, 9)[item] - 0.1 * price
    frame = pd.DataFrame({"user": [f"u{u}" for u in user], "item": item, "price": price,
                          "click": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)})
    frame.loc[rng.random(n) < 0.1, "price"] = np.nan
    frame.loc[rng.random(n) < 0.1, "user"] = None
    return frame


TABLE = clicks()
X, Y = TABLE.drop(columns="click"), TABLE.click


@pytest.fixture(scope="module")
def fitted() -> AutoDim:
    return AutoDim(**SMALL).fit(TABLE, label="click")


# ---------------------------------------------------------------- scikit-learn

TOO_FEW = "its data have a class of two rows, of which training, validation and test need one each"
EXPECTED = {name: TOO_FEW for name in (
    "check_dont_overwrite_parameters", "check_f_contiguous_array_estimator", "check_methods_sample_order_invariance",
    "check_methods_subset_invariance", "check_dict_unchanged", "check_fit2d_predict1d")}
CHECKED = AutoDim(hidden=(16,), search_epochs=1, epochs=40, patience=15, lr=0.01, batch_size=32, rivals=False)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([CHECKED], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_expected_to_fail_fails_for_its_reason(name):
    with pytest.raises(DataError, match="2 rows of class . among"):
        getattr(estimator_checks, name)("AutoDim", clone(CHECKED))


def test_every_parameter_is_kept_as_it_was_given():
    values = {name: object() for name in AutoDim().get_params()}
    made = AutoDim(**values)
    assert made.get_params(deep=False) == values and clone(AutoDim(dims=(4, 8))).dims == (4, 8)
    assert AutoDim().set_params(**values).get_params(deep=False) == values


def test_it_stands_in_a_pipeline_a_cross_validation_and_a_grid():
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    pipeline = make_pipeline(FunctionTransformer(lambda frame: frame.assign(again=frame["item"])), quick)
    assert pipeline.fit(X, Y).predict(X).shape == (len(X),)
    assert len(cross_val_score(quick, X, Y, cv=2)) == 2
    grid = GridSearchCV(quick, {"max_space": [0.3, 1.0]}, scoring="roc_auc", cv=2).fit(X, Y)
    assert grid.best_params_["max_space"] in (0.3, 1.0)
    assert grid.best_estimator_.space_ <= grid.best_params_["max_space"]


# ---------------------------------------------------------------- predictions

def by_hand(model: AutoDim, frame: pd.DataFrame) -> np.ndarray:
    """Chances by loops over values, and a float64 forward pass in NumPy from the weights."""
    state = {name: t.double().numpy() for name, t in model.model_.state_dict().items()}
    columns = []
    for m, vocabulary in enumerate(model.vocabularies_):
        known = {value: i + 1 for i, value in enumerate(vocabulary.values.tolist())}
        ids = []
        for value in frame[vocabulary.name]:
            if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
                ids.append(vocabulary.missing_id)
            elif vocabulary.rule == "quantiles":
                ids.append(known.get(sum(edge <= value for edge in vocabulary.edges), 0))
            else:
                ids.append(known.get(value, 0))
        for table in model.model_.embedding.tables:
            fields, starts = table.fields.tolist(), table.offsets.tolist()
            if m in fields:
                weight = table.weight.detach().double().numpy()
                columns.append(weight[starts[fields.index(m)] + np.array(ids)])
    h = np.concatenate(columns, 1)
    h = h @ state["backbone.layers.0.weight"].T + state["backbone.layers.0.bias"]
    mean, var = state["backbone.layers.1.running_mean"], state["backbone.layers.1.running_var"]
    h = (h - mean) / np.sqrt(var + 1e-5) * state["backbone.layers.1.weight"] + state["backbone.layers.1.bias"]
    logits = np.maximum(h, 0) @ state["backbone.layers.4.weight"].T + state["backbone.layers.4.bias"]
    slope, intercept = model.trained_.calibration
    return 1 / (1 + np.exp(-(slope * logits[:, 0] + intercept)))


def test_calibration_comes_from_the_validation_rows_and_changes_no_rank(fitted):
    plain = clone(fitted).set_params(calibrate=False).fit(TABLE, label="click")
    assert plain.trained_.calibration == (1.0, 0.0) != fitted.trained_.calibration
    assert plain.record_["outcomes"] == fitted.record_["outcomes"]
    slope, intercept = fitted.trained_.calibration
    before = plain.decision_function(X)
    np.testing.assert_allclose(fitted.decision_function(X), slope * before + intercept, atol=1e-6)
    after = roc_auc_score(Y, fitted.predict_proba(X)[:, 1])
    assert slope > 0 and roc_auc_score(Y, before) == pytest.approx(after, abs=1e-4)  # ties in float32
    val = prepare(TABLE, "click", *table_options(fitted)).data.val
    with torch.no_grad():
        z = fitted.model_(val.ids)
    assert fitted.trained_.calibration == platt(z.numpy(), val.labels.numpy())
    found = fitted.record_["calibration"]
    assert (found["slope"], found["intercept"]) == (slope, intercept) and plain.record_["calibration"]["slope"] == 1
    assert found["before"] == plain.record_["calibration"]["after"] == plain.record_["calibration"]["before"]
    assert found["before"]["logloss"] == fitted.record_["outcomes"][0]["test_logloss"]


def test_predictions_by_hand(fitted):
    odd = pd.DataFrame({"user": ["u1", None, "new", "u3"], "item": [3, 4, 99, 0], "price": [1e9, np.nan, -5.0, 3.3]})
    for frame in (X, odd):
        chances = fitted.predict_proba(frame)
        np.testing.assert_allclose(chances[:, 1], by_hand(fitted, frame), atol=1e-5)
        np.testing.assert_allclose(chances.sum(1), 1, atol=1e-6)
        np.testing.assert_array_equal(fitted.predict(frame), (chances[:, 1] > 0.5).astype(int))
    assert fitted.score(X, Y) == accuracy_score(Y, fitted.predict(X))


@pytest.mark.filterwarnings("error")
def test_chances_at_the_ends_have_no_overflow(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    with torch.no_grad():
        model.model_.backbone.layers[-1].weight.mul_(1e4)
    logits, chances = model.decision_function(X), model.predict_proba(X)
    assert logits.max() > 100 and logits.min() < -100  # beyond what float32's exp can hold
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(chances[logits < -200], [[1, 0]] * (logits < -200).sum())
    np.testing.assert_array_equal(chances[logits > 200], [[0, 1]] * (logits > 200).sum())


def test_other_columns_another_order_and_one_row_change_nothing(fitted):
    expected = fitted.predict_proba(X)
    mixed = TABLE.assign(extra=[[1]] * len(TABLE))[["extra", "price", "click", "item", "user"]]
    np.testing.assert_array_equal(fitted.predict_proba(mixed), expected)
    single = np.concatenate([fitted.predict_proba(X.iloc[[i]]) for i in range(5)])
    np.testing.assert_allclose(single, expected[:5], atol=1e-6)
    assert fitted.predict_proba(X.iloc[:0]).shape == (0, 2)
    with pytest.raises(DataError, match="'item' is not in the table"):
        fitted.predict(X.drop(columns="item"))


@pytest.mark.parametrize("classes", [("no", "yes"), (False, True), (1, 2), (-1.0, 1.0)])
def test_labels_of_any_two_names(classes):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    y = np.array(classes)[Y]
    model = quick.fit(X, y)
    assert model.classes_.tolist() == list(classes) and set(model.predict(X)) <= set(classes)
    zero_one = clone(quick).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), zero_one.predict_proba(X))


def test_paths_frames_and_arrays_are_one(tmp_path):
    frame = clicks().drop(columns="user")
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    expected = clone(quick).fit(frame, label="click").predict_proba(frame)
    frame.to_csv(tmp_path / "a b.csv", index=False)
    frame.to_csv(tmp_path / "é.csv.gz", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for path in tmp_path.iterdir():
        model = clone(quick).fit(path, label="click")
        np.testing.assert_array_equal(model.predict_proba(path), expected)
    numbered = frame.drop(columns="click").set_axis([0, 1], axis=1)
    np.testing.assert_array_equal(clone(quick).fit(numbered, frame.click).predict_proba(numbered), expected)
    array = numbered.to_numpy()
    model = clone(quick).fit(array, frame.click)
    assert list(model.dims_) == ["x0", "x1"] and model.predict_proba(array).shape == (len(array), 2)


@pytest.mark.parametrize("time", [None, "item"])
def test_a_path_in_a_folder_is_prepared_once_and_fits_as_a_frame_does(time, tmp_path, monkeypatch):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "time": time})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    expected = clone(quick).fit(TABLE, label="click").predict_proba(X)
    for folder in (None, tmp_path / "kept", tmp_path / "kept"):
        model = clone(quick).set_params(folder=folder).fit(str(tmp_path / "t.csv"), label="click")
        np.testing.assert_array_equal(model.predict_proba(tmp_path / "t.csv"), expected)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    assert (tmp_path / "kept" / "table" / "manifest.json").is_file()
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert not [name for name in left if not name.startswith("torchinductor")]  # PyTorch makes that at its first need
    X.to_csv(tmp_path / "x.csv", index=False)  # labels by themselves
    np.testing.assert_array_equal(clone(quick).fit(tmp_path / "x.csv", Y).predict_proba(tmp_path / "x.csv"), expected)
    with pytest.raises(DataError, match="fields: column 'price' is not in the table; it has user"):
        X.drop(columns="price").to_csv(tmp_path / "y.csv", index=False)
        model.predict(tmp_path / "y.csv")


def test_columns_that_are_numbers_are_called_by_them():
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    frame = TABLE.set_axis([3, 1, 2, 0], axis=1)
    options = {"categorical": [2], "numerical": {1: 4}, "exclude": [3]}
    model = clone(quick).set_params(**options).fit(frame, label=0)
    assert (model.schema_.label, model.schema_.fields, model.schema_.buckets) == ("0", ("1", "2"), {"1": 4})
    assert clone(quick).set_params(time=1).fit(frame, label=0).record_["data"]["split"] == "1"
    assert clone(quick).fit(frame.drop(columns=0), frame[0]).schema_.label == "0"


@pytest.mark.filterwarnings("error:X does not have valid feature names")
def test_an_array_keeps_its_columns_when_one_is_left_out(tmp_path):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    array = np.stack([np.ones(500), TABLE["item"], TABLE.price], 1)
    model = quick.fit(array, Y)
    assert list(model.dims_) == ["x1", "x2"] and model.n_features_in_ == 3
    model.save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path).predict_proba(array), model.predict_proba(array))
    with pytest.raises(ValueError, match="features"):
        model.predict(array[:, 1:])


# ---------------------------------------------------------------- what is found

def test_attributes_fit_together(fitted):
    sizes = {v.name: v.cardinality for v in fitted.vocabularies_}
    total = sum(fitted.dims_[name] * size for name, size in sizes.items())
    assert fitted.space_ == pytest.approx(total / (8 * sum(sizes.values())))
    np.testing.assert_allclose(fitted.alpha_.sum(axis=1), 1, atol=1e-5)
    assert fitted.dims_ == fitted.alpha_.idxmax(axis=1).to_dict()  # Eq. 13, without a budget
    assert list(fitted.outcomes_)[-1] == "widest" and set(fitted.outcomes_["widest"].dims.values()) == {8}
    assert [o["name"] for o in fitted.record_["outcomes"]] == list(fitted.outcomes_)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_report_shown_in_a_notebook_keeps_its_style_to_itself(fitted, tmp_path):
    tags = Tags()
    tags.feed(fitted.report()._repr_html_())
    [(tag, attributes)] = tags.found  # one element; the page is the value of an attribute
    assert tag == "iframe" and attributes["srcdoc"] == fitted.report().save(tmp_path / "r.html").read_text()
    assert "allow-scripts" not in attributes["sandbox"]


@pytest.mark.parametrize("budget, pad", [({"max_space": 0.35}, 1), ({"max_bytes": 600}, 1), ({"max_bytes": 900}, 4)])
def test_budgets_are_kept(budget, pad):
    model = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "pad_to": pad} | budget)
    model.fit(TABLE, label="click")
    sizes = [v.cardinality for v in model.vocabularies_]
    stored = [-(-d // pad) * pad * size for d, size in zip(model.dims_.values(), sizes)]
    if "max_bytes" in budget:
        assert 4 * sum(stored) <= budget["max_bytes"] < 4 * 8 * sum(sizes)
    else:
        assert sum(stored) <= budget["max_space"] * 8 * sum(sizes)
    assert list(model.outcomes_) == ["AutoDim"] and model.record_["differences"] == []
    assert "No rival was trained" in str(model.report())


def test_budgets_count_rows_as_they_are_stored():
    """Four values a row are the least that is stored, so within them no field may have six."""
    settings = SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "dims": (1, 2, 6), "pad_to": 4}
    sizes = [v.cardinality for v in AutoDim(**settings).fit(TABLE, label="click").vocabularies_]
    model = AutoDim(**settings, max_bytes=4 * 4 * sum(sizes)).fit(TABLE, label="click")
    assert set(model.dims_.values()) <= {1, 2} and model.record_["outcomes"][0]["bytes"] == 4 * 4 * sum(sizes)
    assert model.curve_.bytes.tolist() == [
        4 * sum(-(-chosen[v.name] // 4) * 4 * v.cardinality for v in model.vocabularies_) for chosen in model.curve_.dims]


@pytest.mark.parametrize("rows", [300, 5_000, 30_000, 99_999, 400_000, 1_000_000, 45_000_000])
def test_alpha_can_decide_on_a_table_of_any_size(rows):
    """By its own steps and rate, not by the rule's text: some 300 steps or as many as there are, and a way of its own."""
    made = fitted_settings(Settings(), rows)
    steps = made.search_epochs * (rows // made.batch_size)
    moves = -(-steps // made.f)
    assert 1 <= made.f <= 10 and 0.01 <= made.alpha_lr <= 0.1 and moves >= min(steps, 300)
    assert moves * made.alpha_lr >= min(14.9, 0.1 * steps)  # in logits: 15 apart is one in three million
    assert made.dropout == (0.2 if rows < 100_000 else 0.5)


def test_what_is_given_is_taken_and_what_follows_from_it_follows():
    given = dict(f=3, alpha_lr=0.7, dropout=0.0, batch_size=50, hidden=(7,))
    made = fitted_settings(Settings(**given), 10_000)
    assert {name: getattr(made, name) for name in given} == given
    rare, often = (fitted_settings(Settings(f=f), 10_000).alpha_lr for f in (3, 1))
    assert rare == pytest.approx(3 * often)  # fewer steps of α are longer ones
    assert network_of(fitted_settings(Settings(fast=True), 10_000)).hidden == (128, 64)
    with pytest.raises(ValueError, match="one of the two"):
        AutoDim(fast=True, hidden=(64,)).fit("no_such_table.csv", label="click")


def test_a_search_of_a_small_table_decides_by_default_and_not_as_the_paper_has_it():
    prepared = prepare(planted(4000), "label")
    usual = Settings(hidden=(16,), search_epochs=6)
    for settings, decided in ((usual, True), (dataclasses.replace(usual, f=10, alpha_lr=0.01), False)):
        assert decision(search_step(settings, prepared))["decided"] is decided


def test_a_report_says_what_followed_from_the_table():
    quick = SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "dropout": None}
    model = AutoDim(**quick).fit(TABLE, label="click")
    assert model.record_["settings"]["dropout"] is model.record_["settings"]["alpha_lr"] is None
    assert model.record_["from_table"] == {"alpha_lr": 0.1, "dropout": 0.2}  # f and batch_size were given
    assert "alpha_lr, from the table" in model.report()._repr_html_()


def test_a_seed_moves_search_and_training_where_the_split_is_by_time():
    frame = TABLE.assign(day=np.arange(500) // 5)
    one, two = (AutoDim(**SMALL, time="day", random_state=seed).fit(frame, label="click") for seed in (0, 1))
    assert one.record_["data"] == two.record_["data"]
    assert not one.alpha_.equals(two.alpha_)
    assert one.outcomes_["widest"].dims == two.outcomes_["widest"].dims  # the widest
    assert one.outcomes_["widest"].history != two.outcomes_["widest"].history


def test_a_seed_fixes_the_numbers_and_the_callers_random_numbers_go_on():
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    one, two = (clone(quick).fit(X, Y).predict_proba(X) for _ in range(2))
    assert torch.equal(torch.rand(2), expected[0]) and np.array_equal(np.random.rand(2), expected[1])
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, clone(quick).set_params(random_state=1).fit(X, Y).predict_proba(X))


def test_fit_leaves_the_frame_as_it_was():
    frame = clicks()
    AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1}).fit(frame, label="click")
    pd.testing.assert_frame_equal(frame, clicks())


def test_sizes_of_batches_and_cooling():
    assert [default_batch_size(n) for n in (1, 3200, 50_000, 10**8)] == [32, 32, 500, 1000]
    steps = 5 * (900 // 100)
    assert 2.0 - default_tau_decay(900, 100, 5) * 0.6 * steps == pytest.approx(0.5)


# ---------------------------------------------------------------- interrupted, saved, loaded

@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6, 8, 9])  # in the search, and in each of the trainings
def test_an_interrupted_fit_goes_on_to_the_same_result(stop, fitted, tmp_path, monkeypatch):
    model, saves, save = AutoDim(**SMALL, folder=tmp_path), [], FileCheckpoint.save

    def interrupted(self, state):
        save(self, state)
        saves.append(self.path.name)
        if len(saves) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileCheckpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(TABLE, label="click")
    done = list(saves)
    monkeypatch.setattr(FileCheckpoint, "save", lambda self, state: (save(self, state), saves.append(self.path.name)))
    model.fit(TABLE, label="click")
    assert len(saves) == 2 + sum(len(o.history) for o in model.outcomes_.values())  # no epoch was done twice
    assert saves[:stop] == done
    np.testing.assert_array_equal(model.predict_proba(X), fitted.predict_proba(X))
    assert model.record_["outcomes"] == fitted.record_["outcomes"]
    assert torch.equal(model.search_history_["alpha"], fitted.search_history_["alpha"])


def test_an_interrupted_refit_goes_on_and_does_not_train_on_the_split_again(tmp_path, monkeypatch):
    settings, saves, save = SMALL | {"rivals": False, "refit": True}, [], FileCheckpoint.save
    whole = AutoDim(**settings).fit(TABLE, label="click")

    def interrupted(self, state):
        save(self, state)
        saves.append(self.path.name)
        if "refit" in self.path.name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileCheckpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            AutoDim(**settings, folder=tmp_path).fit(TABLE, label="click")
    before = list(saves)
    monkeypatch.setattr(FileCheckpoint, "save", lambda self, state: (save(self, state), saves.append(self.path.name)))
    again = AutoDim(**settings, folder=tmp_path).fit(TABLE, label="click")
    assert sum("refit" in name for name in before) == 1 and all("refit" in name for name in saves[len(before):])
    assert sum("refit" in name for name in saves) == whole.record_["refit"]["epochs"]
    np.testing.assert_array_equal(again.predict_proba(X), whole.predict_proba(X))


def test_repeats_are_trainings_of_the_next_seeds_and_the_first_is_kept(fitted, tmp_path, monkeypatch):
    several = AutoDim(**SMALL | {"repeats": 2}, folder=tmp_path).fit(TABLE, label="click")
    assert np.array_equal(several.predict_proba(X), fitted.predict_proba(X))
    assert several.record_["repeats"] == 2 and fitted.record_["repeats"] == 1
    outcomes, names = several.record_["outcomes"], list(several.outcomes_)
    for one, two in zip(fitted.record_["outcomes"], outcomes):
        assert one["test_aucs"] == two["test_aucs"][:1] == [two["test_auc"]] and one["history"] == two["history"]
    assert len({auc for o in outcomes for auc in o["test_aucs"]}) == 2 * len(names)  # no training is another's
    monkeypatch.setattr("autodim.method.retrain.train_epoch", None)  # all is kept, so none is trained again
    assert AutoDim(**SMALL | {"repeats": 2}, folder=tmp_path).fit(TABLE, label="click").record_["outcomes"] == outcomes


@pytest.mark.parametrize("n, epochs, rivals, repeats", [
    (50_000, 30, True, 3), (50_001, 30, True, 1), (50_000, 30, False, 1), (1_500_000, 1, True, 3), (1, 1, True, 3)])
def test_repeats_by_default(n, epochs, rivals, repeats):
    assert default_repeats(n, epochs, rivals) == repeats
    assert fitted_settings(Settings(epochs=epochs, rivals=rivals), n).repeats == repeats
    assert fitted_settings(Settings(epochs=epochs, rivals=rivals, repeats=2), n).repeats == 2


def test_other_settings_or_other_data_do_not_go_on_from_an_old_state(tmp_path):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1})
    clone(quick).set_params(folder=tmp_path).fit(X, Y)
    for change in ({"lr": 0.01}, {"random_state": 1}, {"hidden": (9,)}, {"min_count": 9}):
        resumed = clone(quick).set_params(folder=tmp_path, **change).fit(X, Y)
        fresh = clone(quick).set_params(**change).fit(X, Y)
        np.testing.assert_array_equal(resumed.predict_proba(X), fresh.predict_proba(X))


def test_a_saved_model_predicts_and_reports_alike(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert str(again.report()) == str(fitted.report()) and again.report()._repr_html_() == fitted.report()._repr_html_()
    assert again.dims_ == fitted.dims_ and again.space_ == fitted.space_
    assert again.get_params() == fitted.get_params()
    again.save(tmp_path / "again")
    assert str(load(tmp_path / "again").report()) == str(fitted.report())
    for path in (tmp_path / "model").iterdir():  # nothing that runs code when it is read
        with pytest.raises(Exception):
            pickle.loads(path.read_bytes())
    (tmp_path / "model" / "model.json").write_text("{")
    with pytest.raises(DataError, match="model.json"):
        load(tmp_path / "model")
    (weights,) = (tmp_path / "again").glob("weights-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match="weights-.*cut short"):
        load(tmp_path / "again")
    with pytest.raises(DataError, match="no_such_model"):
        load(tmp_path / "no_such_model")


def test_settings_changed_after_fit_do_not_spoil_what_is_saved(tmp_path):
    model = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1}).fit(X, Y)
    expected = model.predict_proba(X)
    model.set_params(hidden=(99, 3), dropout=0.7, device="cuda", dims=(3,)).save(tmp_path)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    np.testing.assert_array_equal(load(tmp_path).predict_proba(X), expected)


# ---------------------------------------------------------------- packed tables

MANY = clicks(2000)


@pytest.mark.filterwarnings("ignore:column 'user'. none of its")
@pytest.mark.parametrize("backbone", ["MLP", "FM", "FFM"])
def test_a_fit_ends_with_packed_tables_that_are_saved_loaded_and_saved_again(backbone, tmp_path):
    """Dimensions and weights are those of a fit without; predictions are equal to the bit from folder to folder."""
    quick = SMALL | {"rivals": False, "backbone": backbone}
    plain, packed = (AutoDim(**quick | more).fit(MANY, label="click")
                     for more in ({}, {"packed": True, "max_space": 0.25}))
    assert packed.dims_ == plain.dims_ and packed.record_["outcomes"] == plain.record_["outcomes"]
    rows = packed.trained_.network.table_rows([v.cardinality for v in packed.vocabularies_])
    about = packed.record_["compression"]
    assert about["bytes"] <= 0.25 * 4 * 8 * sum(rows) and about["full_bytes"] > about["bytes"]
    assert about["val"]["before"] == plain.record_["outcomes"][0]["val_auc"]
    assert about["test"]["before"] == plain.record_["outcomes"][0]["test_auc"]
    chances, new = packed.predict_proba(MANY), MANY.assign(user="nobody yet")
    for n in range(3):
        packed.save(tmp_path / str(n))
        packed = load(tmp_path / str(n))
        np.testing.assert_array_equal(packed.predict_proba(MANY), chances)
        assert np.isfinite(packed.predict_proba(new)).all() and packed.packed and packed.max_space == 0.25
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).glob("[!.]*")} for n in "02")
    assert one == two and {"plan.json", "model.json"} < set(one)


def test_a_budget_alone_still_chooses_dimensions_and_max_loss_packs_what_it_chose():
    quick = SMALL | {"rivals": False, "max_space": 0.6}
    plain, packed = AutoDim(**quick).fit(MANY, label="click"), AutoDim(**quick, max_loss=20.0).fit(MANY, label="click")
    assert plain.space_ <= 0.6 and "compression" not in plain.record_ and packed.dims_ == plain.dims_
    found = packed.record_["compression"]
    assert found["val"]["high"] <= 20 and found["bytes"] < found["full_bytes"] == plain.record_["outcomes"][0]["bytes"]


@pytest.mark.filterwarnings("ignore:column .* none of its")
def test_a_value_that_training_never_saw_is_predicted_by_the_mean_of_its_field():
    """As by the model that is not packed, with the mean of the training rows' vectors in the place of id 0."""
    settings = SMALL | {"rivals": False, "min_count": 1, "calibrate": False}
    plain = AutoDim(**settings).fit(MANY, label="click")
    small = AutoDim(**settings, packed=True, max_bytes=100_000).fit(MANY, label="click")
    data = prepare(MANY, "click", *table_options(plain)).data
    for stacked in plain.model_.embedding.tables:
        for m, start in zip(stacked.fields.tolist(), stacked.offsets.tolist()):
            ids = data.train.ids[:, m].long()
            assert ids.min() > 0
            stacked.weight.data[start] = stacked.weight.data[start + ids].mean(0)
    rows = MANY.drop(columns="click").head(20).astype(object)
    for column in rows.select_dtypes(object).columns:
        new = rows.assign(**{column: "never seen" if isinstance(rows[column].iloc[0], str) else 10**9})
        np.testing.assert_allclose(small.decision_function(new), plain.decision_function(new), atol=0.02)


def test_packed_tables_are_calibrated_by_their_own_scores():
    model = AutoDim(**SMALL | {"rivals": False}, packed=True, max_bytes=150).fit(MANY, label="click")
    data = prepare(MANY, "click").data
    c = Compressor(AutoDim(**SMALL | {"rivals": False}).fit(MANY, label="click").model_, data)
    found = apply_plan(c, c.within(150))
    scores = predict(found.model, Part(renumbered_ids(data.val.ids, found.groups), data.val.labels)).numpy()
    assert model.trained_.calibration == pytest.approx(platt(scores, data.val.labels.numpy()))


@pytest.mark.parametrize("given, words", [
    ({"packed": True}, "give max_loss, max_bytes or max_space"),
    ({"packed": True, "max_loss": 1, "max_space": 0.5}, "give one of the two"),
    ({"recalibrate": True, "max_space": 0.5}, "recalibrate=True is of packed tables, and none are asked for"),
])
def test_limits_that_contradict_each_other_are_told_before_a_row_is_read(given, words):
    with pytest.raises(ValueError, match=words):
        AutoDim(**SMALL | given).fit("no_such_table.csv", label="click")


def test_a_packed_budget_below_the_least_is_named_before_anything_is_trained():
    for backbone, given in (("MLP", {"max_bytes": 20}), ("FFM", {"max_bytes": 30}), ("MLP", {"max_space": 0.01})):
        model = AutoDim(**SMALL | {"rivals": False, "backbone": backbone}, packed=True, **given)
        with pytest.raises(ValueError, match="is too small: whatever dimensions are found, packed tables take [0-9]+"):
            model.fit(TABLE, label="click")
        assert not hasattr(model, "trained_")


def test_a_tolerance_that_nothing_meets_leaves_what_was_trained():
    y = np.random.default_rng(0).normal(size=len(X))  # of numbers, since 8 bits may well change no rank, but change these
    model = AutoDim(**SMALL | {"rivals": False, "task": "regression"}, max_loss=1e-9)
    with pytest.raises(ValueError, match="max_loss=1e-09: with 8 bits for every component"):
        model.fit(X, y)
    plain = AutoDim(**SMALL | {"rivals": False, "task": "regression"}).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


# ---------------------------------------------------------------- bad settings, bad input

WRONG = {
    "dims": [(4, 2), (2, 2), (), (0, 2), (2.5, 4), ("2", "4"), "24", (True, 2), 4, None],
    "max_space": [0.0, -0.5, 30, math.nan, "half", True], "max_bytes": [0, 3, math.inf, math.nan, "64MB"],
    "max_loss": [0, -1, math.nan, math.inf, "x", True], "sure": ["yes", None], "packed": ["yes", None], "recalibrate": ["yes", None],
    "pad_to": [0, 1.5, "4", None], "variant": [0, 5, 1.0, "1", None], "f": [0, 2.5, math.nan, "x"],
    "alpha_lr": [0, -1, math.nan, math.inf, "x", True], "weight_decay": [-1, math.nan, math.inf, "x", None],
    "validations": [0, 1.5, "x", None], "fast": ["yes", None],
    "search_epochs": [0, 1.5, "x", None], "epochs": [0, 2.5, "x", None], "patience": [0, -0.5, math.nan, math.inf, None],
    "lr": [0.0, -1, math.nan, math.inf, "fast", None], "batch_size": [0, 1, -5, 2.5, "x", True],
    "backbone": ["DeepMF", "mlp", 3, None], "hidden": [(0,), (2.5,), 8, "8", None],
    "dropout": [1.0, -0.1, math.nan, "x"],
    "categorical": ["user", None, 5], "exclude": ["user", None, 5], "missing": ["NA", None, 5], "min_count": [0, 1.5, "x", None],
    "validation": [0.0, 1.0, -1, math.nan, "x", None], "test": [-0.1, 0.95, 1.0, math.nan, "x", None],
    "rivals": ["no", None, 2], "refit": ["yes", None], "calibrate": ["no", None], "repeats": [0, -1, 1.5, "3", True],
    "sparse": ["yes", None], "progress": ["no", None], "random_state": [-1, 1.5, 2**63, True, None],
    "sep": ["", ";;", "é", '"', "\n", 5], "names": ["abc", (), ("a", "a"), ("a", 5), 5], "decimal": ["", ";", 5],
    "positive": ["", ">=", 5, True], "task": ["regresion", "", 5, None, ("binary",)],
    "device": ["abacus", "meta", "", None], "folder": [5],
}


@pytest.mark.parametrize("setting, value", [(setting, value) for setting in WRONG for value in WRONG[setting]])
def test_a_setting_out_of_range_is_named_before_a_row_is_read(setting, value):
    with pytest.raises(ValueError) as error:
        AutoDim(**SMALL | {setting: value}).fit("no_such_table.csv", label="click")
    message = str(error.value)
    assert message.startswith(f"{setting}={value!r}: expected ") and "\n" not in message


def test_every_setting_is_judged_somewhere():
    need_the_table = {"numerical", "time"}
    assert set(WRONG) | need_the_table == set(AutoDim().get_params())


@pytest.mark.parametrize("setting, value", [
    ("categorical", ("nothing",)), ("exclude", ("nothing",)), ("numerical", {"nothing": 3}), ("numerical", {"price": 0}),
    ("numerical", ["price"]), ("time", "nothing"), ("time", "click"), ("exclude", ("user", "item", "price")),
])
def test_a_setting_that_does_not_fit_the_table_is_named_before_any_training(setting, value, monkeypatch):
    monkeypatch.setattr("autodim.app.workflow.search", lambda *a, **k: pytest.fail("it searched"))
    with pytest.raises(ValueError) as error:
        AutoDim(**SMALL | {setting: value}).fit(TABLE, label="click")
    assert "\n" not in str(error.value) and any(word in str(error.value) for word in (setting, "left out"))


def test_numpys_numbers_are_as_good_as_pythons(tmp_path):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "max_space": 0.6, "random_state": 1})
    numpys = {"dims": np.array([2, 4, 8]), "hidden": np.array([8]), "max_space": np.float64(0.6), "f": np.int64(2),
              "rivals": np.bool_(False), "random_state": np.int64(1), "validation": np.float64(0.1), "epochs": np.int32(1)}
    model = clone(quick).set_params(**numpys).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), clone(quick).fit(X, Y).predict_proba(X))
    model.save(tmp_path)
    assert load(tmp_path).get_params() == quick.get_params() and "&lt;html" in model.report()._repr_html_()


def test_two_budgets_are_one_too_many():
    with pytest.raises(ValueError, match="one of the two budgets"):
        AutoDim(**SMALL, max_space=0.5, max_bytes=1000).fit(TABLE, label="click")


def test_a_budget_below_the_smallest_is_refused_with_the_smallest():
    with pytest.raises(ValueError, match="smallest"):
        AutoDim(**SMALL, max_bytes=8).fit(TABLE, label="click")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="^device='cuda' cannot be used.*take 'cpu'$"):
        AutoDim(**SMALL, device="cuda").fit("no_such_table.csv", label="click")


def test_a_label_in_table_and_y_or_nowhere():
    with pytest.raises(DataError, match="'click' is in the table and in y"):
        AutoDim(**SMALL).fit(TABLE, TABLE.click)
    with pytest.raises(DataError, match='label="click"'):
        AutoDim(**SMALL).fit(TABLE)
    with pytest.raises(DataError, match="500 rows, but 499 labels"):
        AutoDim(**SMALL).fit(X, Y[:-1])
    with pytest.raises(DataError, match="'clicks' is not in the table"):
        AutoDim(**SMALL).fit(TABLE, label="clicks")


def test_columns_left_out_are_said_in_one_warning():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1}).fit(
            TABLE.assign(row=range(500), one=1), label="click")
    assert [str(w.message) for w in told if "left out" in str(w.message)] == [
        "left out: 'row' (a value of its own in every row, an id), 'one' (one value throughout). "
        "Name a column in `categorical` to keep it"]


def test_settings_are_declared_once():
    """Signature, documentation and table have every setting, with plain types and the same defaults."""
    parameters = inspect.signature(AutoDim).parameters
    assert list(parameters) == list(SETTINGS) and set(SETTINGS) == set(AutoDim().get_params())
    for name, parameter in parameters.items():
        assert parameter.default == getattr(Settings(), name) and "Annotated" not in str(parameter)
        assert f"        {name}: " in AutoDim.__doc__ and f"| `{name}` | `{parameter.default!r}` |" in settings_table()


def test_public_names_are_there_when_they_are_used_and_not_before():
    code = ("import sys, autodim; assert 'torch' not in sys.modules\n"
            "from autodim import AutoDim, load, prepare, search, retrain, SearchConfig, TrainConfig, compress\n"
            "assert set(autodim.__all__) <= set(dir(autodim)); assert AutoDim.__module__ == 'autodim.app.estimator'\n"
            "try: autodim.serach\nexcept AttributeError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "" and "no attribute 'serach'; public are AutoDim, AutoDimRanker, load" in done.stdout


# ---------------------------------------------------------------- what a user gets wrong

def zips(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """Text that looks like numbers, truth values, dates and hashes, but for one value each, and a label from it."""
    rng = np.random.default_rng(seed)
    looks = {"zip": ["02139", "02140", "10001"], "flag": ["true", "false", "True"], "day": ["2026-01-02", "2026-01-03"],
             "hash": ["1e5", "12", "7"]}
    frame = pd.DataFrame({name: rng.choice(values, n) for name, values in looks.items()})
    frame["click"] = ((frame.zip == "02139") ^ (rng.random(n) < 0.1)).astype(int)
    frame.loc[frame.index % 50 == 0, list(looks)] = "?"
    return frame


def test_a_file_of_new_rows_is_read_with_the_kinds_of_training(tmp_path):
    table = zips()
    table.to_csv(tmp_path / "train.csv", index=False)
    new = table[table.zip != "?"].head(40)
    new.to_csv(tmp_path / "new.csv", index=False)
    model = AutoDim(**SMALL, rivals=False).fit(tmp_path / "train.csv", label="click")
    assert set(model.dims_) == {"zip", "flag", "day", "hash"}
    expected = model.predict_proba(new)
    assert np.array_equal(model.predict_proba(tmp_path / "new.csv"), expected) and np.ptp(expected[:, 1]) > 0


def test_collections_of_columns_of_any_kind_can_be_saved(tmp_path):
    expected = AutoDim(**SMALL, categorical=["item", "user"], rivals=False).fit(TABLE, label="click")
    for columns in (pd.Index(["item", "user"]), {"user", "item"}, {"item": 1, "user": 2}.keys(), ("item", "user")):
        model = AutoDim(**SMALL, categorical=columns, rivals=False).fit(TABLE, label="click")
        model.save(tmp_path / "model")
        assert np.array_equal(load(tmp_path / "model").predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("option", [{"max_space": 0.2}, {"max_bytes": 40}])
def test_a_budget_that_nothing_fits_is_refused_before_the_search(option, monkeypatch):
    monkeypatch.setattr("autodim.app.steps.search_dims", lambda *_: pytest.fail("it searched"))
    with pytest.raises(ValueError, match="a budget of .* is too small"):
        AutoDim(**SMALL, **option).fit(TABLE, label="click")


def test_a_folder_that_is_none_is_refused_before_anything(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("", tmp_path / "file", str(tmp_path / "file")):
        with pytest.raises(ValueError, match="folder=.*expected None, or the path of a folder"):
            AutoDim(**SMALL, folder=folder).fit(TABLE, label="click")


def test_slips_in_naming_the_label_are_told():
    with pytest.raises(DataError, match="y is the text 'click': the name of a column is given as label='click'"):
        AutoDim(**SMALL).fit(TABLE, "click")
    frame = X.rename(columns={"item": "label"})
    with pytest.raises(DataError, match="y has no name, and 'label' is a column of the table: name it"):
        AutoDim(**SMALL).fit(frame, Y.to_numpy())
    assert "label" in AutoDim(**SMALL, rivals=False).fit(frame, Y.to_numpy(), label="target").dims_


# ---------------------------------------------------------------- frames of every library, features by name

@pytest.mark.parametrize("way", ["pandas", "polars", "arrow", "path", "path and y", "polars and y", "array"])
def test_features_are_counted_and_named_whatever_the_table_is_and_after_it_is_loaded(way, tmp_path):
    quick = AutoDim(**SMALL | {"rivals": False, "epochs": 1, "search_epochs": 1, "exclude": ["price"] * (way != "array")})
    frame, path, y = pl.from_pandas(TABLE), tmp_path / "x.csv", None
    (X if "y" in way.split() else TABLE).to_csv(path, index=False)
    if way == "array":
        table, y = X.assign(user=X.user.fillna("")).to_numpy(), Y
    elif "and y" in way:
        table, y = frame.drop("click") if "polars" in way else path, frame["click"]
    else:
        table = {"pandas": TABLE, "polars": frame, "arrow": frame.to_arrow(), "path": path}[way]
    model = quick.fit(table, y, label=None if way == "array" or "y" in way.split() else "click")
    model.save(tmp_path / "model")
    for made in (model, load(tmp_path / "model")):
        assert made.n_features_in_ == 3
        assert getattr(made, "feature_names_in_", np.array([])).tolist() == ([] if way == "array" else ["user", "item", "price"])
        expected = model.predict_proba(table)
        rows = [table] if way == "array" else [TABLE, frame, frame.to_arrow(), frame.to_arrow().to_batches()[0], path]
        for new in rows:
            np.testing.assert_array_equal(made.predict_proba(new), expected)


def test_codes_and_missing_values_of_a_file_are_read_alike_in_fit_and_predict(tmp_path):
    rng, n = np.random.default_rng(0), 600
    version = rng.choice(["14.1", "14.10", "9.2"], n)
    price = np.where(rng.random(n) < 0.05, "NA", rng.gamma(2, 9, n).round(2).astype(str))
    click = (rng.random(n) < np.where(version == "14.10", 0.8, 0.2)).astype(int)
    frame = pd.DataFrame({"version": version, "price": price, "click": click})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.drop(columns="click").to_csv(tmp_path / "y.csv", index=False)
    quick = AutoDim(**SMALL | {"rivals": False, "categorical": ["version"], "missing": ["NA"], "lr": 0.01, "epochs": 8})
    one = clone(quick).fit(tmp_path / "x.csv", label="click")
    other = clone(quick).fit(tmp_path / "y.csv", pd.Series(click, name="click"))
    for model in (one, other):
        assert model.vocabularies_[0].values.tolist() == ["14.1", "14.10", "9.2"] and model.schema_.buckets == {"price": 20}
        expected = one.predict_proba(tmp_path / "y.csv")
        np.testing.assert_array_equal(model.predict_proba(frame), expected)
        assert expected[version == "14.10", 1].mean() > expected[version == "14.1", 1].mean()
    one.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(frame), expected)
