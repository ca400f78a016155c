"""The command line: exit codes, what is printed where, resumption after a kill, and the files that are left."""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import safetensors
import torch
from sklearn.metrics import roc_auc_score
from written import call

from autodim.app.cli import main, make_parser
from autodim.app.commands import COMMANDS
from autodim.app.run import prepare_command
from autodim import AutoDim, load
from autodim.app.settings import ENCODINGS, FORMATS, read_buckets, read_bytes, read_counts, read_names
from autodim.data.split import SplitOptions
from autodim.app.export import write_exports
from autodim.data.table import encode_rows, open_table, prepare
from autodim.data.vocabulary import vocabulary_to_dict
from autodim.memory.packing import PackedTables
from autodim.method.metrics import predict
from autodim.training.checkpoint import FileCheckpoint

SEARCH = ["--dims", "2,4,8", "--epochs", "2", "--hidden", "8", "--batch-size", "50", "--f", "2", "--quiet"]
TRAIN = ["--epochs", "3", "--repeats", "1", "--quiet"]


def write_clicks(path: Path, n: int = 500, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 20, n), rng.integers(0, 9, n)
    chance = 1 / (1 + np.exp(-rng.normal(0, 1.5, 20)[user] - rng.normal(0, 1, 9)[item]))
    pd.DataFrame({"user": [f"u{u}" for u in user], "item": item, "price": rng.gamma(2, 5, n).round(2),
                  "click": (rng.random(n) < chance).astype(int)}).to_csv(path, index=False)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with all steps done; not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    table, run = write_clicks(folder / "clicks.csv"), folder / "run"
    assert call("prepare", table, "--label", "click", "--run", run)[0] == 0
    assert call("search", run, *SEARCH)[0] == 0
    assert call("train", run, *TRAIN)[0] == 0
    return run


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(trained, tmp_path / "copy of a run")


# ---------------------------------------------------------------- words

@pytest.mark.parametrize("command", [[], ["prepare"], ["search"], ["train"], ["compress"], ["report"], ["export"]])
def test_help_says_what_each_option_is_for(command):
    code, out, err = call(*command, "--help")
    assert code == 0 and err == "" and "usage: autodim" in out
    if command:
        parser = make_parser()
        sub = next(a for a in parser._actions if hasattr(a, "choices") and a.choices and command[0] in a.choices)
        assert all(action.help for action in sub.choices[command[0]]._actions)


@pytest.mark.parametrize("arguments", [[], ["dance"], ["prepare"], ["prepare", "x.csv"], ["search", "--dims", "a,b"],
                                       ["search", "--variant", "one"], ["train", "--max-bytes", "much"],
                                       ["train", "--max-bytes", "infMB"],
                                       ["prepare", "x.csv", "--label", "y", "--numerical", "price"],
                                       ["export", "--format", "pickle"]])
def test_what_is_not_understood_has_exit_code_2(arguments):
    code, out, err = call(*arguments)
    assert code == 2 and out == "" and "usage:" in err


@pytest.mark.parametrize("arguments, expected", [
    ("search --variant one", "expected 1, 2, 3 or 4"), ("train --max-space much", "expected a share"),
    ("search --lr x", "expected a positive number"), ("prepare x.csv --label y --numerical price:²", "expected COLUMN:BUCKETS"),
    ("prepare x.csv --label y --numerical price:spline", "price:auto (auto, buckets, piecewise"),
    ("prepare x.csv --label y --numerical price", "such as price:10"), ("train --max-bytes 7Q", "such as 64MB")])
def test_what_was_expected_is_said(arguments, expected):
    code, _, err = call(*arguments.split())
    assert code == 2 and expected in err.splitlines()[-1] and "invalid" not in err


@pytest.mark.parametrize("option", [("prepare", "x.csv", "--label", "y", "--run"), ("search",), ("report", "r", "--to"),
                                    ("export", "r", "--to"), ("train", "r", "--dims-file")])
def test_a_path_is_not_nothing_and_knows_the_home(option, tmp_path, monkeypatch):
    """An empty --run, such as of an unset variable, is not the current folder."""
    code, _, err = call(*option, "")
    assert code == 2 and "expected a path" in err
    monkeypatch.setenv("HOME", str(tmp_path))
    options = make_parser().parse_args([*option, "~/a"])
    assert tmp_path / "a" in vars(options).values()


def test_a_run_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, _ = call("prepare", write_clicks(tmp_path / "t.csv"), "--label", "click", "--run=~/shop")
    assert code == 0 and (tmp_path / "shop" / "run.json").is_file() and str(tmp_path / "shop") in out.splitlines()[-1]


def test_readings():
    assert read_names(" a, b ,") == ("a", "b") and read_buckets("a:b:3") == {"a:b": 3} and read_counts("4, 8") == (4, 8)
    assert read_names('"a,b", c') == ("a,b", "c") and read_buckets('"a,b":3') == {"a,b": 3} and read_names("") == ()
    assert read_names(" item") == (" item",) and read_names('""') == ("",) and read_names('" a","b ",c ') == (" a", "b ", "c")
    with pytest.raises(argparse.ArgumentTypeError, match="column 'a,b' is there twice; give it one rule"):
        read_buckets('"a,b":3,c:auto,"a,b":tree')
    assert read_names('"a ""b"""') == ('a "b"',) and read_buckets('"":3," a":criteo') == {"": 3, " a": "criteo"}
    assert [read_bytes(x) for x in ("64MB", "1.5GB", "2kB", "7")] == [64 * 10**6, 1_500_000_000, 2000, 7]


@pytest.mark.parametrize("command", ["", "prepare", *COMMANDS])
def test_help_imports_nothing_that_takes_its_time(command):
    code = ("import sys; from autodim.app.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "print({'torch', 'pandas', 'sklearn', 'matplotlib', 'scipy', 'numpy'} & {*sys.modules}, file=sys.stderr)")
    arguments = [*([command] if command else []), "--help"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stderr == "set()\n" and "usage: autodim" in done.stdout


@pytest.mark.parametrize("module, unused", [
    ("run", "torch sklearn matplotlib scipy.stats"), ("commands", "sklearn matplotlib scipy.stats"),
    ("steps", "sklearn matplotlib seaborn scipy.stats"), ("page", "sklearn matplotlib seaborn scipy.stats")])
def test_a_command_imports_what_it_uses(module, unused):
    code = f"import sys, autodim.app.{module}; print({{*{unused.split()!r}}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_run_of_another_version_is_not_taken_for_a_damaged_one(copy, trained):
    """Nothing of it is replaced."""
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(run | {"autodim": "9.9", "settings": run["settings"] | {"depth": 3}}))
    before = files(copy)
    for step in (["prepare", trained.parent / "clicks.csv", "--label", "item", "--run", copy], ["search", copy], ["report", copy]):
        code, out, err = call(*step)
        assert (code, out) == (1, "") and "another version of autodim (9.9;" in err and "(depth)" in err and "--run" in err
    assert files(copy) == before


def test_a_table_of_another_version_is_not_taken_for_a_damaged_one(copy, trained):
    path = copy / "table" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    code, _, err = call("report", copy)
    assert code == 1 and "another version of autodim (format 99)" in err and "`autodim prepare` again" in err
    assert call("prepare", trained.parent / "clicks.csv", "--label", "click", "--run", copy)[0] == 0
    assert call("report", copy)[0] == 0


def test_a_damaged_run_is_prepared_anew_and_that_is_said(copy, trained):
    (copy / "run.json").write_text("{")
    code, _, err = call("prepare", trained.parent / "clicks.csv", "--label", "click", "--run", copy)
    assert code == 0 and "run.json is damaged" in err and "settings of before are lost" in err


def test_each_setting_has_a_flag_or_is_the_run_s():
    parser = make_parser()
    sub = next(a for a in parser._actions if hasattr(a, "choices") and a.choices)
    flagged = {action.dest for command in sub.choices.values() for action in command._actions}
    assert {*AutoDim().get_params()} - flagged == {"folder", "progress", "packed"}


# ---------------------------------------------------------------- json, text, errors

def test_json_is_one_object_on_stdout_and_nothing_else(tmp_path):
    table, run = write_clicks(tmp_path / "ein Klick é.csv"), tmp_path / "a run"
    steps = [("prepare", table, "--label", "click", "--run", run), ("search", run, *SEARCH),
             ("train", run, *TRAIN, "--max-space", "0.6"), ("report", run), ("export", run)]
    for step in steps:
        code, out, _ = call(*step, "--json")
        found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        assert code == 0 and out.count("\n") == 1 and found["run"] == str(run)
    assert set(found["files"]) == {str(p) for p in (run / "export").rglob("*") if p.is_file()}
    code, out, err = call("search", tmp_path / "nowhere", "--json")
    assert code == 1 and "autodim prepare" in json.loads(out)["error"] and err.startswith("autodim: error: ")


BAD = {
    "no such file": (None, "no such file"),
    "cut short": ("a,click\n1,0\n2", "line 3: 1 columns, expected 2"),
    "no label": ("a,b\n1,0\n2,1\n", "'click' is not in the table"),
    "three classes": ("a,click\n" + "".join(f"{i % 3},{i % 3}\n" for i in range(30)), "3 distinct values"),
    "two rows": ("a,click\n1,0\n1,1\n", "no column is left"),
    "empty": ("", "is empty"),
}


WRONG = [
    ("prepare", "--min-count", "0", "--min-count 0"), ("prepare", "--seed", "-1", "--seed -1"),
    ("prepare", "--validation", "0", "--validation 0.0"), ("prepare", "--test", "nan", "--test nan"),
    ("search", "--dims", "4,2", "--dims 4,2:"), ("search", "--dims", ",", "--dims :"), ("search", "--lr", "-1", "--lr -1.0"),
    ("search", "--hidden", "0", "--hidden 0:"), ("search", "--dropout", "2", "--dropout 2.0"), ("search", "--f", "0", "--f 0"),
    ("search", "--epochs", "0", "--epochs 0"), ("search", "--batch-size", "0", "--batch-size 0"),
    ("search", "--pad-to", "0", "--pad-to 0"), ("search", "--variant", "9", "--variant 9"), ("search", "--device", "abacus", "--device abacus:"),
    ("train", "--max-space", "3", "--max-space 3.0"), ("train", "--max-bytes", "0", "--max-bytes 0"),
    ("train", "--epochs", "0", "--epochs 0"), ("train", "--patience", "0", "--patience 0"), ("train", "--pad-to", "0", "--pad-to 0"),
    ("train", "--max-space", "0.001", "too small"), ("train", "--max-bytes", "8", "too small"),
]


@pytest.mark.parametrize("step, option, value, expected", WRONG, ids=[" ".join(wrong[:3]) for wrong in WRONG])
def test_a_wrong_setting_is_named_and_does_not_stay(step, option, value, expected, trained, monkeypatch):
    monkeypatch.setattr("autodim.training.checkpoint.FileCheckpoint.save", lambda *_: pytest.fail("it worked on it"))
    before, table = files(trained), trained.parent / "clicks.csv"
    run = [table, "--label", "click", "--run", trained] if step == "prepare" else [trained, "--quiet"]
    code, out, err = call(step, *run, option, value)
    assert (code, out, len(err.splitlines())) == (1, "", 1) and expected in err
    assert files(trained) == before


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_line_and_leaves_no_run(name, tmp_path):
    content, expected = BAD[name]
    table, run = tmp_path / "t.csv", tmp_path / "run"
    if content is not None:
        table.write_text(content)
    code, out, err = call("prepare", table, "--label", "click", "--run", run)
    errors = [line for line in err.splitlines() if not line.startswith("autodim: note")]
    assert (code, out, len(errors)) == (1, "", 1) and expected in errors[0] and not run.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = call("prepare", write_clicks(tmp_path / "t.csv"), "--label", "click", "--run", tmp_path / "file" / "run")
    assert code == 1 and "cannot be written" in err and "file/run" in err


def test_steps_out_of_order_say_what_comes_first(tmp_path):
    run = tmp_path / "r"
    for step in ("search", "train", "compress", "report", "export"):
        code, _, err = call(step, run, *["--max-space", 0.5] * (step == "compress"))
        assert code == 1 and "autodim prepare" in err
    assert not run.exists()
    call("prepare", write_clicks(tmp_path / "t.csv"), "--label", "click", "--run", run)
    for step in (["report"], ["compress", "--max-loss", 1]):
        code, _, err = call(*step, run)
        assert code == 1 and f"autodim train {run}" in err


def test_notes_go_to_stderr_and_what_whole_numbers_are_is_said(tmp_path):
    rng = np.random.default_rng(0)
    views, users = rng.integers(0, 2000, 4000), rng.integers(0, 100, 4000)
    chance = 1 / (1 + np.exp(2 - views / 500 - 2 * rng.normal(size=100)[users]))
    frame = pd.DataFrame({"row": range(4000), "views": views, "user": users, "a": rng.integers(0, 3, 4000),
                          "click": (rng.random(4000) < chance).astype(int)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = ["prepare", tmp_path / "t.csv", "--label", "click", "--run", tmp_path / "r"]
    code, out, err = call(*run, "--min-count", 1)
    left, taken = err.splitlines()
    assert code == 0 and left == (
        "autodim: note: left out: 'row' (a value of its own in every row, an id). Name a column in --categorical to keep it")
    assert taken.startswith("autodim: note: whole numbers: 'views', a number, its order predicts (Logloss 0.")
    start = out.splitlines().index("Whole numbers, as the training rows say (--categorical and --numerical override):")
    views, user = out.splitlines()[start + 1 : start + 3]
    assert views.startswith("views: a number, its order predicts (Logloss 0.") and user.startswith("user: values, as they predict better")
    kept = call(*run, "--categorical", "views,user")  # the user's word
    assert kept[0] == 0 and "Whole numbers" not in kept[1] and "numerical" not in kept[1]
    cut = call(*run, "--numerical", "user:9", "--categorical", "views", "--json")
    assert json.loads(cut[1])["numerical"] == ["user"] and json.loads(cut[1])["decided"] == {}


# ---------------------------------------------------------------- what is found

def test_a_model_of_before_a_setting_was_there_is_not_trained_again(copy):
    path = copy / "model" / "model.json"
    content = json.loads(path.read_text())
    for name in ("packed", "max_loss", "sure"):
        del content["record"]["settings"][name]
    path.write_text(json.dumps(content))
    code, _, err = call("train", copy, "--quiet")
    assert code == 0 and "nothing is left to do" in err


# ---------------------------------------------------------------- packed tables

def test_what_compress_says_is_so_by_the_folder_it_leaves(copy, trained):
    """Its figures against predictions on the files' rows, and scikit-learn's AUC; the model of before stays as it was."""
    before = files(copy / "model")
    code, out, err = call("compress", copy, "--max-space", 0.2, "--json")
    assert code == 0 and err == "" and files(copy / "model") == before
    found, table = json.loads(out), pd.read_csv(trained.parent / "clicks.csv")
    one, two, prepared = load(copy / "model"), load(copy / "compressed"), open_table(copy / "table")
    widest = 4 * 8 * sum(prepared.data.cardinalities)
    assert found["bytes"] <= 0.2 * widest and found["full_bytes"] == one.trained_.record["outcomes"][0]["bytes"]
    assert {path.name for path in (copy / "compressed").glob("[!.]*")} == {
        "model.json", "plan.json", next((copy / "compressed").glob("weights-*")).name}
    assert found["bytes"] == sum(m.nbytes() for m in two.model_.modules() if isinstance(m, PackedTables))
    for part, figures in (("val", found["val"]), ("test", found["test"])):
        rows = getattr(prepared.data, part)
        ids, labels = torch.as_tensor(rows.ids[:]).long(), rows.labels[:].numpy()
        with torch.no_grad():
            assert figures["before"] == pytest.approx(roc_auc_score(labels, one.model_(ids)))
        columns = {v.name: dict(enumerate(v.values, 1)) for v in prepared.data.vocabularies if v.rule == "values"}
        assert set(columns) == {"user", "item"}
        new = torch.tensor(np.stack([w.encode(pd.Series(ids[:, m]).map(columns[w.name])) if w.name in columns else
                                     again(v, w)[ids[:, m].numpy()] for m, (v, w) in
                                     enumerate(zip(one.vocabularies_, two.vocabularies_))], 1))
        with torch.no_grad():
            assert figures["after"] == pytest.approx(roc_auc_score(labels, two.model_(new)))
    difference = found["test"]["after"] - found["test"]["before"]
    assert found["test"]["mean"] == pytest.approx(difference) and found["test"]["low"] <= difference
    assert np.abs(two.predict_proba(table) - one.predict_proba(table)).max() < 0.4


def again(old, new) -> np.ndarray:
    """The new id of each old one of a bucketed field."""
    places = {value: n for n, value in enumerate(new.values.tolist(), 1)}
    return np.array([0, *(places[value] for value in old.values.tolist()), *[new.missing_id] * (old.missing_id > 0)])


def test_a_larger_budget_and_a_larger_tolerance_are_kept_and_used(copy):
    sizes, losses = [], []
    for budget in ("90", "150", "0.3kB", "2MB"):
        code, out, _ = call("compress", copy, "--max-bytes", budget, "--json")
        sizes.append(json.loads(out)["bytes"])
        losses.append(json.loads(out)["predicted"])
        assert code == 0 and sizes[-1] <= read_bytes(budget)
    assert sizes == sorted(sizes) and losses == sorted(losses, reverse=True)
    by_loss = [json.loads(call("compress", copy, "--max-loss", loss, "--no-sure", "--json")[1]) for loss in (30, 1)]
    assert by_loss[0]["bytes"] <= by_loss[1]["bytes"] and all(f["val"]["loss"] <= a for f, a in zip(by_loss, (30, 1)))
    promised = json.loads(call("compress", copy, "--max-loss", 30, "--json")[1])
    assert promised["val"]["high"] <= 30 and promised["bytes"] >= by_loss[0]["bytes"]


@pytest.mark.parametrize("given, words", [
    ((), "give one of --max-bytes, --max-space, --max-loss, --plan; given: none"),
    (("--max-loss", 1, "--max-bytes", "2MB"), "given: --max-bytes, --max-loss"),
    (("--max-bytes", 20), "a budget of 20 bytes is too small: the mean of each table and the offsets of its groups"),
    (("--max-loss", 1e-9), "--max-loss 1e-09: with 8 bits for every component the validation AUC falls by"),
    (("--max-loss", -1), "--max-loss -1.0: expected a positive number"),
    (("--max-space", 3), "--max-space 3.0: expected a share"),
    (("--plan", "none.json"), "none.json cannot be read"),
])
def test_a_limit_that_cannot_be_kept_is_one_line_and_leaves_nothing(given, words, copy):
    before = files(copy)
    code, out, err = call("compress", copy, *given)
    assert code == 1 and out == "" and words in err and err.count("\n") == 1
    assert {name for name in files(copy)} == {*before} and not (copy / "compressed").exists()


def test_the_report_begins_with_the_packed_tables_until_another_model_is_trained(copy):
    assert call("compress", copy, "--max-space", 0.2)[0] == 0
    code, out, err = call("report", copy)
    first = next(line for line in out.splitlines() if not line.startswith("Its probabilities are worse"))  # a caution
    assert code == 0 and err == "" and "times smaller tables, AUC changed by" in first
    document = (copy / "report.html").read_text()
    assert document.index("Packed tables") < document.index("<h2>Models")
    call("train", copy, *TRAIN, "--epochs", 1)
    code, out, err = call("report", copy)
    assert code == 0 and "times smaller" not in out and "compressed is not of the model trained last" in err


def test_an_edited_plan_of_a_run_is_followed_and_one_of_another_model_is_not(copy):
    first = json.loads(call("compress", copy, "--max-space", 0.3, "--json")[1])
    path = copy / "compressed" / "plan.json"
    plan = json.loads(path.read_text())
    plan["bits"]["user"] = plan["bits"]["user"][:1]
    mine = copy / "mine.json"
    mine.write_text(json.dumps(plan))
    second = json.loads(call("compress", copy, "--plan", mine, "--json")[1])
    assert second["bytes"] < first["bytes"] and json.loads(path.read_text()) == plan
    mine.write_text(json.dumps(plan | {"bits": {"user": []}}))
    before = files(copy)
    code, _, err = call("compress", copy, "--plan", mine)
    assert code == 1 and "is of another model" in err and files(copy) == before


def test_a_model_of_another_table_is_not_compressed(copy, tmp_path):
    call("prepare", write_clicks(tmp_path / "other.csv", seed=5), "--label", "click", "--run", copy)
    code, _, err = call("compress", copy, "--max-space", 0.2)
    assert code == 1 and "was trained on another table" in err


def test_a_packed_model_is_not_exported_as_if_it_were_float32(copy, tmp_path):
    assert call("compress", copy, "--max-space", 0.2)[0] == 0
    with pytest.raises(ValueError, match="deepctr: the tables of this model are packed"):
        write_exports(load(copy / "compressed").trained_, tmp_path / "x", ["deepctr"])
    code, _, err = call("export", copy, "--format", "deepctr")
    assert code == 1 and "--uncompressed" in err and not list(copy.rglob("export"))
    assert call("export", copy, "--format", "deepctr", "--uncompressed")[0] == 0
    assert (copy / "export" / "deepctr.json").is_file()
    code, _, err = call("export", copy, "--format", "packed", "--uncompressed")
    assert code == 1 and "no packed tables: compress it first" in err


def test_an_exported_packed_model_serves_without_pytorch_as_its_readme_says(copy):
    """The README's own lines, in a process that can import neither PyTorch nor this package."""
    assert call("compress", copy, "--max-space", 0.2)[0] == call("export", copy, "--quiet")[0] == 0
    folder = copy / "compressed" / "export"
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    example = json.loads((folder / "example.json").read_text())["rows"]
    script = ("import json, sys; sys.modules.update(torch=None, autodim=None, pandas=None, scipy=None)\n"
              + re.sub(r"np.array\(.*?, dtype", "np.array(json.loads(sys.argv[1]), dtype", lines)
              + "print(json.dumps([probability.tolist(), vectors.tolist()]))")
    done = subprocess.run([sys.executable, "-c", script, json.dumps([row["ids"] for row in example])], cwd=folder,
                          capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    probability, vectors = json.loads(done.stdout)
    np.testing.assert_allclose(probability, [row["probability"] for row in example], atol=1e-5)
    with torch.no_grad():
        expected = load(copy / "compressed").trained_.model.embedding(torch.tensor([row["ids"] for row in example]))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert json.loads((folder / "vocabularies.json").read_text()) == [
        vocabulary_to_dict(v) for v in load(copy / "compressed").trained_.vocabularies]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).model_.state_dict()


def test_recalibrated_tables_stay_and_the_layers_are_served_from_every_file(copy):
    """The plan and the tables are those of the budget alone; the same plan gives the same model; ONNX agrees."""
    plain = json.loads(call("compress", copy, "--max-space", 0.2, "--json")[1])
    folder, before = copy / "compressed", weights(copy / "compressed")
    plan = json.loads((folder / "plan.json").read_text())
    code, out, err = call("compress", copy, "--max-space", 0.2, "--recalibrate", "--json", "--quiet")
    found, after, tuned = json.loads(out), weights(folder), json.loads((folder / "plan.json").read_text())
    assert code == 0 and err == "" and found["bytes"] == plain["bytes"]
    assert (plain["recalibrated"], found["recalibrated"]) == (None, True)
    assert (plan["recalibrated"], tuned["recalibrated"]) == (False, True) and plan["bits"] == tuned["bits"]
    assert {n.split(".")[0] for n, t in after.items() if not torch.equal(t, before[n])} == {"backbone"}
    mine = shutil.copy(folder / "plan.json", copy / "mine.json")
    code, out, _ = call("compress", copy, "--plan", mine, "--recalibrate", "--quiet")
    assert code == 0 and "have learnt to live with the packed ones" in out
    assert all(torch.equal(t, after[n]) for n, t in weights(folder).items())
    assert call("export", copy, "--quiet")[0] == 0
    example = json.loads((folder / "export" / "example.json").read_text())["rows"]
    frame = pd.DataFrame([row["row"] for row in example])
    np.testing.assert_allclose([row["probability"] for row in example], load(folder).predict_proba(frame)[:, 1], atol=1e-6)
    session = onnxruntime.InferenceSession(folder / "export" / "model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: np.array([row["ids"] for row in example], dtype=np.int64)})
    np.testing.assert_allclose(outputs[0].ravel(), [row["probability"] for row in example], atol=1e-5)
    code, out, err = call("compress", copy, "--max-loss", 30, "--recalibrate", "--json", "--quiet")
    promised = json.loads(out)
    assert code == 0 and promised["val"]["high"] <= 30 and promised["recalibrated"] is not None


def test_files_of_a_run(trained):
    run, model = json.loads((trained / "run.json").read_text()), load(trained / "model")
    assert json.loads((trained / "dims.json").read_text()) == model.dims_ == dict(model.dims_)
    assert run["settings"]["dims"] == [2, 4, 8] and run["settings"]["epochs"] == 3 and run["settings"]["search_epochs"] == 2
    assert not list(trained.rglob("*.part"))


def test_a_step_given_again_changes_nothing(trained, monkeypatch):
    before = files(trained)
    for epoch in ("method.search.run_epoch", "method.retrain.train_epoch", "training.checkpoint.FileCheckpoint.save"):
        monkeypatch.setattr(f"autodim.{epoch}", lambda *_: pytest.fail("an epoch was done again"))
    table = trained.parent / "clicks.csv"
    outputs = [call("prepare", table, "--label", "click", "--run", trained), call("search", trained, "--quiet"),
               call("train", trained, "--quiet")]
    assert [code for code, *_ in outputs] == [0, 0, 0]
    assert files(trained) == before


def test_the_budget_that_search_suggests_can_be_kept(copy):
    code, out, _ = call("search", copy, "--quiet")
    suggested = re.search(r"(--max-space \S+), or (--max-bytes \S+)\)", out.splitlines()[-1])
    for budget in suggested.groups():
        option, value = budget.split()
        code, out, _ = call("train", copy, option, value, *TRAIN, "--json", "--no-rivals")
        chosen = json.loads(out)["outcomes"][0]
        assert code == 0 and chosen["space"] < 1
        assert chosen["space"] <= float(value) if option == "--max-space" else chosen["bytes"] <= read_bytes(value)


def test_exports_are_those_of_the_model(trained, tmp_path):
    assert call("export", trained, "--to", tmp_path)[0] == 0
    model, frame = load(trained / "model"), pd.read_csv(trained.parent / "clicks.csv")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = encode_rows(frame, model.vocabularies_).numpy().astype(np.int64)
    (chances,) = session.run(None, {"ids": ids})
    np.testing.assert_allclose(chances, model.predict_proba(frame)[:, 1], atol=1e-5)
    torchrec = json.loads((tmp_path / "torchrec.json").read_text())
    assert {entry["feature_names"][0]: entry["embedding_dim"] for entry in torchrec} == model.dims_
    for name in FORMATS[:4]:  # all but those within a budget
        folder = tmp_path / f"{name} alone"
        assert call("export", trained, "--to", folder, "--format", name)[0] == 0
        assert len(list(folder.rglob("*.*"))) in (5, 6)  # vocabularies, and one file or two


def vectors_in(folder, entry: dict) -> np.ndarray:
    """The vectors of a table in an export for FBGEMM, number by number."""
    with safetensors.safe_open(folder / "fbgemm.safetensors", "np") as file:
        parts = {k.split(".")[1]: file.get_tensor(k) for k in file.keys() if k.split(".")[0] == entry["name"]}
    bits, rows = {"FP32": 32, "FP16": 16, "INT8": 8, "INT4": 4, "INT2": 2}[entry["weight_type"]], []
    for v, stored in enumerate(parts["weights"]):
        if bits <= 8:
            scale, offset = parts["scale_shift"][v].view(np.float16).astype(float)
            whole = int.from_bytes(stored.tobytes(), "little")
            stored = [offset + scale * (whole >> bits * j & 2**bits - 1) for j in range(entry["embedding_dim"])]
        rows.append(parts["mean"] + np.asarray(stored, float) @ parts["decode"])
    size = sum(part.nbytes for part in parts.values())
    assert len(rows) == entry["num_embeddings"] and size <= entry["bytes"] + parts["decode"].nbytes
    return np.array(rows)


@pytest.mark.parametrize("refit", [False, True])
def test_an_export_within_a_budget_loses_what_it_says(copy, tmp_path, refit):
    if refit:
        assert call("train", copy, *TRAIN, "--refit", "--no-rivals")[0] == 0
    model, data = load(copy / "model"), open_table(copy / "table").data
    full = 4 * max(model.record_["settings"]["dims"]) * sum(data.cardinalities)
    code, out, err = call("export", copy, "--to", tmp_path, "--max-bytes", full, "--json")
    assert code == 0, err
    entries, found = json.loads((tmp_path / "fbgemm.json").read_text()), json.loads(out)["fbgemm"]
    assert sum(entry["bytes"] for entry in entries) == found["bytes"] <= full
    vectors = [vectors_in(tmp_path, entry) for entry in entries]
    assert [v.shape for v in vectors] == list(zip(data.cardinalities, model.dims_.values()))
    if not refit:  # else it is judged by another model
        changed = deepcopy(model.model_)
        for table in changed.embedding.tables:
            rows = np.concatenate([vectors[m] for m in table.fields.tolist()])
            table.weight.data.copy_(torch.from_numpy(rows))
        aucs = [roc_auc_score(data.val.labels, predict(m, data.val)) for m in (model.model_, changed)]
        np.testing.assert_allclose(found["val_auc"], aucs, atol=1e-6)
        assert found["loss"] == pytest.approx(100 * (aucs[0] - aucs[1]), abs=1e-4)
    dims = json.loads((tmp_path / "dims.json").read_text())
    widths = {e["name"]: e["embedding_dim"] for e in json.loads((tmp_path / "deepctr.json").read_text())}
    assert dims == widths and 4 * sum(v * d for v, d in zip(data.cardinalities, dims.values())) <= full
    assert call("train", copy, *TRAIN, "--no-rivals", "--dims-file", tmp_path / "dims.json")[0] == 0


def test_a_budget_of_an_export_that_cannot_be_is_told(copy, tmp_path):
    for given, words in ((["--max-bytes", 20], "a budget of 20 bytes is too small"),
                         (["--format", "fbgemm"], "rows of FBGEMM are chosen within a budget: give one"),
                         (["--format", "onnx", "--max-space", 0.5], "onnx: a budget is kept by widths, or by rows"),
                         (["--max-space", 0.5, "--max-bytes", 900], "give one of the two budgets")):
        code, _, err = call("export", copy, "--to", tmp_path / "x", *given)
        assert code == 1 and words in err and not (tmp_path / "x").exists()


def test_the_report_is_a_page(trained, tmp_path):
    code, out, _ = call("report", trained, "--to", tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text()
    assert code == 0 and "AutoDim keeps" in out and "<html" in text and "user" in text and "price" in text


@pytest.mark.parametrize("option, value", [("--f", 1000), ("--batch-size", 100_000)])
def test_a_search_of_a_step_or_two_decided_nothing_and_says_so_first(option, value, copy):
    arguments = [copy, *(SEARCH + [option, str(value)])]
    code, out, _ = call("search", *arguments)
    assert code == 0 and out.startswith("The search decided nothing")
    assert all(name in out.splitlines()[0] for name in ("--f", "--batch-size", "--epochs", "--alpha-lr"))
    found = json.loads(call("search", *arguments, "--json")[1])["search"]
    assert found["decided"] is False and found["alpha_steps"] <= 2 and found["entropy"] > 0.99
    assert "The search decided nothing" in call("train", copy, *TRAIN, "--no-rivals")[1].partition("AutoDim keeps")[0]
    known = json.loads(call("report", copy, "--json")[1])
    assert known["search"] == found and known["cautions"][-1].startswith("The search decided nothing")


def test_a_dead_model_says_so_first(copy):
    assert call("search", copy, *SEARCH, "--lr", "1000")[0] == 0
    code, out, _ = call("train", copy, *TRAIN)
    assert code == 0 and "orse than no" in " ".join(out.splitlines()[:2]) or "probabilities" in out.splitlines()[0]
    for command in (["train", copy, *TRAIN], ["report", copy]):
        known = json.loads(call(*command, "--json")[1])
        assert known["outcomes"][0]["test_logloss"] > known["baseline"] and "the label's mean alone" in str(known["cautions"])
    assert "no loss worth naming" not in out and "as good" not in out


def test_the_report_names_its_table_and_says_what_to_do(trained, tmp_path):
    code, out, _ = call("report", trained, "--to", tmp_path / "page.html")
    assert code == 0 and "clicks.csv: AutoDim keeps" in out and sum(line.startswith("What to do: ") for line in out.splitlines()) == 1
    assert "<h1>Embedding dimensions of clicks.csv</h1>" in (tmp_path / "page.html").read_text()


def test_budgets_replace_each_other(copy):
    code, out, _ = call("train", copy, "--max-space", "0.4", *TRAIN, "--json", "--no-rivals")
    assert code == 0 and json.loads(out)["space"] <= 0.4 and len(json.loads(out)["outcomes"]) == 1
    code, out, _ = call("train", copy, "--max-bytes", "600", *TRAIN, "--json", "--rivals")
    assert code == 0 and json.loads(out)["outcomes"][0]["bytes"] <= 600 and len(json.loads(out)["outcomes"]) > 1
    code, out, _ = call("train", copy, "--max-bytes", "600", "--max-space", "0.5", *TRAIN)
    assert code == 1 and out == ""


OWN = {"user": 3, "item": 5, "price": 1}
NOT_DIMS = {
    '{"user": 3}': "no dimension for field 'item'", '{"user": "x"}': "'user'", "{": "not JSON", "[]": "expected an object",
    json.dumps(OWN | {"more": 2}): "'more' is not a field", json.dumps(OWN | {"item": 0}): "'item' is 0",
    json.dumps(OWN | {"item": 2.5}): "'item' is 2.5", json.dumps(OWN | {"item": True}): "'item' is True",
    json.dumps(OWN | {"item": 9}): "above the widest candidate, 8", "\udcff": "not UTF-8",
}


def test_dims_by_hand(copy, tmp_path, monkeypatch):
    own = tmp_path / "é dims.json"
    own.write_text(json.dumps(OWN))
    code, out, _ = call("train", copy, "--dims-file", own, *TRAIN, "--json", "--no-rivals")
    assert code == 0 and json.loads(out)["dims"] == load(copy / "model").dims_ == OWN
    monkeypatch.setattr("autodim.app.steps.search_step", lambda *_: pytest.fail("it searched before it read the file"))
    for content, expected in NOT_DIMS.items():
        own.write_bytes(content.encode(errors="surrogateescape"))
        code, out, err = call("train", copy, "--dims-file", own, *TRAIN)
        assert (code, out, len(err.splitlines())) == (1, "", 1) and expected in err and str(own) in err
    for path in (tmp_path, tmp_path / "none.json"):
        code, _, err = call("train", copy, "--dims-file", path, *TRAIN)
        assert code == 1 and f"{path} cannot be read" in err
    assert load(copy / "model").dims_ == OWN == json.loads((copy / "dims.json").read_text())


def test_dims_by_hand_and_a_budget_exclude_each_other(copy, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps(OWN))
    for option in (["--max-space", "0.5"], ["--max-bytes", "600"]):
        code, out, err = call("train", copy, "--dims-file", own, *option, *TRAIN)
        assert code == 1 and out == "" and "--dims-file" in err and "budget" in err
    assert call("train", copy, "--max-space", "0.4", *TRAIN, "--no-rivals")[0] == 0
    assert call("train", copy, "--dims-file", own, *TRAIN, "--no-rivals")[0] == 0  # an earlier budget goes
    assert load(copy / "model").record_["settings"]["max_space"] is None


@pytest.mark.parametrize("content", [json.dumps(OWN), "{"])
def test_a_dims_json_changed_by_hand_is_not_passed_over(content, copy):
    path = copy / "dims.json"
    path.write_text(content)
    code, out, err = call("train", copy, *TRAIN, "--no-rivals")
    assert code == 1 and out == "" and f"{path} was changed" in err and "--dims-file" in err
    assert path.read_text() == content
    path.unlink()
    assert call("train", copy, *TRAIN, "--no-rivals")[0] == 0 and path.is_file()
    assert call("train", copy, *TRAIN, "--max-space", "0.4", "--no-rivals")[0] == 0
    assert call("train", copy, *TRAIN, "--max-space", "0.6", "--no-rivals")[0] == 0  # its own writing is no change


def test_a_search_after_training_is_told_by_report_and_export(copy):
    assert call("report", copy)[2] == ""
    assert call("search", copy, *SEARCH[2:], "--dims", "2,16")[0] == 0
    for step in (("report", copy), ("export", copy, "--format", "deepctr")):
        code, _, err = call(*step)
        assert code == 0 and "before the run's settings changed (dims)" in err and "autodim train" in err
    assert call("train", copy, *TRAIN, "--no-rivals")[0] == 0 and call("report", copy)[2] == ""


def test_a_budget_of_an_earlier_training_does_not_stop_a_search(copy):
    assert call("train", copy, "--max-space", "0.3", *TRAIN, "--no-rivals")[0] == 0
    assert call("search", copy, *SEARCH[2:], "--dims", "4,8")[0] == 0  # half of the widest at least
    code, _, err = call("train", copy, *TRAIN)
    assert code == 1 and "budget" in err and call("train", copy, "--max-space", "0.5", *TRAIN, "--no-rivals")[0] == 0


CHANGES = {"values": lambda t: t.assign(user="x" + t.user), "numbers": lambda t: t.assign(price=2 * t.price),
           "classes": lambda t: t.assign(click=np.where(t.click, "yes", "no"))}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_table_with_other_values_under_the_same_ids_is_another_table(change, copy, trained, tmp_path):
    table = change(pd.read_csv(trained.parent / "clicks.csv"))
    table.to_csv(tmp_path / "clicks.csv", index=False)
    assert call("prepare", tmp_path / "clicks.csv", "--label", "click", "--run", copy)[0] == 0
    code, _, err = call("export", copy, "--format", "deepctr")
    assert code == 1 and "another table" in err


def test_a_reader_that_has_had_enough_is_no_error(trained):
    process = start("report", trained)
    process.stdout.close()
    assert process.wait(timeout=900) == 0 and process.stderr.read() == ""


def test_damaged_files_of_a_run_are_named_and_mended_by_the_command_that_made_them(copy, trained):
    table = trained.parent / "clicks.csv"
    (copy / "table" / "manifest.json").write_bytes(b"x" * 50)
    for step in ("search", "train", "report", "export"):
        code, out, err = call(step, copy, "--quiet")
        assert code == 1 and out == "" and "table is missing or damaged: give `autodim prepare` again" in err
    assert call("prepare", table, "--label", "click", "--run", copy)[0] == 0
    assert (copy / "run.json").read_bytes() == (trained / "run.json").read_bytes()  # the settings stay
    assert call("report", copy)[0] == 0
    (copy / "model" / "model.json").write_text("{}")
    assert call("report", copy)[0] == 1 and call("train", copy, "--quiet")[0] == 0 and call("report", copy)[0] == 0
    for content in (b"\xff", b"[]", b"{}", b'{"settings": [], "label": "click", "key": "x"}',
                    b'{"settings": {}, "label": "click", "key": 1}'):
        (copy / "run.json").write_bytes(content)
        code, out, err = call("search", copy, "--json")
        assert code == 1 and "run.json is damaged" in err and json.loads(out)["error"] in err


@pytest.mark.parametrize("step", ["prepare", "search", "report"])
@pytest.mark.parametrize("module", ["autodim.app.settings", "numpy", "pandas", "polars"])
def test_an_interruption_of_imports_is_one_line(step, module, trained):
    code = ("import os, signal, sys\nfrom autodim.app.cli import main\nclass Stop:\n    def find_spec(self, name, *_):\n"
            f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\nsys.meta_path.insert(0, Stop())\n"
            "sys.exit(main())")
    options = ["x.csv", "--label", "click"] if step == "prepare" else [trained]
    done = subprocess.run([sys.executable, "-c", code, step, *map(str, options), "--json"], capture_output=True, text=True)
    assert done.returncode == 130 and len(done.stderr.splitlines()) == 1 and "goes on" in done.stderr
    assert "interrupted" in json.loads(done.stdout)["error"]


def test_an_interruption_is_json_too(trained, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("autodim.app.steps.search_step", interrupted)
    code, out, err = call("search", trained, "--json", "--quiet")
    assert code == 130 and "interrupted" in json.loads(out)["error"] and "goes on" in err and len(err.splitlines()) == 1


def test_a_changed_table_is_prepared_anew_and_the_old_model_is_not_taken_for_its_own(tmp_path):
    table, run = write_clicks(tmp_path / "t.csv"), tmp_path / "run"
    call("prepare", table, "--label", "click", "--run", run)
    call("search", run, *SEARCH)
    call("train", run, *TRAIN, "--no-rivals")
    write_clicks(table, n=400, seed=1)
    code, out, _ = call("prepare", table, "--label", "click", "--run", run, "--json")
    assert code == 0 and sum(json.loads(out)["rows"].values()) == 400
    for step in ("report", "export"):
        code, _, err = call(step, run)
        assert code == 1 and "another table" in err and "autodim train" in err
    (run / "run.json").write_text("{")
    assert call("search", run)[0] == 1
    assert call("prepare", table, "--label", "click", "--run", run)[0] == 0
    assert call("search", run, *SEARCH)[0] == 0


# ---------------------------------------------------------------- names

@pytest.mark.parametrize("name", [" item", "item ", "", "a,b", 'say "item"', "--item", "naïve ☃", "f=2"])
def test_a_column_of_any_name_can_be_named(name, tmp_path):
    table = pd.read_csv(write_clicks(tmp_path / "t.csv", 300)).rename(columns={"item": name, "user": "item"})
    table.to_csv(tmp_path / "t.csv", index=False)
    text = '"' + name.replace('"', '""') + '"'
    for flag, named, expected in ((f"--exclude={text}", "left_out", name), (f"--numerical={text}:4", "numerical", name)):
        code, out, err = call("prepare", tmp_path / "t.csv", "--label", "click", flag, "--run", tmp_path / "r", "--json")
        assert code == 0 and expected in json.loads(out)[named], err
        assert "item" in json.loads(out)["fields"]


# ---------------------------------------------------------------- a table that is prepared again

def test_a_refreshed_table_keeps_the_settings_and_says_what_it_dropped(copy, trained, tmp_path):
    """Search and training of before are done anew with their settings; the dims.json of before is nobody's hand."""
    table = Path(shutil.copy(trained.parent / "clicks.csv", tmp_path))
    assert call("prepare", table, "--label", "click", "--run", copy, "--min-count", "3", "--exclude", "price")[0] == 0
    assert call("search", copy, *SEARCH, "--backbone", "FM")[0] == 0
    assert call("train", copy, *TRAIN, "--max-space", "0.6", "--no-rivals")[0] == 0
    table.write_text(table.read_text() + "u1,3,4.2,1\n")
    code, out, err = call("prepare", table, "--label", "click", "--run", copy, "--exclude", "price")
    assert code == 0 and "301" not in err and "--min-count 3" in err.splitlines()[0] and "--exclude" not in err
    assert "search --dims 2,4,8 --f 2 --epochs 2" in err and "train --max-space 0.6 --epochs 3 --no-rivals" in err
    code, out, err = call("train", copy, "--json", "--quiet")
    settings, found = load(copy / "model").record_["settings"], json.loads(out)
    assert code == 0 and found["space"] <= 0.6 and set(found["dims"]) == {"user", "item"}, err
    assert (settings["backbone"], settings["hidden"], settings["dims"], settings["epochs"]) == ("FM", [8], [2, 4, 8], 3)
    assert (settings["min_count"], settings["exclude"]) == (2, ["price"])
    assert json.loads((copy / "dims.json").read_text()) == found["dims"]


def test_a_hand_in_dims_json_is_known_after_the_table_is_refreshed(copy, trained, tmp_path):
    table = Path(shutil.copy(trained.parent / "clicks.csv", tmp_path))
    (copy / "dims.json").write_text(json.dumps(OWN))
    table.write_text(table.read_text() + "u1,3,4.2,1\n")
    assert call("prepare", table, "--label", "click", "--run", copy)[0] == 0
    code, _, err = call("train", copy, *TRAIN, "--no-rivals")
    assert code == 1 and "dims.json was changed" in err and json.loads((copy / "dims.json").read_text()) == OWN


@pytest.mark.parametrize("step", ["search", "train"])
def test_a_table_prepared_beside_a_running_step_stays_whole(step, copy, trained, tmp_path, monkeypatch):
    """The run describes the new table, the step says that its own was another, and all goes on from there."""
    from autodim.app import steps

    table, do = write_clicks(tmp_path / "new.csv", 300, seed=7), getattr(steps, f"{step}_step")

    def beside(*arguments):
        assert call("prepare", table, "--label", "click", "--run", copy, "--min-count", "1")[0] == 0
        return do(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(steps, f"{step}_step", beside)
        code, _, err = call(step, copy, "--epochs", "1", "--quiet")
    run, manifest = (json.loads((copy / name).read_text()) for name in ("run.json", "table/manifest.json"))
    assert code == 0 and "prepared anew while" in err
    assert run["key"] == manifest["key"] and (run["table"], run["settings"]["min_count"]) == (str(table), 1)
    assert call("train", copy, *TRAIN, "--no-rivals")[0] == 0 and call("report", copy)[0] == 0


# ---------------------------------------------------------------- a search that cannot decide

@pytest.mark.parametrize("given, expected", [(["--f", "17"], "--f 2"), (["--batch-size", "401", "--f", "1"], "--batch-size 32"),
                                             (["--batch-size", "9999", "--f", "3"], "--batch-size 32, --f 2")])
def test_a_search_that_decides_nothing_says_what_to_set(given, expected, copy):
    code, _, err = call("search", copy, *SEARCH, *given)
    assert code == 0 and "the search decides nothing" in err and err.splitlines()[-1].endswith(f"set {expected}")
    assert "the search decides nothing" not in call("search", copy, *SEARCH, "--f", "15")[2]


# ---------------------------------------------------------------- what is left in the folder

def test_states_go_when_a_step_has_ended_and_another_budget_needs_no_search(trained, copy, tmp_path, monkeypatch):
    """Of the search its model and path stay, and choose what they chose with all of its state; --keep-state keeps all."""
    table, whole = trained.parent / "clicks.csv", tmp_path / "whole"
    assert call("prepare", table, "--label", "click", "--run", whole)[0] == 0
    assert call("search", whole, *SEARCH, "--keep-state")[0] == 0
    assert call("train", whole, *TRAIN, "--keep-state")[0] == 0
    kept = {path.name: path.stat().st_size for path in (whole / "state").iterdir()}
    left = {path.name: path.stat().st_size for path in (copy / "state").iterdir()}
    assert set(left) == {"search.state"} and left["search.state"] < kept["search.state"] and len(kept) > 2
    assert load(whole / "model").dims_ == load(copy / "model").dims_
    monkeypatch.setattr("autodim.method.search.run_epoch", lambda *_: pytest.fail("it searched again"))
    found = [call("train", run, "--max-space", "0.5", *TRAIN, "--json") for run in (whole, copy)]
    assert [code for code, *_ in found] == [0, 0] and not any("searching first" in err for *_, err in found)
    whole_found, copy_found = (json.loads(out) for _, out, _ in found)
    assert all(whole_found[name] == copy_found[name] for name in ("dims", "space", "outcomes", "differences"))
    assert [path.name for path in (whole / "state").iterdir()] == ["search.state"]


def test_train_without_a_search_says_that_it_searches(trained, tmp_path):
    run = tmp_path / "run"
    assert call("prepare", trained.parent / "clicks.csv", "--label", "click", "--run", run)[0] == 0
    code, _, err = call("train", run, *TRAIN, "--no-rivals")
    assert code == 0 and "no finished search" in err and "searching first, in 6 epochs" in err
    again = call("train", run, *TRAIN, "--no-rivals")[2]
    assert "searching first" not in again and "nothing is left to do" in again
    assert "nothing is left to do" not in call("train", run, *TRAIN, "--patience", "1", "--no-rivals")[2]


def test_a_model_that_another_version_trained_is_trained_again(copy):
    path = copy / "model" / "model.json"
    path.write_text(re.sub(r"autodim [0-9.]+\"", 'autodim 0.0.9"', path.read_text()))
    assert "nothing is left to do" not in call("train", copy, "--quiet")[2]
    assert "nothing is left to do" in call("train", copy, "--quiet")[2]


def test_a_log_has_no_bars(copy):
    """Where stderr is no terminal, though --quiet is not given."""
    process = start("search", copy, *SEARCH[:-3], "--f", "3")
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0 and err == "" and "\r" not in out


# ---------------------------------------------------------------- killed, interrupted, two at once

def start(*arguments: object) -> subprocess.Popen:
    """A command in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums round as they do here
    command = [sys.executable, "-c", "import sys; from autodim.app.cli import main; sys.exit(main())", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def saved(run: Path, name: str) -> bool:
    return any(run.glob(f"state/{name}*.state"))


@pytest.mark.slow
@pytest.mark.parametrize("end, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_killed_or_interrupted_steps_go_on_to_the_same_end(end, code, tmp_path):
    table = write_clicks(tmp_path / "t.csv", 1500)
    slow = ["--dims", "2,4,8", "--epochs", "12", "--hidden", "64", "--batch-size", "20", "--quiet"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    for folder in (whole, run):
        assert call("prepare", table, "--label", "click", "--run", folder)[0] == 0
    assert call("search", whole, *slow)[0] == 0 and call("train", whole, *TRAIN, "--no-rivals")[0] == 0
    for step, state in (("search", "search"), ("train", "train")):
        options = slow if step == "search" else [*TRAIN, "--no-rivals"]
        process = start(step, run, *options)
        until = time.monotonic() + 900
        while not saved(run, state) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(random.random() * 0.1)
        assert saved(run, state)
        process.send_signal(end)
        _, err = process.communicate(timeout=900)
        if process.returncode != 0:  # else it was faster than the signal
            assert process.returncode == code and (code != 130 or "goes on" in err)
        assert call(step, run, *options)[0] == 0
    assert (run / "dims.json").read_bytes() == (whole / "dims.json").read_bytes()
    frame = pd.read_csv(table)
    np.testing.assert_array_equal(load(run / "model").predict_proba(frame), load(whole / "model").predict_proba(frame))


@pytest.mark.parametrize("seed", range(3))
def test_several_at_once_leave_one_whole_run(seed, tmp_path):
    """The description of a run is that of its table, whichever of three was the last."""
    run, tables = tmp_path / "run", [write_clicks(tmp_path / f"t{i}.csv", 300 + 100 * i, seed=seed + i) for i in range(3)]
    options = [make_parser().parse_args(["prepare", str(table), "--label", "click", "--run", str(run), "--quiet"])
               for table in tables]
    threads = [threading.Thread(target=prepare_command, args=[each]) for each in options]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, manifest = (json.loads((run / name).read_text()) for name in ("run.json", "table/manifest.json"))
    assert found["key"] == manifest["key"] and Path(found["table"]).name == manifest["sources"][0]["file"]
    assert call("search", run, *SEARCH)[0] == 0 and not list(run.rglob("*.part*"))


@pytest.mark.slow
def test_two_processes_at_once_leave_one_whole_run(tmp_path):
    tables = [write_clicks(tmp_path / f"t{i}.csv", 300 + 100 * i, seed=i) for i in range(2)]
    run = tmp_path / "run"
    processes = [start("prepare", table, "--label", "click", "--run", run) for table in tables]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert call("search", run, *SEARCH)[0] == 0 and not list(run.rglob("*.part"))


def test_the_console_script_is_declared(root):
    assert "console_scripts = autodim=autodim.app.cli:main" in (root / "settings.ini").read_text()
    script = Path(sys.executable).parent / "autodim"
    if script.exists():
        done = subprocess.run([script, "--version"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("autodim ")


def test_a_missing_extra_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, out, err = call("export", trained, "--to", tmp_path, "--format", "onnx")
    assert code == 1 and out == "" and err.startswith("autodim: error: ") and "onnx" in err and len(err.splitlines()) == 1


# ---------------------------------------------------------------- of any size, in several processes

@pytest.mark.parametrize("split", [[], ["--stream"], ["--time", "item"]])
def test_a_table_in_two_files_is_prepared_searched_trained_and_exported(split, tmp_path):
    """`--stream`, which an earlier release needed for that, changes nothing."""
    write_clicks(tmp_path / "a.csv", 400, 1), write_clicks(tmp_path / "b.csv", 300, 2)
    run, tables = tmp_path / "run", [tmp_path / "a.csv", tmp_path / "b.csv"]
    code, out, err = call("prepare", *tables, "--label", "click", *split, "--run", run, "--json", "--quiet")
    found = json.loads(out)
    assert code == 0 and sum(found["rows"].values()) == 700 and found["numerical"] == ["price"], err
    assert found["split"] == ("item" if "--time" in split else "random")
    whole = pd.concat([pd.read_csv(table) for table in tables], ignore_index=True)
    expected = prepare(whole, "click", split=SplitOptions("item" if "--time" in split else None))
    manifest = json.loads((run / "table" / "manifest.json").read_text())
    assert manifest["fingerprint"] == expected.data.fingerprint  # as a frame
    assert call("search", run, *SEARCH, "--sparse")[0] == 0
    assert call("train", run, *TRAIN, "--no-rivals")[0] == 0
    assert load(run / "model").record_["settings"]["sparse"] is True
    assert call("export", run, "--format", "torchrec")[0] == 0 and call("report", run)[0] == 0
    before = (run / "table" / "manifest.json").stat().st_mtime_ns
    assert call("prepare", *tables, "--label", "click", *split, "--run", run, "--quiet")[0] == 0
    assert (run / "table" / "manifest.json").stat().st_mtime_ns == before  # it was there already
    shutil.rmtree(run / "table")
    code, out, err = call("train", run, *TRAIN)
    assert code == 1 and "table is missing or damaged: give `autodim prepare` again" in err


@pytest.mark.slow
def test_two_processes_search_and_train_as_one(tmp_path):
    """By torchrun, without dropout: the same dimensions, and test AUCs that differ by rounding."""
    table = write_clicks(tmp_path / "clicks.csv", 1000)
    assert call("prepare", table, "--label", "click", "--run", tmp_path / "one")[0] == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    search, train = [*SEARCH, "--dropout", "0", "--json"], [*TRAIN, "--no-rivals", "--json"]
    code = "import sys; from autodim.app.cli import main; sys.exit(main())"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python",
                sys.executable, "-c", code]
    found = {"one": [], "two": []}
    for command, options in (("search", search), ("train", train)):
        out = call(command, tmp_path / "one", *options)[1]
        found["one"].append(json.loads(out))
        done = subprocess.run([*torchrun, command, tmp_path / "two", *options], capture_output=True, text=True, timeout=900,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        found["two"].append(json.loads(done.stdout))  # printed once
    (one, one_trained), (two, two_trained) = found["one"], found["two"]
    assert one["dims"] == two["dims"]
    aucs = [trained["outcomes"][0]["test_auc"] for trained in (one_trained, two_trained)]
    assert aucs[0] == pytest.approx(aucs[1], abs=0.02)  # of 100 rows; 25_processes compares weights
    done = subprocess.run([*torchrun, "report", tmp_path / "two"], capture_output=True, text=True, timeout=900)
    assert done.returncode != 0 and "start this command without torchrun" in done.stderr


def test_codes_and_texts_that_mean_nothing_are_told_with_the_flag_and_read_as_it_says(tmp_path):
    rng, table = np.random.default_rng(0), tmp_path / "x.csv"
    prices = np.where(rng.random(400) < 0.03, rng.choice(["NA", "-"], 400), rng.gamma(2, 9, 400).round(2).astype(str))
    pd.DataFrame({"zip": rng.choice(["00501", "501"], 400), "price": prices, "click": rng.integers(0, 2, 400)}).to_csv(
        table, index=False)
    code, told, notes = call("prepare", table, "--label", "click", "--run", tmp_path / "run", "--json")
    assert code == 0 and json.loads(told)["numerical"] == [] and json.loads(told)["fields"]["zip"] == 3
    assert "no number is printed as '00501'" in notes and "name it in --numerical" in notes
    flag = re.search(r"say (--missing\S*(?: \S+)?)", notes)[1]
    code, told, notes = call("prepare", table, "--label", "click", "--run", tmp_path / "run", "--json", *flag.split(" "),
                             "--categorical", "zip")
    assert code == 0 and json.loads(told)["numerical"] == ["price"] and notes == ""


# ---------------------------------------------------------------- numbers that are embedded by functions

def test_kinds_of_numbers_are_kept_with_the_run_and_reach_every_step(tmp_path):
    """The estimator's kinds for the same flags; ONNX of raw rows with a missing number; another kind is trained anew."""
    clicks, run = write_clicks(tmp_path / "clicks.csv", 600), tmp_path / "run"
    frame = pd.read_csv(clicks, dtype={"item": str})
    frame.loc[::7, "price"] = np.nan
    frame.to_csv(clicks, index=False)
    prepare = ["prepare", clicks, "--label", "click", "--run", run, "--json"]
    code, out, _ = call(*prepare, "--numerical", "price:auto")
    assert code == 0 and json.loads(out)["embedded"] == {"price": "auto"} and json.loads(out)["numerical"] == ["price"]
    assert call("search", run, *SEARCH)[0] == 0
    assert call("train", run, *TRAIN)[0] == 0
    kept = load(run / "model")
    assert kept.numbers_.keys() == {"price"} and kept.numbers_["price"] in ENCODINGS[1:]
    code, out, err = call(*prepare, "--numerical", "price:piecewise")
    assert code == 0 and json.loads(out)["embedded"] == {"price": "piecewise"}
    code, out, err = call("report", run)  # of the model with the other kind, which is said
    assert code == 0 and "(numerical)" in err
    code, out, err = call("train", run, *TRAIN)
    assert code == 0 and "Numbers: price piecewise." in out and "searching first" not in err
    assert call("compress", run, "--max-loss", "5", "--quiet")[0] == 0
    code, out, _ = call("report", run)
    assert code == 0 and "Numbers: price piecewise." in out
    assert "numerical, piecewise" in (run / "report.html").read_text()
    for flags, folder in ((("--uncompressed",), "export"), ((), "compressed/export")):
        code, out, err = call("export", run, "--format", "onnx", *flags)
        assert code == 0, err
        model = load(run / "model" if flags else run / "compressed")
        session = onnxruntime.InferenceSession(next((run / folder).glob("*.onnx")), providers=["CPUExecutionProvider"])
        rows = pd.read_csv(clicks, dtype={"item": str}).drop(columns="click").head(50)
        ids = encode_rows(rows, model.vocabularies_, model.schema_.missing).numpy().astype(np.int64)
        np.testing.assert_allclose(session.run(None, {"ids": ids})[0], model.predict_proba(rows)[:, 1], atol=1e-5)


def test_kinds_and_their_trainings_go_on_when_they_were_interrupted(tmp_path, monkeypatch):
    """Stopped in the search of kinds, then in the training: the model of a run that was not; no state is left."""
    clicks, runs = write_clicks(tmp_path / "clicks.csv", 600), [tmp_path / "whole", tmp_path / "run"]
    for run in runs:
        assert call("prepare", clicks, "--label", "click", "--run", run, "--numerical", "price:auto")[0] == 0
        assert call("search", run, *SEARCH)[0] == 0
    assert call("train", runs[0], *TRAIN)[0] == 0
    left = []
    for saves in (1, 2):  # of the search's two epochs the first; then the second, and the training's first
        with monkeypatch.context() as patch:
            real, done = FileCheckpoint.save, []

            def save(self, state):
                real(self, state)
                done.append(self.path.name)
                if len(done) == saves:
                    raise KeyboardInterrupt

            patch.setattr(FileCheckpoint, "save", save)
            code, _, err = call("train", runs[1], *TRAIN)
            assert code == 130 and "goes on" in err
            left.append(done)
    assert left[0] == ["train-kinds.state"] and left[1][0] == left[0][0] and left[1][1].startswith("train-")
    assert left[1][1] != left[0][0]
    with monkeypatch.context() as patch:
        patch.setattr("autodim.method.search.run_epoch", lambda *_: pytest.fail("it searched again"))
        assert call("train", runs[1], *TRAIN)[0] == 0
    assert [path.name for path in (runs[1] / "state").iterdir()] == ["search.state"]
    frame, (one, other) = pd.read_csv(clicks).drop(columns="click"), (load(run / "model") for run in runs)
    assert one.numbers_ == other.numbers_
    np.testing.assert_array_equal(one.predict_proba(frame), other.predict_proba(frame))


@pytest.mark.parametrize("column, words", [
    ([f"s{i % 4}" for i in range(500)],
     "row 0 (counted from 0): column 'shop': 's0' is no number value, and none of the column's values is one; name the "
     "column in --categorical, not in --numerical"),
    ([f"s{i}" if i == 7 else str(i) for i in range(500)], "row 7 (counted from 0): column 'shop': 's7' is no number"),
    (np.where(np.arange(500) == 7, np.inf, np.arange(500) % 9 + 0.5), "row 7 (counted from 0): column 'shop': 'inf' is no number value"),
    (np.where(np.arange(500) % 3 == 0, np.nan, 1.5), "field 'shop' cannot be embedded as a number: it has one value alone; "
     "take a number of buckets for it in --numerical, or name it in --exclude"),
], ids=["text", "a text", "infinite", "one value and holes"])  # fmt: skip
def test_a_column_that_cannot_be_embedded_is_refused_with_the_way_out(column, words, tmp_path):
    """Before anything is searched; what is said does help."""
    clicks, run = write_clicks(tmp_path / "clicks.csv"), tmp_path / "run"
    pd.read_csv(clicks).assign(shop=column).to_csv(clicks, index=False)
    prepare = ["prepare", clicks, "--label", "click", "--run", run]
    code, _, err = call(*prepare, "--numerical", "shop:auto")
    if code == 0:
        code, _, err = call("search", run, *SEARCH)
    assert code == 1 and words in err and not (run / "dims.json").exists()
    help_of = {"one": ["--numerical", "shop:4"], "way": ["--exclude", "shop"]} if "alone" in words else {
        "one": ["--categorical", "shop"]}
    for flags in help_of.values():
        assert call(*prepare, *flags)[0] == 0 and call("search", run, *SEARCH)[0] == 0


@pytest.mark.parametrize("value", [3.5, np.nan])
def test_a_number_without_a_second_value_is_left_out_with_a_note(value, tmp_path):
    clicks, run = write_clicks(tmp_path / "clicks.csv"), tmp_path / "run"
    pd.read_csv(clicks).assign(price=value).to_csv(clicks, index=False)
    code, out, err = call("prepare", clicks, "--label", "click", "--run", run, "--numerical", "price:auto", "--json")
    assert code == 0 and "left out: 'price' (" in err and json.loads(out)["numerical"] == []
    assert "Name a column in --categorical, and not in --numerical, to keep it" in err
    assert call("search", run, *SEARCH)[0] == 0 and call("train", run, *TRAIN, "--no-rivals")[0] == 0
    assert load(run / "model").numbers_ == {}


def test_a_number_that_no_function_can_have_is_named_before_the_search(tmp_path):
    clicks, run = write_clicks(tmp_path / "clicks.csv"), tmp_path / "run"
    assert call("prepare", clicks, "--label", "click", "--run", run, "--numerical", "price:auto")[0] == 0
    code, _, err = call("search", run, *SEARCH, "--backbone", "FM")
    assert code == 1 and "backbone FM has a weight for each id" in err and "price" in err and not (run / "dims.json").exists()
