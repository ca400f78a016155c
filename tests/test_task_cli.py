"""Numbers and several classes from a shell: prepared files, every step, what is said, and what is refused."""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_task_estimator import LABELS, NAMES, X
from written import call

from autodim import AutoDim, load
from autodim.app.workflow import search_checkpoint
from autodim.data.batches import Task
from autodim.data.columns import ColumnOptions
from autodim.data.files import DataError
from autodim.data.prepare import open_prepared
from autodim.data.split import SplitOptions
from autodim.data.table import open_table, prepare
from autodim.memory.decode import load_numpy
from autodim.method.backbones import Network
from autodim.method.search import SearchConfig

SEARCH = ["--dims", "1,2,4", "--epochs", "1", "--hidden", "16", "--dropout", "0", "--batch-size", "50", "--f", "2",
          "--lr", "0.01", "--quiet"]
TASKS = ("regression", "classes")


def written(folder: Path, task: str, **more: object) -> Path:
    frame = X.assign(size=LABELS[task], **more)
    frame.to_csv(folder / f"{task}.csv", index=False)
    return folder / f"{task}.csv"


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory) -> tuple[Path, str, list[str]]:
    """A run with all steps done, its task, and what the steps printed."""
    folder, said = tmp_path_factory.mktemp("tasks"), []
    table, place = written(folder, request.param), folder / "run"
    for step in (["prepare", table, "--label", "size", "--task", request.param, "--run", place],
                 ["search", place, *SEARCH], ["train", place, "--epochs", "8", "--repeats", "1", "--quiet"],
                 ["compress", place, "--max-loss", "8", "--no-sure"], ["report", place], ["export", place]):
        code, out, err = call(*step)
        assert code == 0, err
        said.append(out)
    return place, request.param, said


def test_the_steps_do_what_the_estimator_does(run):
    place, task, _ = run
    fit = AutoDim(task=task, hidden=(16,), dropout=0.0, search_epochs=1, epochs=8, batch_size=50, f=2, lr=0.01, dims=(1, 2, 4),
                  repeats=1).fit(X.astype(int), LABELS[task])
    model = load(place / "model")
    assert model.dims_ == fit.dims_ and model.trained_.task == fit.trained_.task
    ask = "predict" if task == "regression" else "predict_proba"
    np.testing.assert_allclose(*(getattr(m, ask)(X.astype(int)) for m in (model, fit)), rtol=1e-5)
    assert list(getattr(model, "classes_", [])) == list(getattr(fit, "classes_", []))


def test_nothing_says_auc_and_the_task_s_own_measure_is_there(run):
    place, task, said = run
    page = re.sub("base64,[^\"]*", "", (place / "report.html").read_text())
    for text in (*said, page):
        assert "AUC" not in text and "auc" not in text
    assert "positive" not in "".join(said)
    measure = {"regression": "RMSE", "classes": "Logloss"}[task]
    assert all(measure in text for text in (*said[1:5], page)) and "times smaller tables" in said[3]
    assert {"regression": "size is a number: mean", "classes": "size is one of 4 classes: high, low, mid, top"}[task] in said[0]
    for name in NAMES if task == "classes" else ("mean prediction",):
        assert name in page


def test_json_and_files_hold_the_task(run):
    place, task, _ = run
    found = json.loads(call("train", place, "--quiet", "--json")[1])
    assert {f"test_{m}" for m in {"regression": ["rmse"], "classes": ["logloss", "accuracy"]}[task]} <= {*found["outcomes"][0]}
    manifest = json.loads((place / "table" / "manifest.json").read_text())
    assert (manifest["format"], manifest["task"]["name"]) == (2, task) and "positives" not in manifest
    assert json.loads((place / "run.json").read_text())["settings"]["task"] == task
    for name in ("model", "compressed"):
        assert json.loads((place / name / "model.json").read_text())["task"]["name"] == task


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("time", [None, "day"])
def test_files_and_frames_give_the_same_rows(task, time, tmp_path):
    day = np.random.default_rng(1).integers(0, 90, len(X))
    options = ColumnOptions(task=task), SplitOptions(time)
    by_file = prepare(written(tmp_path, task, day=day), "size", *options, tmp_path / "table")
    by_frame = prepare(X.astype(int).assign(size=LABELS[task], day=day), "size", *options)
    assert by_file.data.fingerprint == by_frame.data.fingerprint and list(by_file.classes) == list(by_frame.classes)
    one, two = by_file.data.task, by_frame.data.task
    assert one.classes == two.classes and (one.mean, one.scale) == pytest.approx((two.mean, two.scale), rel=1e-12)
    assert by_file.schema.decided == by_frame.schema.decided and open_table(tmp_path / "table").data.task == one


def test_names_that_look_like_numbers_stay_names(tmp_path):
    grade = np.array(["01", "1", "2a"])[np.arange(900) % 3]
    pd.DataFrame({"a": np.arange(900) % 7, "grade": grade}).to_csv(tmp_path / "t.csv", index=False)
    made = prepare(tmp_path / "t.csv", "grade", ColumnOptions(task="classes"))
    assert made.classes.tolist() == ["01", "1", "2a"]
    pd.DataFrame({"a": np.arange(900) % 7, "grade": np.array(["01", "1", "2"])[np.arange(900) % 3]}).to_csv(
        tmp_path / "u.csv", index=False)
    assert prepare(tmp_path / "u.csv", "grade", ColumnOptions(task="classes")).classes.tolist() == ["01", "1", "2"]


def test_what_labels_look_like_is_said(tmp_path):
    code, out, _ = call("prepare", written(tmp_path, "regression"), "--label", "size", "--task", "auto", "--run", tmp_path / "r",
                        "--json")
    assert code == 0 and json.loads(out)["task"] == "regression" and json.loads(out)["sd"] > 0


def test_a_folder_without_a_task_is_of_two_classes(tmp_path):
    frame = X.assign(size=(LABELS["regression"] > 100).astype(int))
    frame.to_csv(tmp_path / "t.csv", index=False)
    prepare(tmp_path / "t.csv", "size", folder=tmp_path / "table")
    manifest = json.loads((tmp_path / "table" / "manifest.json").read_text())
    assert manifest["format"] == 1 and "task" not in manifest and open_prepared(tmp_path / "table").task == Task()
    assert call("prepare", tmp_path / "t.csv", "--label", "size", "--run", tmp_path / "run")[0] == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    del run["settings"]["task"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    assert call("search", tmp_path / "run", *SEARCH)[0] == 0


def test_states_of_another_task_are_not_gone_on_from(tmp_path):
    """0 and 1 as numbers, as two classes and as a binary label have one fingerprint, and three searches."""
    frame = X.assign(size=(LABELS["regression"] > 100).astype(int))
    made = [prepare(frame, "size", ColumnOptions(task=task)) for task in ("binary", *TASKS)]
    assert len({m.data.fingerprint for m in made[::2]}) == 1
    assert len({search_checkpoint(m, SearchConfig(), Network(), 0, tmp_path).key for m in made}) == 3


BAD = [
    (["--task", "regression"], {"size": NAMES[np.arange(1500) % 4]},
     r"t.csv, row 0 \(counted from 0\): label 'size': 'low' \(in 1,500 of 1,500 rows\), expected a finite number; .* --task classes"),
    (["--task", "regression"], {"size": np.where(np.arange(1500) == 7, np.nan, LABELS["regression"])},
     r"t.csv, row 7 \(counted from 0\): label 'size': missing \(in 1 of 1,500 rows\)"),
    (["--task", "regression"], {"size": np.where(np.arange(1500) == 7, np.inf, LABELS["regression"])}, r"t.csv, row 7 \(counted from 0\): .*'inf'"),
    (["--task", "regression"], {"size": np.ones(1500)}, "all of the train are 1, nothing to learn"),
    (["--task", "classes"], {"size": ["only"] * 1500}, "one class"),
    (["--task", "classes"], {"size": np.arange(1500)}, "1,500 classes, expected 1,000 at most"),
    (["--task", "classes"], {"size": [*"ab" * 749, "c", "c"]}, r"fewer than 3 rows of 'c' \(1 of 3 classes\)"),
    (["--task", "classes", "--time", "day"], {"size": [*"ab" * 740, *"c" * 20], "day": np.arange(1500)},
     "no training row, these being the oldest, has 'c'"),
    (["--task", "classes"], {"size": [None, *"abc" * 499, "a", "b"]}, r"t.csv, row 0 \(counted from 0\): label 'size': missing, expected a or b or c"),
    (["--task", "regresion"], {"size": LABELS["regression"]}, "--task regresion: expected 'auto', 'binary', 'regression' or"),
    (["--task", "retrieval"], {"size": LABELS["regression"]}, r"--task retrieval: .*AutoDimRanker in Python, as guide_retrieval shows"),
    (["--task", "regression", "--positive", ">=4"], {"size": LABELS["regression"]}, "--task regression and --positive >=4"),
    ([], {"size": LABELS["classes"]}, "take --task classes or --task regression"),
]


@pytest.mark.parametrize(("options", "columns", "words"), BAD)
def test_what_cannot_be_prepared_is_one_line_and_leaves_nothing(options, columns, words, tmp_path):
    X.assign(**columns).to_csv(tmp_path / "t.csv", index=False)
    code, out, err = call("prepare", tmp_path / "t.csv", "--label", "size", *options, "--run", tmp_path / "run")
    errors = [line for line in err.splitlines() if "error:" in line]
    assert (code, out, len(errors)) == (1, "", 1) and not (tmp_path / "run").exists()
    assert re.search(words, errors[0]), errors[0]


def test_a_network_of_one_output_is_refused_before_a_search(run):
    place, task, _ = run
    if task == "classes":
        code, _, err = call("search", place, "--backbone", "FM")  # before anything is trained
        assert code == 1 and "FM has one output, not one a class; take --backbone MLP" in err


def test_a_label_of_dates_is_no_number():
    with pytest.raises(DataError, match="expected a number; of times, take the days or seconds"):
        prepare(X.assign(size=pd.date_range("2026-01-01", periods=len(X))), "size", ColumnOptions(task="regression"))


def test_packed_tables_are_served_by_numpy_and_onnx(run):
    onnxruntime = pytest.importorskip("onnxruntime")
    place, task, _ = run
    folder, model = place / "compressed" / "export", load(place / "compressed")
    example = json.loads((folder / "example.json").read_text())
    ids = np.array([row["ids"] for row in example["rows"]], dtype=np.int64)
    name = {"regression": "number", "classes": "probabilities"}[task]
    (served,) = onnxruntime.InferenceSession(folder / "model.onnx").run([name], {"ids": ids})
    np.testing.assert_allclose(served, [row[name] for row in example["rows"]], rtol=1e-4)
    vectors = load_numpy(folder / "tables.safetensors")["embedding"](ids)
    np.testing.assert_allclose(vectors, model.model_.embedding(torch.from_numpy(ids)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_numbers_are_read_as_their_files_write_them(tmp_path):
    """A decimal comma, spaces, Parquet's floats and whole numbers: the labels of the frame."""
    frame = X.astype(int).assign(size=LABELS["regression"].round(2))
    wanted = prepare(frame, "size", ColumnOptions(task="regression")).data
    frame.to_csv(tmp_path / "comma.csv", sep=";", decimal=",", index=False)
    frame.assign(size=frame["size"].map("  {} ".format)).to_csv(tmp_path / "spaces.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("comma.csv", "spaces.csv", "t.parquet"):
        assert prepare(tmp_path / name, "size", ColumnOptions(task="regression")).data.fingerprint == wanted.fingerprint, name
    frame.assign(size=np.arange(len(X)) % 40).to_parquet(tmp_path / "whole.parquet")
    made = prepare(tmp_path / "whole.parquet", "size", ColumnOptions(task="auto"))
    assert made.data.task.name == "regression" and made.data.train.labels.max() == 39


def test_an_export_within_a_budget_says_the_task_s_units(run, tmp_path):
    place, task, _ = run
    code, out, err = call("export", place, "--uncompressed", "--max-space", "0.9", "--format", "fbgemm", "--to", tmp_path / "x")
    assert code == 0, err
    words = {"regression": "per cent, as the validation RMSE rises", "classes": "hundredths of a nat, as the validation Logloss"}
    assert words[task] in out and "AUC" not in out and (tmp_path / "x" / "fbgemm.safetensors").is_file()
