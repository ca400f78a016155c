"""autodim.app.workflow: from a frame to a record, each number against loops over rows, fields and pairs."""

import json
import math
import re
import warnings
from collections import Counter
from dataclasses import replace
from datetime import date
from datetime import time as clock
from decimal import Decimal
from functools import partial
from itertools import count, product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

import autodim.app.workflow
import autodim.method.retrain
import autodim.method.search
from autodim.data.files import DataError
from autodim.data.split import SplitOptions, parts_of_rows, split_of
from autodim.method.metrics import delong
from autodim.method.choice import Choice
from autodim.method.metrics import Metrics
from autodim.method.models import DLRS
from autodim.training.checkpoint import FileCheckpoint
from autodim.method.retrain import TrainConfig
from autodim.method.search import SearchConfig, supernet_auc
from autodim.data.prepare import open_prepared
from autodim.training.runtime import Runtime
from autodim.app.storage import Trained, load_trained, save_trained
from autodim.data.columns import ColumnOptions
from autodim.data.table import encode_rows, open_table, read_table
from autodim.data.table import prepare as prepare_table
from autodim.data.vocabulary import vocabulary_from_dict, vocabulary_to_dict
from autodim.method.backbones import Network
from oracles import bucket_edges
from autodim.app.workflow import (
    NO_VERDICT, SAME, auc_space_curve, choice_record, choose, combined_interval, decision, differences,
    encoded_training, interval_words, make_record, rivals, search_dims, search_kinds, train_dims, uniform_within,
)  # fmt: skip

N = 300
S = pd.Series


def prepare(table, label, time=None, validation=0.1, test=0.1, seed=0, folder=None, **options):
    """`prepare` with the options by name."""
    return prepare_table(table, label, ColumnOptions(**options), SplitOptions(time, validation, test, seed), folder)


def cycled(*values, dtype=None) -> pd.Series:
    """Values by uneven turns, so that some are rare."""
    return pd.Series([values[int(i) % len(values)] for i in np.sqrt(np.arange(N) * 7)], dtype=dtype)


def table(seed: int = 0) -> pd.DataFrame:
    """Four columns, three of which the label depends on."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 12, N),
            "land": rng.choice(["a", "b", "c"], N),
            "price": rng.gamma(2, 3, N),
            "hour": rng.integers(0, 24, N),
        }
    )
    logit = np.sin(frame.user) * 2 + (frame.land == "b") + frame.price / 5 - 1.5
    return frame.assign(click=(rng.random(N) < 1 / (1 + np.exp(-logit))).astype(int))


BASE = table()
NETWORK = Network("MLP", (8,), 0.1)
SEARCH = SearchConfig(dims=(2, 4), epochs=3, f=2, batch_size=60, tau_decay=0.05)
TRAIN = TrainConfig(epochs=4, patience=3, batch_size=60, lr=0.01)
QUIET = Runtime(progress=False)


@pytest.fixture(scope="module")
def prepared():
    return prepare(BASE, "click", min_count=2)


@pytest.fixture(scope="module")
def found(prepared):
    return search_dims(prepared, SEARCH, NETWORK, QUIET)


def quietly(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


# ---------------------------------------------------------------- prepare


def missing(value) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value


@pytest.mark.parametrize("min_count", [1, 2, 9])
def test_prepare_by_loops(min_count):
    """Ids of text by counting in the training rows; the split by the rows' own labels."""
    frame = BASE.assign(word=cycled("x", "y", "z", None, "rare"), click=np.where(BASE.click == 1, "yes", "no"))
    made = prepare(frame, "click", min_count=min_count, validation=0.2, test=0.3, seed=4)
    split = split_of(parts_of_rows((frame.click == "yes").to_numpy().astype(np.int8), SplitOptions(None, 0.2, 0.3, 4)))
    assert made.classes.tolist() == ["no", "yes"] and made.split == "random"
    assert made.data.fields == made.schema.fields == ("user", "land", "price", "hour", "word")
    for m, name in enumerate(made.data.fields):
        values = [None if missing(v) else v for v in frame[name].tolist()]
        if name == "price":
            edges = bucket_edges(np.array(values)[split.train], 20)
            values = [sum(v >= e for e in edges) for v in values]
        counts = Counter(values[row] for row in split.train)
        known = sorted(v for v, c in counts.items() if v is not None and c >= min_count) + [None] * (
            counts[None] >= min_count
        )
        assert made.data.cardinalities[m] == 1 + len(known)
        for part, rows in zip((made.data.train, made.data.val, made.data.test), split):
            assert part.ids[:, m].tolist() == [known.index(values[r]) + 1 if values[r] in known else 0 for r in rows]
            assert part.labels.tolist() == [float(frame.click[r] == "yes") for r in rows]


KINDS = {
    "text": cycled("a", "b", "c"),
    "text and holes": cycled("a", None, "b"),
    "string": cycled("a", pd.NA, dtype="string"),
    "arrow": cycled("a", None, dtype="string[pyarrow]"),
    "whole": cycled(3, 1, 2),
    "whole floats": cycled(3.0, 1.0, np.nan),
    "Int64": cycled(3, pd.NA, 1, dtype="Int64"),
    "UInt8": cycled(3, pd.NA, dtype="UInt8"),
    "arrow whole": cycled(3, None, dtype="int64[pyarrow]"),
    "truth": cycled(True, False),
    "boolean": cycled(True, pd.NA, False, dtype="boolean"),
    "truth objects": cycled(True, None, False, dtype=object),
    "fractions": cycled(0.5, 1.0, 7.25, np.nan),
    "Float64": cycled(0.5, pd.NA, 3.0, dtype="Float64"),
    "float32": cycled(0.1, 2.7, dtype="float32"),
    "objects of fractions": cycled(0.5, None, 2, dtype=object),
    "whole and text": cycled(1, "a", None, "1", dtype=object),
    "objects of whole": cycled(1, None, 2, dtype=object),
    "categories": cycled("b", "a", None, dtype="category"),
    "unused categories": S(pd.Categorical(cycled("a", "b"), ["z", "b", "a"])),
    "categories of numbers": cycled(2, 1).astype("category"),
    "far": cycled(2**60, 2**60 + 1),
    "unsigned": cycled(2**64 - 1, 2**64 - 2, dtype="uint64"),
    "negative": cycled(-1, 0, 1),
    "words of numbers": cycled("7", "07", "7.0"),
    "empty text": cycled("", " ", "nan"),
    "lines": cycled("a\nb", 'x"y', "ß€😀"),
}
NAMED = {  # kept as they are, since they are named
    "fractions": cycled(0.1, 0.30000000000000004, np.nan),
    "float32": cycled(0.1, 0.3, dtype="float32"),
    "dates": cycled(*pd.date_range("2026-01-01", periods=3)),
    "dates and holes": cycled(pd.Timestamp("2026-01-01 12:30:00.123456"), pd.NaT),
    "an id": S(range(N)),
    "nothing": S([None] * N, dtype=object),
    "NaN alone": S([np.nan] * N),
    "one value": S(["a"] * N),
    "spelt": S([f"{i:03}" for i in range(N)]),
}


@pytest.mark.parametrize("min_count", [1, 30])
@pytest.mark.parametrize("name, named", [(n, False) for n in KINDS] + [(n, True) for n in NAMED])
def test_rows_of_training_are_encoded_alike_also_by_a_model_that_was_loaded(name, named, min_count, tmp_path):
    frame = BASE[["user", "click"]].assign(it=(NAMED if named else KINDS)[name])
    before = frame.copy(deep=True)
    made = prepare(frame, "click", categorical=["it"] if named else [], min_count=min_count, seed=1)
    pd.testing.assert_frame_equal(frame, before)
    assert made.data.fields == ("user", "it")
    split = split_of(parts_of_rows(frame.click.to_numpy(np.int8), SplitOptions(seed=1)))
    model = DLRS(made.data.cardinalities, [2, 3], Network("MLP", (4,), 0.0)).eval()
    save_trained(
        Trained(made.schema, made.data.vocabularies, made.classes, {"user": 2, "it": 3}, model, Network("MLP", (4,), 0.0), {}),
        tmp_path,
    )
    loaded = load_trained(tmp_path)
    assert loaded.schema == made.schema and loaded.classes.tolist() == made.classes.tolist()
    for vocabularies in (made.data.vocabularies, loaded.vocabularies):
        for part, rows in zip((made.data.train, made.data.val, made.data.test), split):
            assert quietly(lambda v=vocabularies, r=rows: encode_rows(frame.iloc[r], v)).equal(part.ids)
        shuffled = frame.sample(frac=1, random_state=0)[["it", "user"]]
        assert (
            quietly(lambda v=vocabularies, s=shuffled: encode_rows(s, v))[:, 1].tolist()
            == quietly(lambda v=vocabularies: encode_rows(frame, v))[shuffled.index, 1].tolist()
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_columns_and_the_index_change_nothing_else(seed, prepared):
    order = np.random.default_rng(seed).permutation(BASE.columns).tolist()
    made = prepare(BASE[order].set_index(pd.Index([7] * N)), "click", min_count=2)
    fields = [c for c in order if c != "click"]
    place = [prepared.data.fields.index(f) for f in fields]
    assert list(made.data.fields) == fields and made.schema.buckets == prepared.schema.buckets
    assert made.data.cardinalities == tuple(prepared.data.cardinalities[p] for p in place)
    for one, other in (
        (made.data.train, prepared.data.train),
        (made.data.val, prepared.data.val),
        (made.data.test, prepared.data.test),
    ):
        assert one.ids.equal(other.ids[:, place]) and one.labels.equal(other.labels)


def test_by_time_the_oldest_rows_train_and_time_is_no_field():
    when = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.random.default_rng(0).permutation(N), "h")
    frame = BASE.assign(when=when)
    made = prepare(frame, "click", time="when", validation=0.2, test=0.2)
    assert made.split == "when" and "when" not in made.data.fields and made.schema.left_out == {"when": "excluded"}
    ordered = frame.sort_values("when").click.tolist()
    assert Counter(made.data.train.labels.tolist()) == Counter(map(float, ordered[:180]))
    assert Counter(made.data.test.labels.tolist()) == Counter(map(float, ordered[240:]))
    assert "hour" in prepare(BASE, "click", time="hour", categorical=["hour"]).data.fields
    assert "hour" not in prepare(BASE, "click", time="hour").data.fields
    assert prepare(frame, "click", time="when", exclude=["when", "land"]).data.fields == ("user", "price", "hour")


@pytest.mark.parametrize("label", ["self", "label", "0", "a b", "buckets"])
def test_any_name_of_the_label(label):
    assert prepare(BASE.rename(columns={"click": label}), label).data.fields == ("user", "land", "price", "hour")


BAD = {
    "intervals": (
        dict(it=pd.cut(np.arange(N), 3)),
        {},
        DataError,
        "field 'it': JSON cannot hold its value Interval.*make the column strings",
    ),
    "bytes": (dict(it=[b"a", b"\xff"] * (N // 2)), {}, DataError, "column 'it' holds bytes that are no UTF-8 text"),
    "infinity": (
        dict(it=cycled(np.inf, 1.0)),
        {"categorical": ["it"]},
        DataError,
        "column 'it' row 0: inf is not a number",
    ),
    "infinite number": (
        dict(price=BASE.price.where(BASE.index != 123, np.inf)),
        {},
        DataError,
        "column 'price' row 123: inf is not a number .*make it missing",
    ),
    "text in numbers": (
        dict(it=["1.5"] * 211 + ["x"] + ["2"] * (N - 212)),
        {"numerical": {"it": 3}},
        DataError,
        "column 'it' row 211: 'x' is not a number",
    ),
    "three classes": (dict(click=np.arange(N) % 3), {}, DataError, "label 'click' has 3 distinct values"),
    "one class": (dict(click=1), {}, DataError, "label 'click' has 1 distinct values"),
    "NaN labels": (
        dict(click=BASE.click.where(BASE.index != 17)),
        {},
        DataError,
        "label 'click' row 17: missing .in 1 of 300 rows.",
    ),
    "rare class": (dict(click=[1] * 2 + [0] * (N - 2)), {}, DataError, "2 rows of class 1 among 300"),
    "a part of one class": (
        dict(click=[0, 1] * 120 + [0] * 60, when=range(N)),
        {"time": "when"},
        DataError,
        "label 'click': all of the val are 0",
    ),
    "text for time": (
        dict(when=["9/12/2025"] * N),
        {"time": "when"},
        DataError,
        "time 'when' row 0: '9/12/2025', expected dates or numbers",
    ),
    "no such time": ({}, {"time": "when"}, DataError, "time: column 'when' is not in the table; it has user"),
    "missing time": (dict(when=[*range(N - 1), None]), {"time": "when"}, DataError, "row 299: time 'when': missing"),
    "label for time": ({}, {"time": "click"}, ValueError, "time='click' is the label; name the column that orders"),
    "text for a list": (
        {},
        {"exclude": "land", "time": "hour"},
        ValueError,
        "exclude: 'land' is text, expected a list",
    ),
    "text for another list": ({}, {"categorical": "land"}, ValueError, "categorical: 'land' is text, expected a list"),
    "label excluded": ({}, {"exclude": ["click"]}, ValueError, "'click' is named by label and by exclude"),
    "shares": (
        {},
        {"validation": 0.6, "test": 0.4},
        ValueError,
        "validation=0.6, test=0.4: expected two positive shares",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_trained(name):
    columns, options, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        quietly(lambda: prepare(BASE.assign(**columns), "click", **options))


def test_two_rows():
    with pytest.raises(DataError, match="no column is left|1 rows of class 0 among 2"):
        quietly(lambda: prepare(BASE.iloc[:2].assign(click=[0, 1]), "click"))
    with pytest.raises(DataError, match="1 rows of class 0 among 2 .*more data"):
        prepare(pd.DataFrame({"a": ["x", "x", "y"], "click": [0, 1, 1]}).iloc[[0, 2]], "click", categorical=["a"])


# ---------------------------------------------------------------- find and train, interrupted


class Interrupted(BaseException):
    """As Ctrl-C."""


def interrupt_after(monkeypatch, saves: int) -> None:
    """The process is stopped right after so many saves."""
    real, left = FileCheckpoint.save, [saves]

    def save(self, state) -> None:
        real(self, state)
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    monkeypatch.setattr(FileCheckpoint, "save", save)


def same_weights(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def same_search(one, other) -> bool:
    return (
        one.alpha.equal(other.alpha)
        and one.dims == other.dims
        and same_weights(one.model, other.model)
        and all(one.history[name].nan_to_num(-9).equal(other.history[name].nan_to_num(-9)) for name in one.history)
    )


@pytest.mark.parametrize("saves", [1, 2])
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(saves, prepared, found, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves)
        with pytest.raises(Interrupted):
            search_dims(prepared, SEARCH, NETWORK, QUIET, tmp_path)
    epochs, real = [], autodim.method.search.run_epoch
    monkeypatch.setattr(autodim.method.search, "run_epoch", lambda *args: epochs.append(1) or real(*args))
    torch.rand(3)
    assert same_search(search_dims(prepared, SEARCH, NETWORK, QUIET, str(tmp_path)), found)
    assert len(epochs) == 3 - saves
    assert (
        same_search(search_dims(prepared, SEARCH, NETWORK, QUIET, tmp_path), found)
        and len(epochs) == 3 - saves
    )
    assert [p.name for p in tmp_path.iterdir()] == ["search.state"]


def test_a_damaged_state_begins_anew_with_a_warning(prepared, found, tmp_path):
    search_dims(prepared, SEARCH, NETWORK, QUIET, tmp_path)
    path = tmp_path / "search.state"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="search.state is damaged .* counts as missing"):
        again = search_dims(prepared, SEARCH, NETWORK, QUIET, tmp_path)
    assert same_search(again, found)


OTHERS = {
    "seed": dict(runtime=replace(QUIET, seed=1)),
    "settings": dict(config=replace(SEARCH, f=3)),
    "network": dict(network=Network("MLP", (4,), 0.1)),
    "dropout": dict(network=Network("MLP", (8,), 0.2)),
    "backbone": dict(network=Network("WideDeep", (8,), 0.1)),
    "data": dict(prepared=prepare(table(1), "click", min_count=2)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_search_does_not_go_on_from_this_one(name, prepared, tmp_path):
    usual = dict(prepared=prepared, config=SEARCH, network=NETWORK, runtime=QUIET)
    search_dims(**usual, folder=tmp_path)
    assert same_search(search_dims(**usual | OTHERS[name], folder=tmp_path), search_dims(**usual | OTHERS[name]))


DIMS = {"user": 2, "land": 4, "price": 2, "hour": 4}


def same_outcome(one: Choice, other: Choice) -> bool:
    return (
        (one.dims, one.history, one.best_epoch, one.val, one.test)
        == (other.dims, other.history, other.best_epoch, other.val, other.test)
        and same_weights(one.model, other.model)
        and one.scores.tolist() == other.scores.tolist()
    )


@pytest.mark.parametrize("saves", [1, 3])
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(saves, prepared, tmp_path, monkeypatch):
    run = partial(train_dims, prepared, DIMS, 4, TRAIN, NETWORK, runtime=QUIET)
    whole = run()
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves)
        with pytest.raises(Interrupted):
            run(folder=tmp_path)
    epochs, real = [], autodim.method.retrain.train_epoch
    monkeypatch.setattr(autodim.method.retrain, "train_epoch", lambda *args: epochs.append(1) or real(*args))
    assert same_outcome(run(folder=tmp_path), whole) and len(epochs) == len(whole.history) - saves
    assert same_outcome(run(folder=tmp_path), whole) and len(epochs) == len(whole.history) - saves
    another = replace(QUIET, seed=1)
    other = run(folder=tmp_path, runtime=another)
    assert same_outcome(other, run(runtime=another)) and not same_weights(other.model, whole.model)


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_does_not_go_on_from_this_one(name, prepared, tmp_path):
    usual = dict(prepared=prepared, config=TRAIN, network=NETWORK, runtime=QUIET)
    changed = usual | OTHERS[name] | (dict(config=replace(TRAIN, lr=0.02)) if name == "settings" else {})
    run = partial(train_dims, dims=DIMS, d_max=4)
    run(**usual, folder=tmp_path)
    assert same_outcome(run(**changed, folder=tmp_path), run(**changed))


def test_each_choice_of_dimensions_has_its_own_file(prepared, tmp_path):
    short = replace(TRAIN, epochs=1)
    for widths in ((2, 4, 2, 4), (4, 2, 2, 4), (2, 2, 2, 2), (24, 2, 4, 2)):
        train_dims(prepared, dict(zip(DIMS, widths)), 24, short, NETWORK, QUIET, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    wide = prepare(
        pd.DataFrame({f"f{i}": (np.arange(60) + i) % 7 for i in range(30)} | {"click": [0, 1] * 30}), "click"
    )
    for last in (2, 4):  # too many fields for a name that lists their dimensions
        dims = {f"f{i}": 4 for i in range(29)} | {"f9": 2, "f29": last}
        train_dims(wide, dims, 4, short, NETWORK, QUIET, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6 and max(len(p.name) for p in tmp_path.iterdir()) < 80


@pytest.fixture(scope="module")
def numbers():
    return prepare(BASE, "click", min_count=2, numerical={"price": "fine", "hour": "fine"})


KINDS_ASKED = {"price": "periodic", "hour": "tree"}


def stretched():
    """Other numbers in the same order, so that all ids are the same."""
    frame = BASE.assign(hour=BASE.hour**2)
    return prepare(frame, "click", min_count=2, numerical={"price": "fine", "hour": "fine"})


@pytest.mark.parametrize("saves", [1, 3])
def test_a_training_of_numbers_goes_on_as_one_of_others_does(saves, numbers, tmp_path, monkeypatch):
    run, given = encoded_training(KINDS_ASKED), (numbers, DIMS, 4, TRAIN, NETWORK)
    whole = run(*given, QUIET)
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves)
        with pytest.raises(Interrupted):
            encoded_training(KINDS_ASKED, tmp_path)(*given, QUIET)
    epochs, real = [], autodim.method.retrain.train_epoch
    monkeypatch.setattr(autodim.method.retrain, "train_epoch", lambda *args: epochs.append(1) or real(*args))
    torch.rand(3)
    for _ in range(2):  # the second time there is nothing left to train
        assert same_outcome(encoded_training(KINDS_ASKED, str(tmp_path))(*given, QUIET), whole)
        assert len(epochs) == len(whole.history) - saves
    another = replace(QUIET, seed=1)
    other = encoded_training(KINDS_ASKED, tmp_path)(*given, another)
    assert same_outcome(other, run(*given, another)) and not same_weights(other.model, whole.model)


OTHER_NUMBERS = {
    "kind": ({"price": "autodis", "hour": "tree"}, {}),
    "same kinds of other fields": ({"hour": "periodic", "price": "tree"}, {}),
    "none": ({}, {}),
    "numbers": (KINDS_ASKED, dict(prepared=stretched())),
    "dimensions": (KINDS_ASKED, dict(dims=DIMS | {"price": 4})),
    "settings": (KINDS_ASKED, dict(config=replace(TRAIN, lr=0.02))),
}


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_another_kind_or_another_number_takes_no_state(name, numbers, tmp_path):
    """Though ids and labels, and so the fingerprint, are the same."""
    usual = dict(prepared=numbers, dims=DIMS, d_max=4, config=TRAIN, network=NETWORK, runtime=QUIET)
    kinds, changed = OTHER_NUMBERS[name]
    assert changed.get("prepared", numbers).data.fingerprint == numbers.data.fingerprint
    first = encoded_training(KINDS_ASKED, tmp_path)(**usual)
    run = partial(train_dims, folder=tmp_path) if name == "none" else encoded_training(kinds, tmp_path)
    other = run(**usual | changed)
    assert same_outcome(other, (encoded_training(kinds) if kinds else train_dims)(**usual | changed))
    assert not np.array_equal(other.scores, first.scores)


def searched_kinds(monkeypatch) -> list:
    """What each search of kinds will have found."""
    found, real = [], autodim.app.workflow.search_encodings
    monkeypatch.setattr(autodim.app.workflow, "search_encodings", lambda *of: found.append(real(*of)) or found[-1])
    return found


def same_kinds(one, other) -> bool:
    return (
        one.encodings == other.encodings
        and one.alpha.equal(other.alpha)
        and same_weights(one.model, other.model)
        and all(one.history[name].equal(other.history[name]) for name in one.history)
    )


@pytest.mark.filterwarnings("ignore:the search of kinds")
@pytest.mark.parametrize("saves", [1, 2])
def test_a_search_of_kinds_goes_on_as_if_it_had_not_been_interrupted(saves, numbers, tmp_path, monkeypatch):
    found = searched_kinds(monkeypatch)
    run = partial(search_kinds, numbers, {"price": "auto", "hour": "tree"}, DIMS, SEARCH, NETWORK, QUIET)
    whole = run()
    with monkeypatch.context() as patch:
        interrupt_after(patch, saves)
        with pytest.raises(Interrupted):
            run(tmp_path)
    epochs, real = [], autodim.method.search.run_epoch
    monkeypatch.setattr(autodim.method.search, "run_epoch", lambda *args: epochs.append(1) or real(*args))
    torch.rand(3)
    for _ in range(2):
        assert run(tmp_path) == whole and whole["hour"] == "tree"
        assert same_kinds(found[-1], found[0]) and len(epochs) == 3 - saves
    assert [p.name for p in tmp_path.iterdir()] == ["train-kinds.state"]


@pytest.mark.filterwarnings("ignore:the search of kinds")
@pytest.mark.parametrize("changed", [
    dict(asked={"price": "auto", "hour": "auto"}), dict(asked={"price": "auto"}), dict(prepared=stretched()),
    dict(dims=DIMS | {"price": 4}), dict(runtime=replace(QUIET, seed=1)), dict(config=replace(SEARCH, f=3)),
], ids=["fields", "field", "numbers", "dimensions", "seed", "settings"])  # fmt: skip
def test_another_search_of_kinds_takes_no_state(changed, numbers, tmp_path, monkeypatch):
    found = searched_kinds(monkeypatch)
    usual = dict(prepared=numbers, asked={"hour": "auto"}, dims=DIMS, config=SEARCH, network=NETWORK, runtime=QUIET)
    assert changed.get("prepared", numbers).data.fingerprint == numbers.data.fingerprint
    search_kinds(**usual, folder=tmp_path)
    search_kinds(**usual | changed, folder=tmp_path)
    search_kinds(**usual | changed)
    assert same_kinds(found[1], found[2]) and not same_weights(found[0].model, found[1].model)


@pytest.mark.filterwarnings("ignore:the search of kinds")
def test_kinds_are_searched_at_the_size_in_which_they_are_trained(numbers, monkeypatch):
    """A field of width 2 beside one of width 4 has half the numbers, in the search as afterwards."""
    found = searched_kinds(monkeypatch)
    search_kinds(numbers, {"price": "auto", "hour": "auto"}, DIMS | {"price": 4, "hour": 2}, SEARCH, NETWORK, QUIET)
    for mixture, width in zip(found[0].model.mixtures, (4, 2)):
        sizes = [sum(q.numel() for q in table.parameters()) for table in mixture.tables]
        assert sizes[0] == 21 * width and max(sizes) <= 21 * width and sizes[-1] == 0  # buckets; all; left out


def test_a_search_of_kinds_that_decided_nothing_says_so(numbers):
    run = partial(search_kinds, numbers, {"price": "auto", "hour": "tree"}, DIMS, network=NETWORK, runtime=QUIET)
    with pytest.warns(UserWarning, match="kinds for price decided nothing: 6 steps of α left its entropy at 1.00"):
        run(config=replace(SEARCH, alpha_lr=1e-4))
    with pytest.warns(UserWarning, match="decided nothing: 1 steps of α"):
        run(config=replace(SEARCH, f=1000, alpha_lr=5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(config=replace(SEARCH, f=1, alpha_lr=1.0))


def test_an_outcome_by_its_own_model_and_explicit_sums(prepared):
    outcome = train_dims(prepared, dict(reversed(DIMS.items())), 4, TRAIN, NETWORK, QUIET)
    data, labels = prepared.data, prepared.data.test.labels.numpy()
    assert list(outcome.dims.items()) == list(DIMS.items())
    parameters = widest = 0
    for field, rows in zip(data.fields, data.cardinalities):
        parameters, widest = parameters + DIMS[field] * rows, widest + 4 * rows
    assert outcome.parameters == parameters and outcome.space == pytest.approx(parameters / widest)
    assert sum(table.weight.numel() for table in outcome.model.embedding.tables) == parameters
    with torch.no_grad():
        scores = outcome.model(data.test.ids).numpy()
    assert not outcome.model.training and np.allclose(outcome.scores, scores, atol=1e-6)
    assert outcome.test.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert outcome.test.logloss == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-scores.astype(float)))), abs=1e-6)
    assert outcome.val.auc == max(row["auc_val"] for row in outcome.history)
    assert outcome.history[outcome.best_epoch - 1]["auc_val"] == outcome.val.auc


def test_test_rows_decide_nothing(prepared, found):
    data = prepared.data
    other = replace(prepared, data=replace(data, test=data.test._replace(labels=1 - data.test.labels)))
    one, two = (train_dims(p, DIMS, 4, TRAIN, NETWORK, QUIET) for p in (prepared, other))
    assert same_weights(one.model, two.model) and one.val == two.val and one.test.auc == pytest.approx(1 - two.test.auc)
    assert same_search(search_dims(other, SEARCH, NETWORK, QUIET), found)


# ---------------------------------------------------------------- did the search decide?


@pytest.mark.parametrize("alpha, steps, decided", [
    ([[0.5, 0.5], [0.5, 0.5]], 60, False), ([[0.6, 0.4], [0.65, 0.35]], 60, False),
    ([[0.9, 0.1], [0.5, 0.5]], 60, True), ([[0.9, 0.1], [0.5, 0.5]], 4, False), ([[1.0, 0.0], [0.0, 1.0]], 5, True)])
def test_a_search_has_decided_by_entropy_and_steps(alpha, steps, decided, found):
    entropy = np.mean([-sum(p * math.log2(p) for p in row if p > 0) for row in alpha])
    made = decision(replace(found, alpha=torch.tensor(alpha), history=found.history | {"step": torch.arange(steps)}))
    assert made == {"decided": decided, "entropy": pytest.approx(entropy, abs=6e-5), "alpha_steps": steps}


# ---------------------------------------------------------------- choose


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_choice_is_the_most_probable_that_fits_by_trying_all(seed, multiple, prepared):
    rng, grid, data = np.random.default_rng(seed), (2, 4, 6), prepared.data
    alpha = torch.tensor(rng.dirichlet([1, 1, 1], len(data.fields)), dtype=torch.float32)
    size = {d: -(-d // multiple) * multiple for d in grid}

    def cost(widths) -> int:
        return sum(size[d] * rows for d, rows in zip(widths, data.cardinalities))

    def score(widths) -> float:
        return sum(math.log(alpha[m, grid.index(d)]) for m, d in enumerate(widths))

    every = list(product(grid, repeat=len(data.fields)))
    full = size[6] * sum(data.cardinalities)
    free = [grid[int(row.argmax())] for row in alpha]
    assert list(choose(prepared, alpha, grid, multiple=multiple).values()) == free
    assert list(choose(prepared, alpha, grid, max_space=1.0, multiple=multiple).values()) == free
    for share in (0.4, 0.5, 0.7, 0.9):
        limits = {"max_space": (share, share * full), "max_bytes": (int(share * full * 4), share * full)}
        for option, (value, limit) in limits.items():
            if cost([2] * 4) > limit:
                with pytest.raises(ValueError, match="too small: the smallest tables possible"):
                    choose(prepared, alpha, grid, multiple=multiple, **{option: value})
                continue
            chosen = choose(prepared, alpha, grid, multiple=multiple, **{option: value})
            assert list(chosen) == list(data.fields) and cost(chosen.values()) <= limit + 1e-6
            best = max(score(w) for w in every if cost(w) <= limit + 1e-6)
            assert score(chosen.values()) == pytest.approx(best, abs=1e-6)


def test_one_budget_at_a_time(prepared, found):
    with pytest.raises(ValueError, match="give exactly one of the two"):
        choose(prepared, found.alpha, SEARCH.dims, max_space=0.5, max_bytes=1000)


# ---------------------------------------------------------------- rivals and differences


@pytest.mark.parametrize("seed", range(40))
def test_rivals_are_the_whole_numbers_around_equal_space(seed):
    rng = np.random.default_rng(seed)
    fields, d_max = [f"f{m}" for m in range(4)], int(rng.integers(4, 12))
    rows = rng.integers(1, 100, 4).tolist()
    widths = rng.integers(1, d_max + 1, 4).tolist() if seed % 4 else [int(rng.integers(1, d_max + 1))] * 4
    data = SimpleNamespace(fields=tuple(fields), cardinalities=tuple(rows))
    made = rivals(dict(zip(fields, widths)), data, d_max)
    used = sum(d * v for d, v in zip(widths, rows))
    names = list(made)
    assert names[-1] == "widest" and set(made["widest"].values()) == {d_max} and list(made["widest"]) == fields
    around = [next(iter(made[name].values())) for name in names[:-1]]
    assert names[:-1] == [f"uniform {d}" for d in around] and all(
        set(made[n].values()) == {d} for n, d in zip(names, around)
    )
    exact = [d for d in range(1, d_max + 1) if d * sum(rows) == used]
    below = max((d for d in range(1, d_max + 1) if d * sum(rows) <= used), default=None)
    expected = exact or [below, below + 1]
    assert around == [d for d in expected if d != d_max]


def test_a_uniform_choice_has_itself_and_the_widest_for_rivals_whatever_rounding_does():
    """1 / 49 times 49 is below 1 in floats."""
    data = SimpleNamespace(fields=("a", "b"), cardinalities=(3, 7))
    for d_max in range(2, 130):
        for d in range(1, d_max):
            assert list(rivals({"a": d, "b": d}, data, d_max)) == [f"uniform {d}", "widest"]


UNLIKE = count(100)


def choice(
    space: float, scores: np.ndarray, labels: np.ndarray, val: float | None = None, dim: int | None = None,
) -> Choice:  # fmt: skip
    """A choice of which only dimension, space, scores and validation AUC matter; these three are made up if not given."""
    test = Metrics(roc_auc_score(labels, scores), log_loss(labels, 1 / (1 + np.exp(-np.asarray(scores, float)))))
    val = Metrics(0.5 + space / 2 if val is None else val, 0.5)
    dims = {"a": next(UNLIKE) if dim is None else dim}
    return Choice(dims, space, 10, val, test, 1, [], np.asarray(scores, np.float32), None, 0.0)


def by_pairs(labels, scores, weights) -> tuple[float, float]:
    """A contrast of AUCs, and its standard error, by loops over pairs (DeLong's components of each row)."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    wins = {
        (i, j): sum(w * ((s[i] > s[j]) + 0.5 * (s[i] == s[j])) for w, s in zip(weights, scores))
        for i in positive
        for j in negative
    }
    by_positive = [np.mean([wins[i, j] for j in negative]) for i in positive]
    by_negative = [np.mean([wins[i, j] for i in positive]) for j in negative]
    variance = np.var(by_positive, ddof=1) / len(positive) + np.var(by_negative, ddof=1) / len(negative)
    return float(np.mean(list(wins.values()))), math.sqrt(variance)


CASES = {  # names and spaces; the weights of all outcomes in the contrast at equal Space
    "between two": (
        [("AutoDim", 0.25), ("uniform 2", 0.2), ("uniform 3", 0.3), ("widest", 1.0)],
        "uniform 2 and uniform 3 mixed",
        [1, -0.5, -0.5, 0],
    ),
    "nearer to one": (
        [("AutoDim", 0.22), ("uniform 2", 0.2), ("uniform 3", 0.3), ("widest", 1.0)],
        "uniform 2 and uniform 3 mixed",
        [1, -0.8, -0.2, 0],
    ),
    "at one": ([("AutoDim", 0.2), ("uniform 2", 0.2), ("widest", 1.0)], "uniform 2", [1, -1, 0]),
    "below the widest": (
        [("AutoDim", 0.97), ("uniform 9", 0.9), ("widest", 1.0)],
        "uniform 9 and widest mixed",
        [1, -0.3, -0.7],
    ),
    "the widest": ([("AutoDim", 1.0), ("widest", 1.0)], None, None),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_differences_by_loops_over_pairs(case, seed):
    named, rival, weights = CASES[case]
    rng = np.random.default_rng(seed)
    labels = (rng.random(40) < 0.4).astype(float)
    scores = (labels + rng.normal(0, 1.5, (len(named), 40))).round(1).astype(np.float32)
    outcomes = {name: choice(space, s, labels) for (name, space), s in zip(named, scores)}
    found = differences([outcomes], torch.tensor(labels))
    expected = {"widest": [1] + [0] * (len(named) - 2) + [-1]} | ({rival: weights} if rival else {})
    assert [d.rival for d in found] == list(expected)
    for difference, contrast in zip(found, expected.values()):
        mean, error = by_pairs(labels, scores, contrast)
        assert difference.mean == pytest.approx(mean, abs=1e-9)
        assert difference.high - difference.mean == pytest.approx(1.959964 * error, abs=1e-7)
        assert difference.mean - difference.low == pytest.approx(1.959964 * error, abs=1e-7)
        losses = [[-math.log(1 / (1 + math.exp(-v if y else v))) for v, y in zip(row.tolist(), labels)] for row in scores]
        rows = [sum(w * row[i] for w, row in zip(contrast, losses)) for i in range(40)]
        assert difference.logloss == pytest.approx(np.mean(rows), abs=1e-9)
        half = 1.959964 * np.std(rows, ddof=1) / 40**0.5
        assert difference.logloss_high - difference.logloss == pytest.approx(half, abs=1e-7)
        assert difference.logloss - difference.logloss_low == pytest.approx(half, abs=1e-7)


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_intervals_over_rows_and_seeds_by_loops(repeats):
    """A contrast of all R K AUCs for the rows, Student's interval for the seeds; the validation AUC's mean decides."""
    rng, names = np.random.default_rng(repeats), ["AutoDim", "uniform 2", "uniform 3", "widest"]
    labels = (rng.random(40) < 0.4).astype(float)
    scores = (labels + rng.normal(0, 1.5, (repeats, 4, 40))).round(1).astype(np.float32)
    vals = rng.uniform(0.6, 0.8, (repeats, 4))
    vals[:, 2] += 0.5  # the mixture beats the smaller neighbour
    trials = [{n: choice(s, *rest) for n, s, *rest in zip(names, (0.25, 0.2, 0.3, 1.0), row, [labels] * 4, val)}
              for row, val in zip(scores, vals)]
    found = differences(trials, torch.tensor(labels))
    assert [d.rival for d in found] == ["widest", "uniform 2 and uniform 3 mixed"]
    for difference, contrast in zip(found, ([1, 0, 0, -1], [1, -0.5, -0.5, 0])):
        mean, over_rows = by_pairs(labels, scores.reshape(-1, 40), np.tile(contrast, repeats) / repeats)
        by_seed = [by_pairs(labels, row, contrast)[0] for row in scores]
        over_seeds = stats.t(repeats - 1).ppf(0.975) * np.std(by_seed, ddof=1) / repeats**0.5
        assert difference.mean == pytest.approx(np.mean(by_seed)) == pytest.approx(mean)
        assert difference.high - mean == pytest.approx(((1.959964 * over_rows) ** 2 + over_seeds**2) ** 0.5, rel=1e-6)
        losses = np.log1p(np.exp(-scores.astype(float) * (2 * labels - 1)))  # [R, K, n]
        rows = np.einsum("k,rkn->n", contrast, losses) / repeats
        seeds = np.einsum("k,rkn->r", contrast, losses) / 40
        half = 1.959964**2 * rows.var(ddof=1) / 40 + stats.t(repeats - 1).ppf(0.975) ** 2 * seeds.var(ddof=1) / repeats
        assert difference.logloss_high - difference.logloss == pytest.approx(half**0.5, rel=1e-6)


def test_one_seed_or_equal_seeds_leave_the_rows_interval():
    assert combined_interval([0.3], 0.04) == pytest.approx((0.3, 0.3 - 1.959964 * 0.2, 0.3 + 1.959964 * 0.2))
    assert combined_interval([0.3, 0.3], 0.04) == pytest.approx(combined_interval([0.3], 0.04))


@pytest.mark.parametrize("within, val, expected", [
    (None, 0.9, "widest, equal"), (2, 0.9, "widest, both"), (5, 0.9, "widest, equal, budget"), (5, 0.1, "widest, both"),
    (10, 0.9, "widest, equal, budget"), (10, 0.75, "widest, equal")])
def test_the_best_uniform_dimension_in_the_budget_is_a_rival_named_once(within, val, expected):
    labels = np.array([0.0, 1.0] * 20)
    scores = np.random.default_rng(0).normal(size=(4, 40)) + labels
    dims = {"AutoDim": (0.2, 0.7, 99), "uniform 2": (0.2, 0.7, 2), "uniform 5": (0.5, val, 5), "widest": (1.0, 0.8, 10)}
    trial = {name: choice(space, s, labels, auc, d) for (name, (space, auc, d)), s in zip(dims.items(), scores)}
    found = differences([trial], torch.tensor(labels), within)
    assert [d.kind for d in found] == expected.split(", ")
    assert [d.rival for d in found] == ["widest", "uniform 2", "uniform 5"][:len(found)]


def test_a_choice_that_is_its_own_rival_is_the_same():
    labels = np.array([0.0, 1.0] * 20)
    scores = np.random.default_rng(0).normal(size=(2, 40)) + labels
    trial = {name: choice(d / 10, s, labels, dim=d) for name, d, s in zip(
        ("AutoDim", "uniform 2", "widest"), (2, 2, 10), scores[[0, 0, 1]])}
    same = differences([trial], torch.tensor(labels), within=2)[1:]
    assert [(d.rival, d.words, d.mean, d.low, d.high, d.logloss) for d in same] == [("uniform 2", SAME, 0, 0, 0, 0)]


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("network", [Network(), Network("FFM")])
def test_the_largest_uniform_dimension_that_fits_by_trying_all(multiple, network, prepared):
    rows = network.table_rows(prepared.data.cardinalities)
    stored = {d: -(-d // multiple) * multiple * sum(rows) for d in range(1, 11)}
    for share in (0.01, 0.1, 0.43, 0.5, 1.0):
        fitting = [d for d in stored if stored[d] <= share * stored[10] + 1e-9]
        for budget in ((share, None), (None, int(4 * share * stored[10]))):
            assert uniform_within(prepared, 10, *budget, multiple, network) == max(fitting, default=None)
    assert uniform_within(prepared, 10) is None


@pytest.mark.parametrize("low, high, mixed", [(0.70, 0.71, True), (0.70, 0.70, False), (0.71, 0.70, False)])
def test_a_smaller_uniform_dimension_that_validates_no_worse_is_the_rival(low, high, mixed):
    labels = np.array([0.0, 1.0] * 20)
    scores = np.random.default_rng(0).normal(size=(4, 40)) + labels
    outcomes = {"AutoDim": choice(0.29, scores[0], labels), "uniform 2": choice(0.2, scores[1], labels, low),
                "uniform 3": choice(0.3, scores[2], labels, high), "widest": choice(1.0, scores[3], labels)}
    rival = differences([outcomes], torch.tensor(labels))[1]
    assert rival.rival == ("uniform 2 and uniform 3 mixed" if mixed else "uniform 2")
    if not mixed:
        assert rival.mean == pytest.approx(outcomes["AutoDim"].test.auc - outcomes["uniform 2"].test.auc, abs=1e-9)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.0001, 0.2, ("better", "better: the search paid")),
        (-0.2, -0.0001, ("worse", "worse: the search did not pay")),
        (-0.0009, 0.3, ("no loss worth naming", "as good: the uniform dimension is simpler")),
        (0.0, 0.0, ("no loss worth naming", "as good: the uniform dimension is simpler")),
        (-0.0011, 0.3, ("these test rows cannot tell",) * 2),
        (-0.3, 0.0, ("these test rows cannot tell",) * 2),
        (-1, 1, ("these test rows cannot tell",) * 2),
    ],
)
def test_words(low, high, expected):
    assert interval_words(low, high, "better", "worse", "no loss worth naming") == expected[0]
    assert (
        interval_words(
            low,
            high,
            "better: the search paid",
            "worse: the search did not pay",
            "as good: the uniform dimension is simpler",
        )
        == expected[1]
    )


def test_the_words_of_differences_are_those_of_their_table():
    labels = np.array([0.0, 1.0] * 200)
    rng = np.random.default_rng(0)
    good, bad = labels + rng.normal(0, 0.6, 400), labels + rng.normal(0, 3, 400)

    def words(chosen, near, widest) -> list[str]:
        made = {"AutoDim": choice(0.2, chosen, labels), "uniform 2": choice(0.2, near, labels),
                "widest": choice(1.0, widest, labels)}
        return [d.words for d in differences([made], torch.tensor(labels))]

    assert words(good, bad, bad) == ["better", "better: the search paid"]
    assert words(bad, good, good) == ["worse", "worse: the search did not pay"]
    assert words(good, good, good) == ["no loss worth naming", "as good: the uniform dimension is simpler"]
    assert words(*labels + rng.normal(0, 3, (3, 400))) == ["these test rows cannot tell"] * 2


def test_a_model_of_chance_is_never_as_good_as_another():
    """Three constant models have no difference at all, and one that ranks backwards is worse than a good one."""
    labels = np.array([0.0, 1.0] * 200)
    same = np.zeros(400)

    def words(chosen, other) -> list[str]:
        made = {"AutoDim": choice(0.2, chosen, labels), "uniform 2": choice(0.2, other, labels),
                "widest": choice(1.0, other, labels)}
        return [d.words for d in differences([made], torch.tensor(labels))]

    assert words(same, same) == [NO_VERDICT] * 2
    assert words(np.random.default_rng(0).normal(size=400), same) == [NO_VERDICT] * 2
    assert words(-labels, labels) == ["worse", "worse: the search did not pay"]


def test_one_positive_test_row_tells_nothing_and_stops_nothing():
    labels = np.array([1.0] + [0.0] * 9)
    scores = np.random.default_rng(0).normal(size=(3, 10))
    outcomes = {name: choice(space, s, labels)
                for name, space, s in zip(("AutoDim", "uniform 2", "widest"), (0.2, 0.2, 1.0), scores)}
    for difference in differences([outcomes], torch.tensor(labels)):
        assert difference[2:5] == (-1.0, 1.0, "these test rows cannot tell") and math.isfinite(difference.mean)
    record = choice_record("AutoDim", [outcomes["AutoDim"]], 40, torch.tensor(labels))
    assert record["test_auc_error"] is None and record["test_auc"] == outcomes["AutoDim"].test.auc


# ---------------------------------------------------------------- curve and record


def test_the_curve_is_that_of_the_choices_at_its_budgets(prepared, found):
    curve = auc_space_curve(prepared, found, SEARCH.dims, multiple=4)
    assert curve.space.is_monotonic_increasing and curve.dims.iloc[-1] == found.dims
    for row in curve.itertuples():
        assert row.dims == choose(prepared, found.alpha, SEARCH.dims, max_space=row.share, multiple=4)
        assert row.search_auc == supernet_auc(
            found.model, prepared.data.val, [row.dims[f] for f in prepared.data.fields]
        )


@pytest.fixture(scope="module")
def outcomes(prepared, found):
    named = {"AutoDim": DIMS} | rivals(DIMS, prepared.data, 4)
    return {name: train_dims(prepared, dims, 4, TRAIN, NETWORK, QUIET) for name, dims in named.items()}


@pytest.mark.parametrize("alone", [False, True])
def test_a_record_is_plain_json_and_its_numbers_are_those_of_its_parts(alone, prepared, found, outcomes, tmp_path):
    taken = {"AutoDim": outcomes["AutoDim"]} if alone else outcomes
    curve = auc_space_curve(prepared, found, SEARCH.dims)
    record = make_record(prepared, found, curve, [taken], {"max_space": None, "seed": 0, "pad_to": 3})
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    data, labels = prepared.data, prepared.data.test.labels.numpy()
    assert record["data"]["rows"] == {
        "train": len(data.train.labels),
        "validation": len(data.val.labels),
        "test": len(labels),
    }
    assert sum(record["data"]["rows"].values()) == N and sum(record["data"]["positives"].values()) == BASE.click.sum()
    assert record["data"]["positives"]["test"] == labels.sum() and record["data"]["classes"] == ["0", "1"]
    assert [f["name"] for f in record["fields"]] == list(data.fields) and record["candidates"] == [2, 4]
    assert {f["name"]: f["kind"] for f in record["fields"]} == {
        "user": "categorical",
        "land": "categorical",
        "price": "numerical",
        "hour": "categorical",
    }
    for field, rows, alpha in zip(record["fields"], data.cardinalities, found.alpha.tolist()):
        d, padded = DIMS[field["name"]], {2: 3, 4: 6}[DIMS[field["name"]]]
        assert (field["values"], field["dim"], field["parameters"]) == (rows, d, d * rows)
        assert field["bytes"] == 4 * padded * rows
        assert field["alpha"] == pytest.approx(alpha, abs=6e-5)
    assert sum(f["parameters"] for f in record["fields"]) == record["outcomes"][0]["parameters"]
    for made, (name, o) in zip(record["outcomes"], taken.items(), strict=True):
        assert made["bytes"] == sum(4 * (-(-o.dims[f] // 3) * 3) * v for f, v in zip(data.fields, data.cardinalities))
        _, error = by_pairs(labels, [o.scores], [1])
        assert made["test_auc"] == pytest.approx(roc_auc_score(labels, o.scores))
        assert made["test_auc_error"] == pytest.approx(error)
        assert (made["name"], made["space"], made["val_auc"], made["best_epoch"]) == (
            name, o.space, o.val.auc, o.best_epoch)
    assert [d["rival"] for d in record["differences"]] == (
        [] if alone else [d.rival for d in differences([taken], data.test.labels)]
    )
    share = float(data.train.labels.mean())
    assert record["baseline"] == pytest.approx(log_loss(labels, np.full(len(labels), share)))
    tables = record["outcomes"][0]["bytes"]
    weights = sum(4 * np.prod(t.shape) for name, t in taken["AutoDim"].model.named_parameters() if "embedding" not in name)
    assert record["model_bytes"]["tables"] == tables and 0 <= record["model_bytes"]["network"] - weights < 200  # BatchNorm's
    assert record["model_bytes"]["total"] == tables + record["model_bytes"]["network"]
    assert record["search"]["decided"] is False and record["search"]["alpha_steps"] == len(found.history["step"])
    assert record["repeats"] == 1
    several = make_record(prepared, found, curve, [taken] * 3, {"pad_to": 3})
    assert several["repeats"] == 3 and several["outcomes"][0]["test_aucs"] == [taken["AutoDim"].test.auc] * 3
    assert record["curve"][-1]["space"] == curve.space.iloc[-1] and len(record["curve"]) == len(curve)
    assert len(record["search"]["step"]) == len(record["search"]["entropy"])
    assert aucs_agree(labels, taken.values())
    trained = Trained(prepared.schema, data.vocabularies, prepared.classes, DIMS, outcomes["AutoDim"].model, NETWORK, record)
    save_trained(trained, tmp_path)
    assert load_trained(tmp_path).record == record
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))  # tables without padding, and names
    assert 0 < written - 4 * taken["AutoDim"].parameters - record["model_bytes"]["network"] < 2000


def aucs_agree(labels, outcomes) -> bool:
    return np.allclose(delong(labels, [o.scores for o in outcomes])[0], [o.test.auc for o in outcomes], atol=1e-9)


# ---------------------------------------------------------------- of any size

def odd_table(seed: int) -> pd.DataFrame:
    """Columns of every kind that a reader of text knows, with missing values, and some that say nothing."""
    rng = np.random.default_rng(1000 + seed)

    def holes(values):
        return pd.Series(values).astype(object).where(rng.random(N) < rng.choice([1.0, 0.9]), None)

    return pd.DataFrame({
        "word": holes(rng.choice(["a", "b", 'c "quoted", x', "ü", "two\nlines"], N)),
        "count": holes(rng.integers(-3, 12, N)),
        "price": holes(np.round(rng.gamma(2, 3, N), 2)),
        "whole": holes(rng.integers(0, 5, N).astype(float)),
        "truth": holes(rng.choice([True, False], N)),
        "mixed": holes(rng.choice(["1", "2.5", "x"], N)),
        "padded": holes(rng.choice(["007", "7", "08"], N)),
        "long": holes(rng.choice([2**60 + 1, 2**60 + 2, 5], N)),
        "day": pd.date_range("2024-01-01", periods=N).astype(str),
        "id": [f"row {i}" for i in range(N)],
        "number": rng.permutation(N),
        "same": "x",
        "none": None,
        "label": rng.choice(["yes", "no"], N, p=[0.4, 0.6]),
    })


def same(one, other) -> None:
    """The same schema, classes, parts, ids and vocabularies."""
    assert one.schema == other.schema and one.classes.tolist() == other.classes.tolist() and one.split == other.split
    for part in ("train", "val", "test"):
        assert getattr(one.data, part).labels.equal(getattr(other.data, part).labels), part
        for m, name in enumerate(one.data.fields):
            assert getattr(one.data, part).ids[:, m].equal(getattr(other.data, part).ids[:, m]), (part, name)
    for ours, theirs in zip(one.data.vocabularies, other.data.vocabularies):
        assert vocabulary_to_dict(ours) == vocabulary_to_dict(theirs)
    assert one.data.fingerprint == other.data.fingerprint


def typed_table(seed: int) -> pd.DataFrame:
    """`odd_table` as somebody holds it in memory: whole numbers with gaps as floats, dates as dates."""
    frame = odd_table(seed)
    return frame.assign(count=frame["count"].astype(float), price=frame.price.astype(float), whole=frame.whole.astype(float),
                        truth=frame.truth.astype("boolean"), padded=frame.padded.astype("Int64"),
                        long=frame.long.astype("Int64"), day=pd.to_datetime(frame.day), number=frame.number.astype("int32"))


OPTIONS = [{}, {"categorical": ["number", "day", "price"]}, {"numerical": {"count": "criteo", "number": 7}},
           {"exclude": ["word", "id"], "min_count": 4}, {"time": "day"}, {"time": "number", "categorical": {"day"}},
           {"time": "when", "seed": 5, "validation": 0.2, "categorical": ("clock",)}]


@pytest.mark.parametrize("case", range(len(OPTIONS)))
def test_a_frame_and_files_of_every_kind_become_the_same(case, tmp_path):
    rng, options = np.random.default_rng(case), OPTIONS[case]
    stamps = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**5, N), "s")
    frame = typed_table(case).assign(when=stamps, clock=[clock(int(h), 30) for h in rng.integers(0, 24, N)])
    frame.to_parquet(tmp_path / "t.parquet")
    ways = {"a Parquet file": tmp_path / "t.parquet"}
    for ending in (".csv", ".csv.gz", ".tsv"):
        frame.to_csv(tmp_path / f"t{ending}", index=False, sep="\t" if ending == ".tsv" else ",")
        ways[ending] = tmp_path / f"t{ending}"
    for k, (start, stop) in enumerate([(0, 90), (90, 100), (100, N)]):
        frame[start:stop].to_csv(tmp_path / f"{k}.csv", index=False)
        frame[start:stop].to_parquet(tmp_path / f"{k}.parquet")
    ways["three files"] = [tmp_path / f"{k}.csv" for k in range(3)]
    ways["three Parquet files"] = [tmp_path / f"{k}.parquet" for k in range(3)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        expected = prepare(frame, "label", **options)
        made = {name: prepare(way, "label", folder=tmp_path / name, **options) for name, way in ways.items()}
    messages = [str(w.message) for w in told if "left out" in str(w.message)]
    assert len(messages) == 1 + len(ways) and len(set(messages)) == 1
    assert expected.classes.tolist() == ["no", "yes"]
    for prepared in made.values():
        same(prepared, expected)
    everything = torch.cat([expected.data.train.ids, expected.data.val.ids, expected.data.test.ids])
    for way in (frame, frame.astype(object), tmp_path / "t.csv", tmp_path / "t.parquet", ways["three files"]):  # new rows
        rows = way if isinstance(way, pd.DataFrame) else read_table(way, expected.schema.fields, as_text=True)
        found = quietly(lambda rows=rows: encode_rows(rows, expected.data.vocabularies))
        assert sorted(found.tolist()) == sorted(everything.tolist())
    whole = quietly(lambda: prepare(read_table(tmp_path / "t.csv"), "label", **options))  # and read as a frame
    same(whole, expected)


def test_one_table_in_two_precisions_is_one_table(tmp_path):
    """Doubles in a CSV, float32 in Parquet and in a frame, JSON of new rows: the same ids, whichever was trained on."""
    rng = np.random.default_rng(0)
    frame = BASE.assign(price=rng.integers(0, 60, N) / 10, ratio=np.where(rng.random(N) < 0.6, 0, rng.random(N).round(2)))
    single = frame.astype({"price": "float32", "ratio": "float32"})
    single.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    ways = {"csv": tmp_path / "t.csv", "parquet": tmp_path / "t.parquet", "frame": frame, "single": single}
    made = {name: prepare(way, "click", folder=tmp_path / name) for name, way in ways.items()}
    assert len({m.data.fingerprint for m in made.values()}) == 1
    served = pd.DataFrame(json.loads(json.dumps(frame.to_dict("records"))))
    expected = encode_rows(frame, made["csv"].data.vocabularies)
    for m in made.values():
        for rows in (frame, single, served, read_table(tmp_path / "t.parquet", m.data.fields, as_text=True)):
            assert encode_rows(rows, m.data.vocabularies).equal(expected)


def whole_numbers(rows: int = 6000) -> pd.DataFrame:
    """Moments whose order predicts, amounts that are mostly zero, and ids that must not be cut: those of users who differ,
    of users whose numbers also grow with the chance, and names of sessions that tell nothing."""
    rng = np.random.default_rng(0)
    moment, users = rng.integers(0, 8000, rows), rng.permutation(200)
    effect, user, late = rng.normal(size=200), rng.integers(0, 200, rows), rng.integers(0, 100, rows)
    drift = 0.02 * np.arange(100) + 1.5 * rng.normal(size=100)
    amount = np.where(rng.random(rows) < 0.7, 0, np.exp(rng.normal(4, 2, rows)).astype(int))
    logit = moment / 3000 + np.log1p(amount) / 4 + effect[user] + drift[late] - 3.5
    return pd.DataFrame({"moment": 1_700_000_000 + 60 * moment, "user": 2**60 + users[user], "late": 5000 + late,
                         "amount": amount, "session": rng.integers(0, 5000, rows), "few": rng.integers(0, 20, rows),
                         "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)})


def test_whole_numbers_whose_order_predicts_are_numbers_and_ids_are_not(tmp_path):
    frame = whole_numbers()
    frame.loc[5:90, "amount"] = 2  # several of each
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame[:2500].to_csv(tmp_path / "a.csv", index=False)
    frame[2500:].to_csv(tmp_path / "b.csv", index=False)
    with pytest.warns(UserWarning, match="whole numbers: 'moment', a number, its order .* 'amount', a number"):
        expected = prepare(frame, "click")
    assert expected.schema.buckets == {"moment": 20, "amount": 20}
    assert [*expected.schema.decided] == ["moment", "user", "late", "amount", "session"]
    assert expected.data.cardinalities[1] == 201 and expected.data.cardinalities[0] == 21
    for way in (tmp_path / "t.csv", tmp_path / "t.parquet", [tmp_path / "a.csv", tmp_path / "b.csv"],
                frame.astype({"moment": "Int64", "late": object, "amount": float}), frame.sample(frac=1).sort_index()):
        same(quietly(lambda way=way: prepare(way, "click", folder=tmp_path / "made")), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = prepare(frame, "click", categorical=["moment", "amount"], numerical={"user": 7, "late": "criteo"})
    assert told.schema.buckets == {"user": 7, "late": "criteo"} and [*told.schema.decided] == ["session"]


def test_only_training_rows_say_what_whole_numbers_are():
    frame = whole_numbers().assign(at=np.arange(6000))
    made, other = quietly(lambda: prepare(frame, "click", time="at")), frame.copy()
    other.loc[4800:, "moment"] = np.random.default_rng(0).integers(0, 10**9, 1200)
    other.loc[4800:, "click"] = (other.loc[4800:, "session"] > 3000).astype(int)
    again = quietly(lambda: prepare(other, "click", time="at"))
    assert again.schema == made.schema and again.data.train.ids.equal(made.data.train.ids)


@pytest.mark.parametrize("kind", ["zone", "day", "clock", "span"])
def test_dates_and_times_that_are_named_are_kept_saved_and_met_again(kind):
    values = {"zone": pd.date_range("2026-01-01", periods=3, tz="Europe/Rome"), "day": [date(2026, 1, k) for k in (1, 2, 3)],
              "clock": [clock(k) for k in (1, 2, 3)], "span": pd.to_timedelta([1, 2, 3], "D")}[kind]
    frame = BASE.assign(it=cycled(*values, None))
    made = prepare(frame, "click", categorical=["it"])
    assert made.data.cardinalities[-1] == 5
    stored = [vocabulary_from_dict(json.loads(json.dumps(vocabulary_to_dict(v)))) for v in made.data.vocabularies]
    assert encode_rows(frame, stored)[:, -1].tolist() == encode_rows(frame, made.data.vocabularies)[:, -1].tolist()
    assert set(encode_rows(frame, stored)[:, -1].tolist()) == {1, 2, 3, 4}


def test_a_streamed_table_is_searched_and_trained_and_opened_again(tmp_path):
    table(3).to_csv(tmp_path / "t.csv", index=False)
    prepared = prepare(tmp_path / "t.csv", "click", folder=tmp_path / "made")
    again = open_table(tmp_path / "made")
    assert again.schema == prepared.schema and again.data.fingerprint == prepared.data.fingerprint
    mapped = replace(prepared, data=open_prepared(tmp_path / "made", in_memory=False))
    found = search_dims(mapped, SEARCH, NETWORK, QUIET)
    outcome = train_dims(mapped, found.dims, 4, TRAIN, NETWORK, QUIET)
    scores, labels = outcome.scores, prepared.data.test.labels
    assert outcome.test.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)


def test_streams_that_cannot_be_prepared(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    table().to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    table().assign(click=0).to_csv(tmp_path / "same.csv", index=False)
    table().assign(click=np.arange(N) % 3).to_csv(tmp_path / "three.csv", index=False)
    table().assign(click=S(np.arange(N) % 2).astype(object).where(np.arange(N) != 7, None)).to_csv(
        tmp_path / "hole.csv", index=False)
    for files, options, message in (
        (["t.csv", "t.tsv"], {}, "t.tsv: one column 'user\\tland\\tprice\\thour\\tclick'; its separator seems to be a tab"),
        (["no.csv"], {}, "no such file"), (["t.csv"], {"label": "clack"}, "label: column 'clack' is not in the table"),
        (["t.csv"], {"exclude": ["x"]}, "exclude: column 'x' is not in the table"),
        (["t.csv"], {"numerical": {"land": 5}}, "column 'land'"), (["same.csv"], {}, "has one class"),
        (["three.csv"], {}, "has 3 distinct values"), (["hole.csv"], {}, "row 7 (counted from 0): label 'click': missing"),
    ):  # fmt: skip
        paths = [tmp_path / name for name in files]
        with pytest.raises(DataError, match=re.escape(message)):
            prepare(paths, **{"label": "click", "folder": tmp_path / "made"} | options)
        assert not (tmp_path / "made").exists() and not [p for p in tmp_path.iterdir() if ".part-" in p.name]


@pytest.mark.parametrize("ways", [("0", "1", "0.0", "1.0"), ("false", "true", "False", "TRUE"), ("2", "7", "02", "7e0")])
def test_a_class_may_be_written_in_several_ways_in_a_stream(ways, tmp_path):
    clicks = np.random.default_rng(4).integers(0, 4, N)
    table().assign(click=np.array(ways, dtype=object)[clicks]).to_csv(tmp_path / "t.csv", index=False)
    made = prepare(tmp_path / "t.csv", "click", seed=3)
    assert made.classes.tolist() == prepare(
        read_table(tmp_path / "t.csv", by_value=["click"]), "click").classes.tolist()
    for part in ("train", "val", "test"):
        rows = split_of(parts_of_rows(clicks % 2, SplitOptions(seed=3)))
        expected = clicks[getattr(rows, part)] % 2
        assert getattr(made.data, part).labels.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["uint64", "hex", "decimal", "index"])
def test_numbers_that_are_names_survive_a_stream(kind, tmp_path):
    rng = np.random.default_rng(0)
    number, n = rng.integers(0, 9, 400), 400
    table = pd.DataFrame({"id": number, "user": rng.integers(0, 9, n), "click": rng.integers(0, 2, n)})
    path = tmp_path / ("x.csv" if kind == "hex" else "x.parquet")
    if kind == "hex":
        table.assign(id=[f"0x{k + 10:X}" for k in number]).to_csv(path, index=False)
    elif kind == "uint64":
        table.assign(id=number.astype("uint64") + 2**63).to_parquet(path)
    elif kind == "decimal":
        table.assign(id=[Decimal(7 * 10**18 + int(k)) for k in number]).to_parquet(path)
    else:
        table.set_axis(np.arange(n) // 2).to_parquet(path)  # as after a concatenation
    prepared = prepare(path, "click")
    assert prepared.data.fields == ("id", "user")
    assert prepared.data.cardinalities[0] == quietly(lambda: prepare(read_table(path), "click")).data.cardinalities[0] == 10
