"""autodim.app.export in the libraries it writes for: TorchRec, FBGEMM, DeepCTR-Torch, FuxiCTR, ONNX Runtime, plain JSON.

The first four live in the environment of `make peers`; scripts/peers/load_exports.py runs there.
"""
import importlib.util
import json
import sys
import logging
import math
import re
import subprocess
import warnings

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from test_data import COLUMNS, encode_elsewhere

from autodim.data.files import DataError
from autodim.data.vocabulary import Vocabulary, fit_vocabulary, vocabulary_from_dict
from autodim.app.export import (
    embedding_tables, example_values, module_names, table_weights, torchrec_tables, write_exports, write_onnx,
)  # fmt: skip
from autodim.app.storage import Trained
from autodim.data.columns import Schema
from autodim.data.table import encode_rows
from autodim.method.lookup import FieldEmbedding
from autodim.method.backbones import Network
from autodim.method.models import DLRS

FIELDS = ("userId", "shop.type", "type", "Zip code", "ü", "shop_type")
SIZES, DIMS = (7, 11, 5, 9, 4, 3), (2, 4, 8, 6, 2, 12)
MODULES = ["userId", "shop_type_", "type_", "Zip code", "ü", "shop_type"]


def make_vocabularies(fields=FIELDS, sizes=SIZES):
    return [Vocabulary(field, np.arange(size - 1)) for field, size in zip(fields, sizes)]


def make_model(sizes=SIZES, dims=DIMS, seed=0, hidden=(16, 8)) -> DLRS:
    """A model with large embeddings and BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model = DLRS(sizes, dims, Network(hidden=hidden))
    for table in model.embedding.tables:
        torch.nn.init.normal_(table.weight)
    for _ in range(3):
        model(make_ids(64, sizes, seed))
    return model.eval()


def make_ids(rows, sizes=SIZES, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.integers(0, size, rows) for size in sizes], 1))


OUTSIDE = (-1, -2, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, -(2**63), 2**63 - 1)


def outside_ids(sizes=SIZES) -> np.ndarray:
    """Rows of the OOV id, but for one field each, whose id lies outside its rows: int64 [n, M]."""
    return np.array([[outside if k == m else 0 for k in range(len(sizes))]
                     for m, size in enumerate(sizes) for outside in (size, *OUTSIDE)])


VOCABULARIES, BY_FIELD = make_vocabularies(), dict(zip(FIELDS, DIMS))
ALL = ("onnx", "torchrec", "fuxictr", "deepctr")


def export(folder, *formats, fields=FIELDS, sizes=SIZES, dims=DIMS, label="label", vocabularies=None):
    """Write the exports of a model with these tables; the files."""
    vocabularies = vocabularies or make_vocabularies(fields, sizes)
    trained = Trained(Schema(label, tuple(fields), {}, {}), tuple(vocabularies), np.array([0, 1]),
                      dict(zip(fields, dims)), make_model(sizes, dims), Network(), {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FBGEMM")
        return write_exports(trained, folder, formats)


# ---------------------------------------------------------------- in the real libraries

@pytest.fixture(scope="module")
def peers(root, tmp_path_factory):
    """What each library makes of the exports of one model; all three load at the same time."""
    home = root / ".peers" / "exports"
    if not (home / ".installed").exists():
        pytest.skip("no .peers/exports with TorchRec, DeepCTR-Torch and FuxiCTR: run `make peers`")
    running = {}
    for library in ("torchrec", "deepctr", "fuxictr"):
        folder = tmp_path_factory.mktemp(library)
        for path in export(folder, "torchrec", "deepctr", "fuxictr"):  # all in one folder, where the script looks
            path.rename(folder / path.name)
        np.save(folder / "ids.npy", make_ids(12).numpy())
        np.save(folder / "outside.npy", outside_ids())
        command = [home / "bin" / "python", root / "scripts" / "peers" / "load_exports.py", library, folder]
        running[library] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    results = {}
    for library, process in running.items():
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, f"{library}:\n{errors[-3000:]}"
        results[library] = json.loads(output.splitlines()[-1])
    return results


def test_torchrec_looks_up_the_same_embeddings(peers):
    with torch.no_grad():
        ours = make_model().embedding(make_ids(12)).split(DIMS, dim=1)
    assert peers["torchrec"]["keys"] == list(FIELDS)
    for field, expected in zip(FIELDS, ours):
        assert torch.tensor(peers["torchrec"]["embeddings"][field]).equal(expected), field


def test_we_warn_of_what_fbgemm_refuses(peers):
    """Of each dimension from 1 to 16 FBGEMM itself says whether it can look up."""
    for dim, outcome in peers["torchrec"]["fbgemm"].items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torchrec_tables(embedding_tables({"a": int(dim), "b": 4}, make_vocabularies("ab")))
        assert [w.category for w in caught] == [UserWarning] * (outcome != "runs"), (dim, outcome)
        if caught:
            assert f"unlike those of a ({dim}): " in str(caught[0].message)
            assert "search over dims=(4, 8, 12, 16)" in str(caught[0].message)
    assert [dim for dim, outcome in peers["torchrec"]["fbgemm"].items() if outcome == "runs"] == ["4", "8", "12", "16"]


def test_deepctr_trains_and_predicts_with_mixed_dimensions(peers):
    found = peers["deepctr"]
    assert found["shapes"] == [[size, dim] for size, dim in zip(SIZES, DIMS)]
    assert len(found["predictions"]) == 12 and all(0 < p < 1 for p in found["predictions"])
    assert len(set(found["predictions"])) > 1


def test_deepctr_models_that_take_mixed_dimensions_are_those_the_page_names(peers, root):
    page = (root / "nbs" / "app" / "03_export.ipynb").read_text(encoding="utf-8")
    takes, refuses = page.split("take a dimension for each field: ")[1].split("refuse it: ")
    for name, outcome in peers["deepctr"]["models"].items():
        assert (name in takes, name in refuses.split("A limit")[0]) == (outcome == "runs", outcome != "runs"), outcome
    assert {"WDL", "DeepFM"} <= set(peers["deepctr"]["models"])


def test_fuxictr_embeds_our_ids(peers):
    found = peers["fuxictr"]
    assert found["fields"] == MODULES
    assert found["shapes"] == {module: [12, dim] for module, dim in zip(MODULES, DIMS)}
    assert found["rows"] == dict(zip(MODULES, SIZES))
    assert (found["flat"], found["output"]) == ([12, sum(DIMS)], [12, 1])
    assert found["stacked"].startswith("RuntimeError")  # as the page says of models that stack embeddings


def test_fuxictr_trains_our_dummy_but_not_its_padding(peers):
    assert peers["fuxictr"]["dummy_gradient"] == [True] * len(FIELDS)
    assert peers["fuxictr"]["padding"] == [0] * len(FIELDS)  # of the maps that FuxiCTR makes; ours have none


def test_fuxictr_takes_the_dimensions_for_data_that_it_encodes(peers):
    expected = dict(zip(MODULES, DIMS))
    assert peers["fuxictr"]["own"] == expected and peers["fuxictr"]["in_columns"] == expected


# ---------------------------------------------------------------- names and tables

def accepted(name: str) -> bool:
    """Whether nn.ModuleDict takes a module under this name, by trying."""
    try:
        torch.nn.ModuleDict({name: torch.nn.Identity()})
    except (KeyError, TypeError):
        return False
    return True


def test_module_names_are_accepted_different_and_changed_only_where_they_must():
    rng = np.random.default_rng(0)
    parts = ["a", "b", ".", "_", "type", "keys", "train", "forward", " ", "é", ""]
    changed = 0
    for _ in range(300):
        fields = sorted({"".join(rng.choice(parts, rng.integers(0, 4))) for _ in range(rng.integers(1, 12))})
        rng.shuffle(fields)
        names = module_names(fields)
        assert len(names) == len(set(names)) == len(torch.nn.ModuleDict({n: torch.nn.Identity() for n in names}))
        for field, name in zip(fields, names):
            assert (name == field) == accepted(field), (field, name)
            changed += name != field
    assert changed > 100


@pytest.mark.parametrize("dims", [{"a": 2}, {}, {"a": 2, "b": 2, "c": 2}, {"a": 2, "b": 0}, {"a": 2, "b": 2.0},
                                  {"a": "2", "b": 2}])
def test_dims_that_do_not_fit_are_refused(dims):
    with pytest.raises(ValueError, match="expected a positive whole number for each of a, b") as error:
        embedding_tables(dims, make_vocabularies("ab"))
    assert "\n" not in str(error.value)


def test_two_vocabularies_of_a_field_are_refused():
    with pytest.raises(ValueError, match="for each of a, a"):
        embedding_tables({"a": 2}, make_vocabularies("aa"))


def test_integers_of_numpy_become_json(tmp_path):
    export(tmp_path, "deepctr", dims=np.array(DIMS))
    assert json.loads((tmp_path / "deepctr.json").read_text())[0]["embedding_dim"] == DIMS[0]


def test_tables_keep_the_order_of_the_vocabularies():
    backwards = dict(reversed(BY_FIELD.items()))
    assert embedding_tables(backwards, VOCABULARIES) == embedding_tables(BY_FIELD, VOCABULARIES)
    assert [t.field for t in embedding_tables(backwards, VOCABULARIES)] == list(FIELDS)


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_what_is_looked_up_one_id_at_a_time(seed):
    rng = np.random.default_rng(seed)
    sizes, dims = rng.integers(1, 9, 5).tolist(), rng.integers(1, 4, 5).tolist()
    embedding = FieldEmbedding(sizes, dims, std=1.0)
    tables = embedding_tables(dict(zip("abcde", dims)), make_vocabularies("abcde", sizes))
    ends = np.cumsum([0, *dims])
    for m, weight in enumerate(table_weights(embedding, tables)):
        assert weight.shape == (sizes[m], dims[m]) and weight.is_contiguous() and not weight.requires_grad
        for i in range(sizes[m]):
            ids = torch.zeros(1, 5, dtype=torch.int64)
            ids[0, m] = i
            assert embedding(ids)[0, ends[m] : ends[m + 1]].equal(weight[i])
        weight.zero_()  # a copy: the model stays as it is
        assert (embedding(ids)[0, ends[m] : ends[m + 1]] != 0).all()


# ---------------------------------------------------------------- files

@pytest.mark.parametrize("more", [[], ["\x85", "\a bell", "\x7f", "\u2028", "\ufeffbom", "line\nbreak", "\r", "\x1b[31m"]])
def test_fuxictr_yaml_is_read_as_it_was_meant(more, tmp_path):
    fields = [*more, "a: b", "'q'", '"q"', "yes", "5", "#x", "x{}[],", "\\", "é😀", "~", "- a", "a\tb", "true", "!t", "&a", "null",
              " led", "trail ", "01", "1e3",
              "2020-01-01", "w " * 100]
    dims = [1 + m for m in range(len(fields))]
    export(tmp_path, "fuxictr", fields=fields, sizes=[3] * len(fields), dims=dims)
    read = yaml.safe_load((tmp_path / "fuxictr" / "feature_specs.yaml").read_text(encoding="utf-8"))
    assert read == {"feature_specs": [{"name": field, "embedding_dim": dim} for field, dim in zip(fields, dims)]}


def test_onnx_is_written_without_a_word(tmp_path):
    """In a process of its own, as the exporter's libraries log through a handler of last resort; FM has splits to fold."""
    code = ("import sys\nfrom autodim.app.export import write_onnx\nfrom autodim.method.backbones import Network\n"
            "from autodim.method.models import DLRS\n"
            "write_onnx(DLRS([5, 4, 3], [2, 4, 2], Network('FM', (8,))), ['a', 'b', 'c'], sys.argv[1])")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.onnx"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_label_with_the_name_of_a_feature_is_refused(tmp_path):
    one = {"fields": ["type"], "sizes": [4], "dims": [4]}
    with pytest.raises(ValueError, match="label 'type_' is the name of a feature"):
        export(tmp_path, *ALL, **one, label="type_")
    assert list(tmp_path.iterdir()) == []
    export(tmp_path, "fuxictr", **one, label="type")
    assert json.loads((tmp_path / "fuxictr" / "feature_map.json").read_text())["labels"] == ["type"]


@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_written_is_said_and_nothing_is_left(name, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot be written") as error:
        export(tmp_path / "file", name)
    assert str(tmp_path / "file") in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_folders_are_made_and_old_files_replaced(tmp_path):
    files = export(tmp_path / "new" / "folder")
    first = {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert set(files) == set(first) and len(files) == len(set(files)) == 10
    for path in first:
        path.write_bytes(b"old")
    assert export(tmp_path / "new" / "folder") == files
    assert {path: path.read_bytes() for path in files} == first  # equal, to the byte


# ---------------------------------------------------------------- ONNX

def scored(path, ids: torch.Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(["probability"], {"ids": ids.numpy()})[0]


@pytest.mark.parametrize("sizes,dims", [(SIZES, DIMS), (SIZES, (4,) * 6), ((9,), (3,)), ((5, 4), (2, 1))])
def test_onnx_runtime_equals_pytorch_in_any_batch(sizes, dims, tmp_path):
    model, path = make_model(sizes, dims), tmp_path / "model.onnx"
    write_onnx(model, [f"f{m}" for m in range(len(sizes))], path)
    onnx.checker.check_model(path, full_check=True)
    for rows in (1, 2, 3, 257, 1000):
        ids = make_ids(rows, sizes, seed=rows)
        with torch.no_grad():
            expected = 1 / (1 + np.exp(-model(ids).double().numpy()))
        found = scored(path, ids)
        assert found.shape == (rows,) and found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5
    assert np.ptp(expected) > 0.01  # the comparison sees more than a constant


def test_onnx_file_says_what_it_expects_and_nothing_else(tmp_path, root):
    write_onnx(make_model(), FIELDS, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (ids,), (probability,) = session.get_inputs(), session.get_outputs()
    assert (ids.name, ids.type, ids.shape) == ("ids", "tensor(int64)", ["batch", 6])
    assert (probability.name, probability.type, probability.shape) == ("probability", "tensor(float)", ["batch"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in metadata.items()} == {
        "fields": list(FIELDS), "dims": list(DIMS), "calibration": [1.0, 0.0]}
    content = (tmp_path / "model.onnx").read_bytes()
    for trace in (str(root), "site-packages", ".py", "stack_trace"):
        assert trace.encode() not in content, trace


def test_onnx_gives_calibrated_probabilities(tmp_path):
    model, ids = make_model(), make_ids(300)
    write_onnx(model, FIELDS, tmp_path / "model.onnx", (0.6, -1.25))
    with torch.no_grad():
        expected = 1 / (1 + np.exp(-(0.6 * model(ids).double().numpy() - 1.25)))
    assert np.abs(scored(tmp_path / "model.onnx", ids) - expected).max() < 1e-5


def test_onnx_leaves_the_model_as_it_is(tmp_path):
    """In training mode too: dropout and batch statistics must not be in the file."""
    model = make_model().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    write_onnx(model, FIELDS, tmp_path / "model.onnx")
    assert model.training and all(module.training for module in model.modules())
    assert all(t.equal(before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    ids = make_ids(50)
    with torch.no_grad():
        assert np.abs(scored(tmp_path / "model.onnx", ids) - model.eval()(ids).sigmoid().numpy()).max() < 1e-5


@pytest.mark.parametrize("network,dims", [("MLP", (2, 2, 2)), ("MLP", (4, 2, 4)), ("WideDeep", (4, 2, 4)),
                                          ("FFM", (2, 2, 2))])
def test_onnx_takes_an_id_outside_its_field_for_the_oov_id(network, dims, tmp_path):
    """Where fields share a width, too: the neighbour's rows are not read."""
    torch.manual_seed(0)
    model, sizes = DLRS((3, 4, 5), dims, Network(network, hidden=(8,))).eval(), np.array([3, 4, 5])
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    write_onnx(model, "abc", tmp_path / "model.onnx")
    odd = [[outside if k == m else row[k] for k in range(3)] for m in range(3) for row in ([2, 2, 2], [1, 3, 4])
           for outside in (*OUTSIDE, *range(sizes[m], 12))]
    plain = np.where((np.array(odd) >= 0) & (odd < sizes), odd, 0)
    found, expected = (scored(tmp_path / "model.onnx", torch.tensor(ids)) for ids in (odd, plain))
    assert found.tolist() == expected.tolist() and len(set(found)) == 6
    assert np.allclose(model(torch.tensor(odd)).sigmoid().detach(), found, atol=1e-6)


@pytest.mark.parametrize("library", ["torchrec", "deepctr", "fuxictr"])
def test_other_libraries_refuse_an_id_outside_its_field(library, peers):
    found = peers[library]["outside"]
    assert len(found) == len(FIELDS) * (len(OUTSIDE) + 1)
    assert all("Error: " in outcome for outcome in found), found


def test_fused_tables_take_an_id_outside_its_field_for_the_oov_id_or_refuse_it(peers):
    """FBGEMM's, in which the neighbour's rows lie beside: they run as with id 0, and refuse -1."""
    found = peers["torchrec"]["fused"]
    assert len(found) == len(FIELDS) * (len(OUTSIDE) + 1)
    assert all(outcome == "runs" or "out of bounds" in outcome for outcome in found) and "runs" in found, found


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_onnx_names_the_packages_that_it_lacks(package, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        write_onnx(make_model(), FIELDS, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_beyond_two_gigabytes_is_refused_at_once(tmp_path):
    with torch.device("meta"):
        embedding = torch.nn.Embedding(2**29, 1)
    model = make_model((3,), (1,))
    model.embedding.tables[0].weight = embedding.weight
    with pytest.raises(ValueError, match=r"the model has 2\.1 GB, and one ONNX file holds 2"):
        write_onnx(model, ["a"], tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_export_is_silent_and_other_logs_are_not(tmp_path, monkeypatch, caplog):
    """The exporter logs only when it is first used, so this one does it each time."""
    real, exporter = torch.onnx.export, logging.getLogger("torch.onnx._internal.exporter._registration")

    def noisy(*arguments: object, **settings: object) -> object:
        exporter.warning("some package is not installed")
        warnings.warn("something is deprecated", FutureWarning)
        logging.getLogger("mine").warning("kept")
        return real(*arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_onnx(make_model(), FIELDS, tmp_path / "model.onnx")
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == ["kept"]
    exporter.warning("afterwards")
    assert caplog.records[-1].message == "afterwards"


# ---------------------------------------------------------------- vocabularies

def read_again(path) -> list[Vocabulary]:
    """As the page says to read vocabularies.json."""
    return [vocabulary_from_dict(record) for record in json.loads(path.read_text(encoding="utf-8"))]


def exported(folder, vocabularies) -> list[Vocabulary]:
    fields, sizes = [v.name for v in vocabularies], [v.cardinality for v in vocabularies]
    files = export(folder, "deepctr", fields=fields, sizes=sizes, dims=[2] * len(fields), vocabularies=vocabularies)
    return read_again(files[0])


def test_vocabulary_files_encode_alike_here_and_elsewhere(tmp_path):
    columns, fitted = {}, []
    for name, (values, dtype, buckets, _) in COLUMNS.items():
        columns[name] = pd.Series(values, dtype=dtype, name=name)
        fitted.append(fit_vocabulary(columns[name], buckets=buckets))
    again = exported(tmp_path, fitted)
    assert [v.name for v in again] == list(COLUMNS)
    entries = json.loads((tmp_path / "vocabularies.json").read_bytes())
    for old, new, entry in zip(fitted, again, entries, strict=True):
        column = columns[old.name]
        expected = old.encode(column).tolist()
        assert new.encode(column).tolist() == expected and new.cardinality == old.cardinality
        assert encode_elsewhere(json.dumps(entry), column.tolist()) == expected


def test_a_vocabulary_file_has_a_line_for_each_field(tmp_path):
    odd = Vocabulary("odd\n", np.array(["\u2028", "\n", '"', "\\ud800", "😀"], dtype=object))
    again = exported(tmp_path, [odd, *VOCABULARIES])
    text = (tmp_path / "vocabularies.json").read_bytes().decode()
    assert text.count("\n") == 2 + 1 + len(VOCABULARIES)
    assert again[0].values.tolist() == odd.values.tolist()


def test_a_value_that_json_cannot_hold_leaves_no_file(tmp_path):
    odd = Vocabulary("odd", np.array([1.0, np.inf]))
    with pytest.raises(DataError, match="field 'odd': JSON cannot hold its value inf"):
        exported(tmp_path, [*VOCABULARIES, odd])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- README.md, label.json, example.json

def ids_elsewhere(vocabularies: list[dict], row: dict) -> list[int]:
    """The ids of a raw row by the four rules of the exported README alone."""
    ids = []
    for field in vocabularies:
        value = row[field["name"]]
        if value is None:
            ids.append(field["missing_id"])
            continue
        if field["rule"] == "quantiles":
            value = sum(edge <= value for edge in field["edges"])
        elif field["rule"] == "criteo":
            value = int(value) if value <= 2 else math.floor(math.log(value) ** 2)
        same = [k for k, known in enumerate(field["values"], 1) if known == value and type(known) is type(value)]
        ids.append(same[0] if same else 0)
    return ids


def raw_columns(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    holes = rng.random(n) < 0.1
    return pd.DataFrame({
        "text": pd.Series(rng.choice(["a", "5", "never seen", "ü", "14.10"], n), dtype=object).where(~holes, None),
        "whole": pd.array(np.where(holes, None, rng.integers(-3, 9, n)), dtype="Int64"),
        "far": rng.integers(2**53 - 3, 2**53 + 3, n), "number": rng.normal(size=n).round(1), "price": rng.gamma(2, 5, n),
        "count": rng.integers(0, 500, n).astype(float), "truth": rng.random(n) < 0.4,
        "day": pd.to_datetime("2026-01-01") + pd.to_timedelta(rng.integers(0, 9, n), "D")})  # fmt: skip


def test_example_rows_are_encoded_elsewhere_by_the_readme_s_rules(tmp_path):
    """From raw rows and vocabularies.json by a few lines of plain Python, and by ONNX Runtime to the probabilities."""
    frame, buckets = raw_columns(), {"price": 7, "count": "criteo"}
    vocabularies = [fit_vocabulary(frame[name], 2, buckets.get(name)) for name in frame]
    sizes, dims = [v.cardinality for v in vocabularies], (2, 4, 8, 2, 4, 4, 2, 6)
    model, calibration = make_model(sizes, dims), (0.8, -1.25)
    trained = Trained(Schema("bought", tuple(frame), buckets, {}, missing=("n.a.",)), tuple(vocabularies),
                      np.array(["no", "yes"], dtype=object), dict(zip(frame, dims)), model.train(), Network(), {}, calibration)
    write_exports(trained, tmp_path, ["onnx"])
    assert model.training  # as it was
    read = {name: json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("vocabularies", "example", "label")}
    rows = read["example"]["rows"]
    ids = [ids_elsewhere(read["vocabularies"], row["row"]) for row in rows]
    assert ids == [row["ids"] for row in rows] and len(rows) == 5
    scores = scored(tmp_path / "model.onnx", torch.tensor(ids))
    assert np.allclose(scores, [row["probability"] for row in rows], atol=1e-6) and np.ptp(scores) > 1e-3
    slope, intercept = read["label"]["calibration"]
    by_hand = [1 / (1 + math.exp(-(slope * row["logit"] + intercept))) for row in rows]
    assert np.allclose(by_hand, scores, atol=1e-6) and (slope, intercept) == calibration
    for m, (name, vocabulary) in enumerate(zip(frame, vocabularies)):
        seen = [row["ids"][m] for row in rows]
        assert seen[-1] == vocabulary.missing_id and rows[-1]["row"][name] is None  # a missing value
        assert len(set(seen)) > (1 if name == "truth" else 2), name
        assert name in ("price", "count", "truth") or seen[3] == 0, name  # an unseen one
    assert (read["label"]["positive"], read["label"]["classes"]) == ("yes", ["no", "yes"])
    assert read["example"]["positive"] == "yes" and "n.a." in read["label"]["missing"]


def test_the_readme_names_the_files_that_are_there_and_the_positive_class(tmp_path):
    for formats in (ALL, ("deepctr",), ("onnx", "fuxictr")):
        folder = tmp_path / "-".join(formats)
        files = {path.relative_to(folder).as_posix() for path in export(folder, *formats, label="clicked")}
        text = (folder / "README.md").read_text("utf-8")
        assert set(re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)) == files - {"README.md"}
        assert "the probability that `clicked` is **1** (and not 0)" in text and "id 0" in text


@pytest.mark.parametrize("values", [[], [True], [False, True], ["never seen", "never seen?"], [2**63 - 1, -(2**63)], [0.5, -1e300],
                                    ["a", 1, 2.5]])
def test_examples_of_any_vocabulary(values):
    """Written as JSON, read, and encoded by the model's own encoder: known values, an unseen one, a missing one."""
    vocabulary = Vocabulary("it", np.array(values, dtype=object if len({*map(type, values)}) > 1 or values[:1] == ["never seen"]
                                           else None), len(values) + 1)
    found = json.loads(json.dumps(example_values(vocabulary)))
    ids = encode_rows(pd.DataFrame({"it": pd.Series(found, dtype=object)}), [vocabulary])[:, 0].tolist()
    assert len(found) == 5 and ids[-1] == vocabulary.missing_id
    assert not values or ids[0] == 1 and ids[2] == len(values)
    assert ids[3] == (vocabulary.missing_id if isinstance(found[0], bool) else 0)
