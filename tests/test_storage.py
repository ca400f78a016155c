"""autodim.app.storage: what comes back equals what was kept, whoever writes; what is damaged is named and refused."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from filelock import FileLock

from autodim.app import storage
from autodim.memory.compress import Compressor, apply_plan, plan_record, renumbered_ids
from autodim.method.backbones import BACKBONES, Network
from autodim.data.files import DataError
from autodim.data.vocabulary import Vocabulary, fit_vocabulary
from autodim.method.models import DLRS
from autodim.training.checkpoint import FileCheckpoint, key_of
from autodim.app.storage import FORMAT, PACKED_FORMAT, READABLE, Trained, load_trained, save_trained
from autodim.data.columns import Schema
from autodim.data.table import encode_rows

FRAME = pd.DataFrame(
    {
        "user": ["a", "b", None, "a"],
        "age": [3, 4, 4, 5],
        "price": [0.5, 1.5, np.nan, 2.5],
        "truth": [True, False, True, True],
        'ünïcode "name"\n': ["ß", "\n", '"', "ß"],
    }
)


def small_model(seed: int = 0, record: dict | None = None) -> Trained:
    """An untrained model of five fields with one embedding dimension each; its weights tell its seed."""
    vocabularies = tuple(fit_vocabulary(FRAME[name], 1, 2 if name == "price" else None) for name in FRAME)
    dims = {v.name: d for v, d in zip(vocabularies, (2, 4, 2, 3, 1))}
    torch.manual_seed(seed)
    model = DLRS([v.cardinality for v in vocabularies], list(dims.values()), Network("MLP", (5, 3), 0.25))
    model.train()(encode_rows(FRAME, vocabularies))  # moves BatchNorm's statistics
    schema = Schema("click", tuple(FRAME), {"price": 2}, {"row": "an id", "when": "a time"})
    return Trained(
        schema,
        vocabularies,
        np.array(["no", "yes"], dtype=object),
        dims,
        model.eval(),
        Network("MLP", (5, 3), 0.25),
        {"seed": seed, "numbers": np.arange(3), "auc": np.float32(0.5), **(record or {})},
    )


def same_model(one: Trained, other: Trained) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    return list(a) == list(b) and all(a[name].equal(b[name]) and a[name].dtype == b[name].dtype for name in a)


def names(folder: Path) -> list[str]:
    """What a user sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# ---------------------------------------------------------------- keys


def test_a_key_changes_with_each_setting_and_with_nothing_else():
    settings = [
        (),
        (1,),
        (2,),
        ("1",),
        (1, 2),
        ((1, 2),),
        ({"a": 1},),
        ({"a": 2},),
        ({"b": 1},),
        (None,),
        (0.1,),
        (True,),
    ]
    keys = [key_of(*s) for s in settings]
    assert len(set(keys)) == len(keys) and all(len(k) == 16 and set(k) <= set("0123456789abcdef") for k in keys)
    assert key_of({"x": 1, "y": (2,)}, "z") == key_of({"y": [2], "x": 1}, "z")
    assert key_of(Path("a")) == key_of(Path("a")) != key_of(Path("b"))


def test_a_key_is_the_same_in_another_process():
    code = "from autodim.training.checkpoint import key_of; print(key_of('search', {'b': 1, 'a': (2, None)}, 0.5))"
    found = {
        subprocess.run(
            [os.sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            text=True,
            capture_output=True,
            check=True,
        ).stdout.strip()
        for seed in ("1",)
    }
    assert found == {key_of("search", {"b": 1, "a": (2, None)}, 0.5)}


# ---------------------------------------------------------------- checkpoints

STATE = {
    "model/w": torch.arange(6.0).reshape(2, 3).T,
    "done": torch.tensor(3),
    "bits": torch.tensor([1, 255], dtype=torch.uint8),
    "far": torch.tensor([2**62, -1]),
    "odd": torch.tensor([float("nan"), float("inf"), -0.0], dtype=torch.float64),
    "none": torch.empty(0),
}


def same_state(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().numpy().tobytes() == other[name].contiguous().numpy().tobytes()
        for name in one
    )


def test_a_state_comes_back_to_the_bit_and_the_last_one_counts(tmp_path):
    kept = FileCheckpoint(tmp_path / "new" / "deep" / "x.pt", "key")
    assert kept.load() is None and list(tmp_path.iterdir()) == []
    kept.save({"done": torch.tensor(1)})
    kept.save(STATE)
    assert same_state(kept.load(), STATE) and same_state(FileCheckpoint(str(kept.path), "key").load(), STATE)
    assert [p.name for p in kept.path.parent.iterdir()] == ["x.pt"]


def test_a_state_of_another_key_is_not_there_and_is_replaced(tmp_path):
    one, other = FileCheckpoint(tmp_path / "x", "one"), FileCheckpoint(tmp_path / "x", "other")
    one.save(STATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert other.load() is None
    other.save({"done": torch.tensor(5)})
    assert one.load() is None and other.load()["done"] == 5


def is_missing(kept: FileCheckpoint, content: bytes) -> bool:
    """Whether a file of this content is noticed as damaged, and what is saved then can be loaded."""
    kept.path.write_bytes(content)
    with pytest.warns(UserWarning, match="x.pt is damaged .* and counts as missing") as noticed:
        missing = kept.load() is None
    return missing and len(noticed) == 1 and "\n" not in str(noticed[0].message)


def test_a_state_cut_short_anywhere_warns_and_is_not_there(tmp_path):
    kept = FileCheckpoint(tmp_path / "x.pt", "key")
    kept.save(STATE)
    whole = kept.path.read_bytes()
    for length in {0, 1, 3, 40, *range(0, len(whole), 97), *range(len(whole) - 30, len(whole))}:
        assert is_missing(kept, whole[:length]), length
    assert is_missing(kept, whole + b"x") and is_missing(kept, b"\xff" * 99) and is_missing(kept, b"{}\n" + whole)
    kept.save(STATE)
    assert same_state(kept.load(), STATE)


def test_a_state_with_a_flipped_bit_warns_and_is_not_there(tmp_path):
    kept = FileCheckpoint(tmp_path / "x.pt", "key")
    kept.save(STATE)
    whole = kept.path.read_bytes()
    key = range(whole.index(b"key"), whole.index(b"sha256"))  # another key is no damage
    for place in {*range(0, 120), *range(120, len(whole), 61), *range(len(whole) - 30, len(whole))} - {*key}:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        assert is_missing(kept, bytes(changed)), place


class Malice:
    """Writes a file as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_state_cannot_run_code(tmp_path):
    kept, proof = FileCheckpoint(tmp_path / "x.pt", "key"), tmp_path / "it ran"
    for state in ({"w": torch.ones(2), "more": Malice(proof)}, {"w": [Malice(proof)]}):
        kept.save(state)  # with a checksum that is right
        assert is_missing(kept, kept.path.read_bytes()) and not proof.exists()


def test_a_state_of_an_older_version_warns_and_is_not_there(tmp_path):
    kept = FileCheckpoint(tmp_path / "x.pt", "key")
    assert is_missing(kept, safetensors.torch.save({"w": torch.ones(2)}, {"key": "key"}))
    torch.save(STATE, tmp_path / "other")
    assert is_missing(kept, (tmp_path / "other").read_bytes())


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    kept = FileCheckpoint(tmp_path / "x.pt", "key")
    kept.save(STATE)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match="x.pt cannot be written .No space left"):
        kept.save({"done": torch.tensor(9)})
    assert names(tmp_path) == ["x.pt"] and same_state(kept.load(), STATE)


# ---------------------------------------------------------------- models


def test_a_model_comes_back_equal(tmp_path):
    trained = small_model()
    save_trained(trained, tmp_path / "new" / "model")
    again = load_trained(str(tmp_path / "new" / "model"))
    assert again.schema == trained.schema and again.dims == trained.dims and list(again.dims) == list(trained.dims)
    assert again.network == Network("MLP", (5, 3), 0.25) and same_model(again, trained) and not again.model.training
    assert again.record == {"seed": 0, "numbers": [0, 1, 2], "auc": 0.5}
    ids = encode_rows(FRAME, trained.vocabularies)
    assert encode_rows(FRAME, again.vocabularies).equal(ids) and again.model(ids).equal(trained.model(ids))
    other = FRAME.iloc[::-1].assign(age=["3", None, "9", "5"], price=["2", None, "0.1", "7"], more=1)
    assert encode_rows(other, again.vocabularies).equal(encode_rows(other, trained.vocabularies))


@pytest.mark.parametrize("classes", [["no", "yes"], [0, 1], [-1.5, 2.0], [False, True]])
def test_classes_keep_their_type(classes, tmp_path):
    made = np.array(classes, dtype=object if isinstance(classes[0], str) else None)
    save_trained(replace(small_model(), classes=made), tmp_path)
    again = load_trained(tmp_path).classes
    assert (
        again.tolist() == classes
        and again.dtype == made.dtype
        and [type(c) for c in again.tolist()] == [type(c) for c in classes]
    )


def test_the_order_of_dims_is_that_of_their_names(tmp_path):
    trained = small_model()
    save_trained(replace(trained, dims=dict(sorted(trained.dims.items(), reverse=True))), tmp_path)
    assert same_model(load_trained(tmp_path), trained)


def test_the_folder_holds_json_and_the_weights_of_that_hash_alone(tmp_path):
    for seed in (0, 1, 1, 2):
        save_trained(small_model(seed), tmp_path)
        description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        digest = hashlib.sha256((tmp_path / description["weights"]).read_bytes()).hexdigest()
        assert description["sha256"] == digest and description["format"] == FORMAT
        assert names(tmp_path) == ["model.json", f"weights-{digest[:12]}.safetensors"]
        assert same_model(load_trained(tmp_path), small_model(seed))


def test_calibration_is_kept_and_a_model_of_before_has_none(tmp_path):
    save_trained(replace(small_model(), calibration=(0.8125, -0.3)), tmp_path)
    assert load_trained(tmp_path).calibration == (0.8125, -0.3)
    path = tmp_path / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    del description["calibration"]
    path.write_text(json.dumps(description | {"format": 2}))
    assert load_trained(tmp_path).calibration == (1.0, 0.0)
    for damaged in ([1.0], ["a", 0.0], None):
        path.write_text(json.dumps(description | {"calibration": damaged}))
        with pytest.raises(DataError, match="is not what was saved"):
            load_trained(tmp_path)


def test_other_files_in_the_folder_stay(tmp_path):
    for name in ("notes.txt", "search.safetensors"):
        (tmp_path / name).write_text("mine")
    save_trained(small_model(0), tmp_path)
    save_trained(small_model(1), tmp_path)
    assert len(names(tmp_path)) == 4 and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_copied_folder_is_a_model(tmp_path):
    save_trained(small_model(), tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert same_model(load_trained(tmp_path / "b"), small_model())


@pytest.mark.parametrize(
    "trained, kind, text",
    [
        (
            small_model(record={"when": pd.Timestamp("2026-01-01")}),
            TypeError,
            "Timestamp cannot be kept in a model's record",
        ),
        (
            replace(small_model(), vocabularies=(Vocabulary("day", np.array([b"x"], dtype=object)),)),
            DataError,
            "field 'day': JSON cannot hold its value b'x'",
        ),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(trained, kind, text, tmp_path):
    save_trained(small_model(), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(kind, match=text):
        save_trained(trained, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


# ---------------------------------------------------------------- damage


def weights_of(folder: Path) -> Path:
    return next(folder.glob("weights-*"))


def changed(**changes):
    """A damage: other values in model.json; None takes the key out."""

    def damage(folder: Path) -> None:
        path = folder / "model.json"
        description = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps({k: v for k, v in description.items() if v is not None}), encoding="utf-8")

    return damage


def flip(folder: Path) -> None:
    content = bytearray(weights_of(folder).read_bytes())
    content[-5] ^= 1
    weights_of(folder).write_bytes(content)


def swap(name: str):
    """A damage: the file of another model under this one's name."""

    def damage(folder: Path) -> None:
        save_trained(small_model(7), folder.parent / "other")
        source = folder.parent / "other" / "model.json" if name == "model.json" else weights_of(folder.parent / "other")
        shutil.copy(source, folder / "model.json" if name == "model.json" else weights_of(folder))

    return damage


def cut_json(folder: Path) -> None:
    (folder / "model.json").write_bytes((folder / "model.json").read_bytes()[:-200])


SCHEMA = {"label": "click", "fields": [], "buckets": {}}
DAMAGES = {
    "weights cut short": (
        lambda f: weights_of(f).write_bytes(weights_of(f).read_bytes()[:-8]),
        "weights-.* is not what was saved: cut short",
    ),
    "weights empty": (lambda f: weights_of(f).write_bytes(b""), "weights-.* is not what was saved"),
    "a bit of the weights": (flip, "weights-.* is not what was saved: cut short or changed; save the model again"),
    "weights swapped": (swap("weights"), "weights-.* is not what was saved"),
    "description swapped": (
        swap("model.json"),
        "weights-.* cannot be read .No such file or directory.; save the model again",
    ),
    "weights missing": (
        lambda f: weights_of(f).unlink(),
        "weights-.* cannot be read .No such file or directory.; save",
    ),
    "description missing": (
        lambda f: (f / "model.json").unlink(),
        "model.json cannot be read .*: is .*model the folder of a saved model",
    ),
    "description cut short": (cut_json, "model.json is damaged or not a model's description; save the model again"),
    "description empty": (lambda f: (f / "model.json").write_text(""), "model.json is damaged"),
    "a list": (lambda f: (f / "model.json").write_text("[1]"), "model.json is damaged"),
    "not UTF-8": (lambda f: (f / "model.json").write_bytes(b'{"format": "\xff"}'), "model.json is damaged"),
    "another file": (
        lambda f: (f / "model.json").write_text("{}"),
        "model.json is damaged or not a model's description",
    ),
    "another format": (
        changed(format=max(READABLE) + 1, autodim="9.9"),
        r"has format 7, this autodim \(.*\) reads 6: .* autodim 9.9; load it with",
    ),
    "no dims": (changed(dims=None), "model.json is not what was saved .KeyError: .dims.*; save it again"),
    "no hash": (changed(sha256=None), "model.json is damaged: it does not say which file has the weights"),
    "no vocabularies": (changed(vocabularies=None), "model.json is not what was saved .KeyError: .vocabularies."),
    "dims of other fields": (changed(dims={"x": 2}), "model.json is not what was saved .KeyError: 'user'.; save"),
    "a vocabulary less": (changed(vocabularies=[]), "model.json is not what was saved"),
    "other layers": (changed(network={"name": "MLP", "hidden": [5, 4]}), "model.json is not what was saved .RuntimeError.*; save"),
    "a damaged vocabulary": (
        changed(vocabularies=[{"name": "user"}] * 5),
        "model.json is not what was saved .*a vocabulary has the keys",
    ),
    "a schema without label": (changed(schema={"fields": []}), "model.json is not what was saved .KeyError"),
    "a schema without reasons": (changed(schema=SCHEMA), "model.json is not what was saved .KeyError: 'left_out'"),
    "no classes": (changed(classes=[]), "model.json is not what was saved .ValueError: 0 classes"),
    "dims as a list": (changed(dims=[2, 4]), "model.json is not what was saved"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_by_file(name, tmp_path):
    damage, text = DAMAGES[name]
    folder = tmp_path / "model"
    save_trained(small_model(), folder)
    damage(folder)
    with pytest.raises(DataError, match=f"(?s){text}") as caught:
        load_trained(folder)
    assert str(folder) in str(caught.value)
    save_trained(small_model(3), folder)  # the way out
    assert same_model(load_trained(folder), small_model(3))


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="is .*nothing the folder of a saved model?"):
        load_trained(tmp_path / "nothing")


# ---------------------------------------------------------------- writers


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_a_disk_that_gets_full_leaves_the_model_before(before, nth, tmp_path, monkeypatch):
    """The weights (1) or the description (2) find no room."""
    if before:
        save_trained(small_model(0), tmp_path)
    left, real = [nth], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        full_disk() if left[0] == 0 else real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match="cannot be written .No space left on device.: free some space"):
        save_trained(small_model(1), tmp_path)
    assert len(names(tmp_path)) == (2 if before else 0)
    if before:
        assert same_model(load_trained(tmp_path), small_model(0))


def test_a_disk_that_is_really_full(small_disk):
    save_trained(small_model(0), small_disk)
    with pytest.raises(DataError, match="model.json cannot be written .No space left on device"):
        save_trained(small_model(1, {"text": "x" * 100_000}), small_disk)
    assert len(names(small_disk)) == 2 and same_model(load_trained(small_disk), small_model(0))
    kept = FileCheckpoint(small_disk / "x.pt", "key")
    kept.save(STATE)
    with pytest.raises(DataError, match="x.pt cannot be written .No space left on device"):
        kept.save({"w": torch.zeros(30_000)})
    assert same_state(kept.load(), STATE) and len(names(small_disk)) == 3


def test_a_model_that_is_saved_again_stays_when_the_disk_is_full(tmp_path, monkeypatch):
    save_trained(small_model(0), tmp_path)
    left, real = [2], os.fsync

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        full_disk() if left[0] == 0 else real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError):
        save_trained(small_model(0, {"more": 1}), tmp_path)
    assert same_model(load_trained(tmp_path), small_model(0))


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(DataError, match="model cannot be written"):
        save_trained(small_model(), tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine" and names(tmp_path) == ["model"]


def test_no_permission(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(DataError, match="model cannot be written .Permission denied.: .*another folder"):
        save_trained(small_model(), tmp_path / "model")
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written .Permission denied"):
        save_trained(small_model(), tmp_path)


def test_a_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", acquire)
    save_trained(small_model(), tmp_path)
    assert same_model(load_trained(tmp_path), small_model())


MODELS = [small_model(seed) for seed in range(3)]


def save_often(trained: Trained, folder: Path, failed: list | None = None) -> None:
    try:
        for _ in range(12):
            save_trained(trained, folder)
    except Exception as error:
        if failed is None:
            raise
        failed.append(error)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_of_two_writers_of_one_folder_one_has_its_way_and_readers_see_it_whole(kind, tmp_path):
    save_trained(MODELS[2], tmp_path)
    failed = []
    make = threading.Thread if kind == "threads" else multiprocessing.get_context("fork").Process
    writers = [make(target=save_often, args=(m, tmp_path, failed if kind == "threads" else None)) for m in MODELS[:2]]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == [] and (kind == "threads" or all(writer.exitcode == 0 for writer in writers))
    assert len(names(tmp_path)) == 2
    assert any(same_model(load_trained(tmp_path), m) for m in MODELS[:2])


def test_two_writers_step_by_step(tmp_path, monkeypatch):
    """The second comes when the first has written its weights, or its description: the last one's is whole."""
    for place in (1, 2):
        folder, calls = tmp_path / str(place), [0]
        real, second = storage.write_bytes, threading.Thread(
            target=save_trained, args=(MODELS[1], tmp_path / str(place))
        )

        def write(path: Path, content: bytes) -> None:
            real(path, content)
            calls[0] += 1
            if calls[0] == place:
                second.start()
                second.join(0.2)  # waits for the first, or is through

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", write)
            save_trained(MODELS[0], folder)
            second.join()
        assert same_model(load_trained(folder), MODELS[1]) and len(names(folder)) == 2


def test_a_model_replaced_while_it_is_read(tmp_path, monkeypatch):
    """Between the description and the weights that it names, another model is saved."""
    save_trained(MODELS[0], tmp_path)
    real, calls = storage.read_description, []

    def read(path: Path) -> dict:
        description = real(path)
        calls.append(1)
        if len(calls) == 1:
            save_trained(MODELS[1], tmp_path)
        return description

    monkeypatch.setattr(storage, "read_description", read)
    assert same_model(load_trained(tmp_path), MODELS[1])


# ---------------------------------------------------------------- packed tables

@pytest.mark.parametrize("name", BACKBONES)
def test_packed_tables_of_every_network_come_back_and_take_the_bytes_that_were_counted(name, make_data, tmp_path):
    """On disk are 8 bytes, a header of the length that they give, and exactly the bytes of the tensors."""
    data = make_data()
    torch.manual_seed(0)
    network = Network(name, hidden=(8,))
    model = DLRS(data.cardinalities, (2, 4, 2, 3), network)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    c = Compressor(model, data)
    found = apply_plan(c, c.within(0.6 * c.full_bytes))
    record = {"compression": {"plan": plan_record(found.plan, c.offers)}}
    schema, dims = Schema("label", data.fields, {}, {}), dict(zip(data.fields, model.dims))
    save_trained(Trained(schema, found.vocabularies, np.array([0, 1]), dims, found.model, network, record), tmp_path)
    again = load_trained(tmp_path)
    ids = renumbered_ids(data.test.ids, found.groups)
    with torch.no_grad():
        assert again.model(ids).equal(found.model(ids)) and next(again.model.parameters()) is not None
    file, = tmp_path.glob("weights-*.safetensors")
    content = file.read_bytes()
    rest = sum(t.nbytes for name, t in model.state_dict().items() if ".tables." not in name)
    stored = len(content) - 8 - int.from_bytes(content[:8], "little")
    assert stored == sum(t.nbytes for t in again.model.state_dict().values()) and stored - found.bytes == rest
    assert json.loads((tmp_path / "plan.json").read_text()) == record["compression"]["plan"]


def test_the_plan_goes_with_the_packed_model(make_data, tmp_path):
    """A model that is not packed, saved into the folder of one that is, leaves no plan; and its format is the old one."""
    data = make_data()
    network, schema = Network(hidden=(8,)), Schema("label", data.fields, {}, {})
    model = DLRS(data.cardinalities, (2, 4, 2, 3), network)
    c, dims = Compressor(model, data), dict(zip(data.fields, model.dims))
    found = apply_plan(c, c.within(0.6 * c.full_bytes))
    for packed in (True, False):
        record = {"compression": {"plan": plan_record(found.plan, c.offers)}} if packed else {}
        of = (found.vocabularies, found.model) if packed else (data.vocabularies, model)
        save_trained(Trained(schema, of[0], np.array([0, 1]), dims, of[1], network, record), tmp_path)
        assert (tmp_path / "plan.json").exists() == packed
        assert json.loads((tmp_path / "model.json").read_text())["format"] == (PACKED_FORMAT if packed else FORMAT)
    damaged = json.loads((tmp_path / "model.json").read_text()) | {"packed": {"embedding": {"rows": 3}}}
    (tmp_path / "model.json").write_text(json.dumps(damaged))
    with pytest.raises(DataError, match="is not what was saved"):
        load_trained(tmp_path)
