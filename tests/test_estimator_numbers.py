"""Numbers of the estimator: chosen or named embeddings predict alike after saving and in ONNX; errors name the column."""
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from autodim import AutoDim, load
from autodim.app.export import write_onnx
from autodim.data.files import DataError
from autodim.data.table import encode_rows
from autodim.method.metrics import predict
from autodim.method.numbers import KINDS
from autodim.training.checkpoint import FileCheckpoint

SMALL = AutoDim(dims=(2, 4), hidden=(8,), dropout=0.0, search_epochs=2, epochs=4, batch_size=100, rivals=False)


def table(n: int = 2000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": np.exp(rng.standard_normal(n)), "visits": rng.poisson(3, n),
                          "shop": rng.choice(list("abcd"), n)})
    chance = 1 / (1 + np.exp(-3 * np.sin(2 * np.log(frame.price))))
    frame["click"] = (rng.random(n) < chance).astype(int)
    frame.loc[rng.random(n) < 0.1, "price"] = np.nan
    return frame


@pytest.fixture(scope="module")
def fitted() -> AutoDim:
    return clone(SMALL).set_params(numerical={"price": "auto", "visits": "piecewise"}).fit(table(), label="click")


def test_kinds_are_chosen_or_kept_and_predictions_follow_the_number(fitted):
    assert fitted.numbers_["price"] in KINDS and fitted.numbers_["visits"] == "piecewise"
    rows = table().drop(columns="click").head(3).assign(price=[1e9, 1e12, np.nan])
    one, other, _ = fitted.predict_proba(rows.assign(shop="a", visits=1))[:, 1]
    assert one == other  # beyond the last bin all numbers are one
    assert clone(SMALL).fit(table(), label="click").numbers_ == {}


def test_predictions_are_those_of_the_saved_model_and_of_its_graph(fitted, tmp_path):
    rows = table().drop(columns="click")
    chances = fitted.predict_proba(rows)
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(rows), chances)
    assert again.numbers_ == fitted.numbers_
    onnxruntime = pytest.importorskip("onnxruntime")
    write_onnx(again.model_, list(again.dims_), tmp_path / "m.onnx", again.trained_.calibration)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    ids = encode_rows(rows, again.vocabularies_, again.schema_.missing).numpy().astype(np.int64)
    np.testing.assert_allclose(session.run(None, {"ids": ids})[0], chances[:, 1], atol=1e-5)


def test_it_learns_from_all_rows_and_packs_as_other_fields_do():
    both = clone(SMALL).set_params(numerical={"price": "periodic"}, refit=True, max_loss=5.0).fit(table(), label="click")
    assert both.record_["numbers"] == {"price": "periodic"} and both.record_["refit"]["rows"] == 2000
    assert np.isfinite(both.predict_proba(table().drop(columns="click"))).all()


@pytest.mark.parametrize("saves", [3, 6, 8])  # of two epochs of dimensions, two of kinds, at most four of a training
def test_a_fit_in_a_folder_goes_on_with_its_numbers(saves, fitted, tmp_path, monkeypatch):
    class Interrupted(BaseException):
        pass

    def save(self, state, real=FileCheckpoint.save):
        real(self, state)
        done.append(self.path.name)
        if len(done) == saves:
            raise Interrupted

    done, model = [], clone(SMALL).set_params(**fitted.get_params()).set_params(folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FileCheckpoint, "save", save)
        with pytest.raises(Interrupted):
            model.fit(table(), label="click")
    assert ("train-kinds" in done[-1]) == (saves == 3)
    monkeypatch.setattr(FileCheckpoint, "save", lambda self, state, real=FileCheckpoint.save: (
        done.append(self.path.name), real(self, state)))
    model.fit(table(), label="click")
    rows = table().drop(columns="click")
    np.testing.assert_array_equal(model.predict_proba(rows), fitted.predict_proba(rows))
    assert model.numbers_ == fitted.numbers_ and done.count("search.state") == done.count("train-kinds.state") == 2


@pytest.mark.parametrize("settings, error, words", [
    ({"numerical": {"price": "spline"}}, ValueError, "column 'price' has the rule 'spline', expected .*'auto'.*'autodis'"),
    ({"numerical": {"cost": "auto"}}, DataError, "numerical: column 'cost' is not in the table"),
    ({"numerical": {"shop": "auto"}}, DataError, "column 'shop'"),
    ({"numerical": {"price": "auto"}, "backbone": "FM"}, ValueError, "no function of price makes: .*buckets.*DCN"),
])  # fmt: skip
def test_an_error_names_the_column_and_the_way_out(settings, error, words):
    with pytest.raises(error, match=words):
        clone(SMALL).set_params(**settings).fit(table(), label="click")


@pytest.mark.parametrize("settings", [{"task": "regression"}, {"task": "classes"}, {"backbone": "IPNN"}])
def test_other_tasks_and_networks_embed_numbers_too(settings, tmp_path):
    frame = table()
    frame["click"] = frame.click + (frame.visits > 3) if "task" in settings else frame.click
    if settings.get("task") == "classes":
        frame["click"] = frame.click.map({0: "none", 1: "one", 2: "two"})
    model = clone(SMALL).set_params(numerical={"price": "auto", "visits": "tree"}, repeats=1, **settings)
    model.fit(frame, label="click")
    assert model.numbers_["price"] in KINDS and model.numbers_["visits"] == "tree"
    assert "Numbers: price " in str(model.report()) and "visits tree" in str(model.report())
    model.save(tmp_path / "model")
    rows = frame.drop(columns="click")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(rows), model.predict(rows))
    one, other = model.predict(rows.head(1).assign(price=-5.0)), model.predict(rows.head(1).assign(price=-1e300))
    assert one == other  # below the first bin all numbers are one


def test_scores_do_not_depend_on_what_the_frame_calls_its_missing_numbers(fitted):
    rows = table().drop(columns="click").head(50)
    plain = predict(fitted.model_, _part(fitted, rows))
    np.testing.assert_array_equal(plain, predict(fitted.model_, _part(fitted, rows.astype({"price": "Float64"}))))


def _part(model: AutoDim, rows: pd.DataFrame):
    from autodim.data.batches import Part

    ids = encode_rows(rows, model.vocabularies_, model.schema_.missing)
    return Part(ids, ids[:, 0].float())
