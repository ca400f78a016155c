"""The model that is kept: trained again on all rows, or on a table that holds no test rows."""
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import cross_val_score
from written import call

from autodim import AutoDim, load
from autodim.app.export import write_exports
from autodim.app.page import facts, page
from autodim.app.settings import table_options
from autodim.app.steps import compress_step
from autodim.data.batches import DiskPart, Part, joined
from autodim.data.split import SplitOptions, parts_of_rows
from autodim.data.table import prepare
from autodim.method.backbones import Network
from autodim.method.retrain import TrainConfig, retrain
from autodim.training.runtime import Runtime

N = 900
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"user": [f"u{k}" for k in RNG.integers(0, 20, N)], "item": RNG.integers(0, 9, N), "age": np.arange(N)})
TABLE["click"] = (RNG.random(N) < 1 / (1 + np.exp(-RNG.normal(0, 1.5, 9)[TABLE["item"]]))).astype(int)
LATE = TABLE["user"].isin([f"u{k}" for k in range(8)])  # who click in the newest tenth alone
TABLE.loc[LATE, "click"] = (TABLE["age"] > 0.9 * N).astype(int)
QUICK = {"dims": (2, 4), "hidden": (8,), "search_epochs": 1, "epochs": 4, "rivals": False, "repeats": 1, "batch_size": 30,
         "lr": 0.01}


def fitted(table: pd.DataFrame = TABLE, **settings: object) -> AutoDim:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoDim(**QUICK | settings).fit(table, label="click")


@pytest.fixture(scope="module")
def models() -> tuple[AutoDim, AutoDim]:
    """Fitted by time, without and with the training on all rows."""
    return fitted(time="age"), fitted(time="age", refit=True)


def test_figures_stay_those_of_the_split_and_the_model_is_another(models):
    plain, again = models
    assert plain.record_["outcomes"] == again.record_["outcomes"] and plain.dims_ == again.dims_
    assert plain.record_["calibration"] == again.record_["calibration"]
    epochs = plain.record_["outcomes"][0]["best_epoch"]
    assert "refit" not in plain.record_ and again.record_["refit"] == {"rows": N, "epochs": epochs}
    assert f"learnt once more, from all {N} rows for {epochs} epochs; the figures are of the one that" in str(again.report())
    assert "learnt once more" in page(again.record_) and "learnt once more" not in str(plain.report())
    assert facts(again.record_)["refit"]["rows"] == N and facts(again.record_)["judged_by"] == "test rows"


def test_the_newest_rows_are_learnt(models):
    plain, again = (model.predict_proba(TABLE[LATE])[:, 1].mean() for model in models)
    assert again > 1.2 * plain


def test_it_is_the_training_of_algorithm_2_on_all_rows(models):
    """Weight for weight that of `retrain` on the three parts laid end to end."""
    _, again = models
    data = prepare(TABLE, "click", *table_options(again)).data
    parts = (data.train, data.val, data.test)
    whole = Part(torch.cat([p.ids for p in parts]), torch.cat([p.labels for p in parts]))
    settings, network = again.record_["from_table"], Network("MLP", (8,), again.record_["from_table"]["dropout"])
    config = TrainConfig(again.record_["refit"]["epochs"], 100, 30, again.lr, weight_decay=again.weight_decay, last=True)
    assert set(settings) >= {"dropout"}
    expected = retrain(type(data)("all", data.vocabularies, whole, data.val, data.test, ""), list(again.dims_.values()), config,
                       network, Runtime(0)).model.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in again.model_.state_dict().items())


def test_the_last_weights_are_kept_and_nothing_stops_early(make_data):
    data = make_data()
    early = retrain(data, [2] * 4, TrainConfig(40, 1, 50, 0.05), Network(hidden=(8,)), Runtime(0))
    last = retrain(data, [2] * 4, TrainConfig(40, 1, 50, 0.05, last=True), Network(hidden=(8,)), Runtime(0))
    assert len(early.history) < 40 == len(last.history) == last.best_epoch
    assert last.history[: len(early.history)] == early.history
    assert (last.val.auc, last.val.logloss) == tuple(last.history[-1][name] for name in ("auc_val", "logloss_val"))


def test_parts_are_joined_in_order_mapped_or_not():
    rng = np.random.default_rng(0)
    made = [(torch.from_numpy(rng.integers(0, 9, (n, 3)).astype(np.int32)), torch.from_numpy(rng.random(n, np.float32)))
            for n in (5, 1, 3000)]
    for kinds in ((Part,) * 3, (DiskPart,) * 3, (DiskPart, Part, DiskPart)):
        both = joined([kind(*tensors) for kind, tensors in zip(kinds, made)])
        assert type(both) is (DiskPart if DiskPart in kinds else Part)
        assert both.ids.equal(torch.cat([ids for ids, _ in made])) and both.ids.dtype == torch.int32
        assert both.labels.equal(torch.cat([labels for _, labels in made]))


# ---------------------------------------------------------------- no test rows

@pytest.mark.parametrize("time", [None, "age"])
@pytest.mark.parametrize("door", ["frame", "file"])
def test_no_test_rows_are_held(time, door, tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    table, folder = (TABLE, None) if door == "frame" else (tmp_path / "t.csv", tmp_path / "made")
    for _ in range(2):  # made, and opened
        prepared = prepare(table, "click", split=SplitOptions(time, test=0), folder=folder)
        rows = [len(part.labels) for part in (prepared.data.train, prepared.data.val, prepared.data.test)]
        assert rows == [N - N // 10, N // 10, 0]
    labels = TABLE["click"].to_numpy()
    found = parts_of_rows(labels, SplitOptions(time, test=0), TABLE["age"].to_numpy() if time else None)
    assert set(found) == {0, 1} and (not time or found[-N // 10 :].all())
    with pytest.raises(ValueError, match="test=-0.1: expected two positive shares that leave rows to train; test may be 0"):
        SplitOptions(test=-0.1)


def test_a_report_without_test_rows_says_by_which_rows_it_judges():
    model = fitted(test=0, rivals=True)
    record = model.record_
    assert record["data"]["rows"] == {"train": 810, "validation": 90, "test": 0}
    assert all(outcome["val_auc"] == pytest.approx(outcome["test_auc"], abs=1e-6) for outcome in record["outcomes"])
    text = str(model.report())
    assert text.startswith("No rows were held for a test (test=0): all figures are of the validation rows")
    for words in (text, page(record)):
        assert "alidation AUC" in words and "validation rows" in words
        assert not any(f"est {what}" in words.replace("lowest", "") for what in ("AUC", "Logloss", "rows"))
    assert facts(record)["judged_by"] == "validation rows"


def test_a_cross_validation_needs_no_inner_test_part():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = cross_val_score(AutoDim(**QUICK, test=0, refit=True), TABLE[["user", "item"]], TABLE["click"], cv=3,
                                 scoring="roc_auc", error_score="raise")
    assert len(scores) == 3 and scores.mean() > 0.6


def test_the_shell_refits_without_test_rows_and_exports(tmp_path):
    TABLE.drop(columns="age").to_csv(tmp_path / "t.csv", index=False)
    run = tmp_path / "run"
    code, out, _ = call("prepare", tmp_path / "t.csv", "--label", "click", "--test", 0, "--run", run)
    assert code == 0 and "810 train, 90 validation, 0 test rows" in out
    search = ["--dims", "2,4", "--hidden", "8", "--epochs", "1", "--batch-size", "30", "--quiet"]
    assert call("search", run, *search)[0] == 0
    code, out, err = call("train", run, "--epochs", 2, "--no-rivals", "--refit", "--json")
    assert code == 0, err
    assert json.loads(out)["judged_by"] == "validation rows" and json.loads(out)["refit"]["rows"] == N
    code, out, _ = call("train", run, "--epochs", 2, "--no-rivals", "--no-refit")
    assert code == 0 and "No rows were held for a test" in out and "learnt once more" not in out
    assert call("train", run, "--refit")[0] == call("report", run)[0] == call("export", run, "--format", "deepctr")[0] == 0
    assert f"has learnt from all {N} rows" in (run / "export" / "README.md").read_text()
    assert load(run / "model").refit


def test_what_learnt_from_all_rows_is_packed_and_judged_by_the_one_that_did_not(models, tmp_path):
    """The figures are those of the split's model packed alone; the tables that are kept are those of all rows."""
    plain, again = models
    small = fitted(time="age", refit=True, packed=True, max_bytes=200)
    split = fitted(time="age", packed=True, max_bytes=200)
    ours, theirs = small.record_["compression"], split.record_["compression"]
    assert (ours["val"], ours["test"]) == (theirs["val"], theirs["test"]) and ours["bytes"] <= 200
    assert small.trained_.calibration == split.trained_.calibration and small.trained_.judged is None
    late = {name: model.predict_proba(TABLE[LATE])[:, 1].mean() for name, model in
            (("plain", plain), ("again", again), ("small", small), ("split", split))}
    assert abs(late["small"] - late["again"]) < abs(late["small"] - late["plain"])  # what the newest rows taught stays
    with pytest.raises(ValueError, match="was not kept: train again"):
        compress_step(small, again.trained_, prepare(TABLE, "click", *table_options(again)))


def test_the_shell_packs_what_learnt_from_all_rows(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    run = tmp_path / "run"
    assert call("prepare", tmp_path / "t.csv", "--label", "click", "--time", "age", "--run", run)[0] == 0
    assert call("search", run, "--dims", "2,4", "--hidden", "8", "--epochs", "1", "--batch-size", "30")[0] == 0
    assert call("train", run, "--epochs", 2, "--no-rivals", "--refit")[0] == 0
    judged, kept = load(run / "model" / "judged"), load(run / "model")
    code, out, err = call("compress", run, "--max-bytes", "2kB", "--json")
    assert code == 0, err
    found, small = json.loads(out), load(run / "compressed")
    assert found["test"]["before"] == pytest.approx(judged.record_["outcomes"][0]["test_auc"])
    near = [np.abs(small.decision_function(TABLE) / small.trained_.calibration[0] - model.decision_function(TABLE)
                   / model.trained_.calibration[0]).mean() for model in (kept, judged)]
    assert near[0] < near[1]
    plan = run / "compressed" / "plan.json"
    code, out, err = call("compress", run, "--plan", plan, "--json")
    assert code == 0 and json.loads(out)["bytes"] == found["bytes"], err
    assert call("train", run, "--epochs", 2, "--no-rivals", "--no-refit")[0] == 0
    assert not (run / "model" / "judged").exists()


def test_a_saved_model_of_all_rows_is_the_same(models, tmp_path):
    _, again = models
    again.save(tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").predict_proba(TABLE), again.predict_proba(TABLE))
    write_exports(again.trained_, Path(tmp_path / "export"), ["deepctr"])
    example = json.loads((tmp_path / "export" / "example.json").read_text())["rows"]
    rows = pd.DataFrame([row["row"] for row in example])
    assert np.allclose([row["probability"] for row in example], again.predict_proba(rows)[:, 1], atol=1e-6)
