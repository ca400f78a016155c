"""Embeddings of numbers: knots, encodings and models against NumPy, SciPy and scikit-learn on the raw numbers."""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import interpolate
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from autodim.data.batches import Data
from autodim.data.encode import encode_table
from autodim.data.split import random_split
from autodim.data.vocabulary import fit_vocabulary
from autodim.method.backbones import Network
from autodim.method.lookup import FieldEmbedding
from autodim.method.models import embedding_parameters
from autodim.method.numbers import (
    FINE, KINDS, Encoding, NumberTable, as_tables, bin_values, number_grid, number_model, piecewise, places_of,
    quantile_knots, sized, train_encodings, tree_knots,
)  # fmt: skip
from autodim.method.retrain import TrainConfig
from autodim.training.runtime import Runtime

SMALL = Network(hidden=(8,), dropout=0.0)


def table(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """A long-tailed number with holes, counts of which half are 0, names, and a label that goes by both numbers."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"price": np.exp(2 * rng.standard_normal(n)), "visits": rng.poisson(0.8, n) * 1.0,
                          "shop": rng.choice(list("abcd"), n)})
    logits = np.log(frame.price) - 2 * (frame.visits > 1)
    frame["label"] = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    frame.loc[rng.random(n) < 0.1, "price"] = np.nan
    return frame


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def data(frame: pd.DataFrame) -> Data:
    return encode_table(frame, random_split(len(frame), 0), buckets={"price": FINE, "visits": FINE})


def grid_of(data: Data, m: int):
    return number_grid(data.vocabularies[m], data.train.ids[:, m], data.train.labels)


def test_bins_stand_within_their_edges_and_beyond_the_outer_ones():
    edges = np.sort(np.random.default_rng(0).standard_normal(50))
    values = bin_values(edges)
    assert (np.searchsorted(edges, values, side="right") == np.arange(51)).all() and (np.diff(values) > 0).all()
    assert bin_values([]).tolist() == [0.0] and bin_values([3.0]).tolist() == [2.5, 3.5]


def test_a_grid_counts_the_training_rows_of_each_number(frame, data):
    grid, train = grid_of(data, 1), frame.iloc[random_split(len(frame), 0).train]
    by = train.groupby("visits").label.agg(["size", "sum"])
    assert grid.counts.tolist() == by["size"].tolist() and grid.sums[:, 1].tolist() == by["sum"].tolist()
    torch.testing.assert_close(grid.values, torch.tensor(by.index.to_numpy()), atol=1e-5, rtol=0)
    assert grid.missing_id == 0 and grid_of(data, 0).missing_id == len(grid_of(data, 0).values) + 1


def test_rare_bins_and_criteo_buckets_keep_their_numbers():
    column = pd.Series([1.0] * 5 + [2.0] + [3.0] * 4 + [9.0] * 9, name="n")
    labels = torch.zeros(len(column))
    for buckets, numbers in ((FINE, [1.0, 3.0, 9.0]), ("criteo", [1, 1, 4])):
        vocabulary = fit_vocabulary(column, 2, buckets)  # 2.0 is too rare
        grid = number_grid(vocabulary, torch.from_numpy(vocabulary.encode(column)), labels)
        kept = sorted(set(numbers)) if buckets == "criteo" else numbers
        assert len(grid.values) == len(kept) and int(grid.counts.sum()) >= len(column) - 1
        assert (grid.values.diff() > 0).all()


@pytest.mark.parametrize("column", [[5.0] * 9, list("abcabcabc")])
def test_what_is_no_number_is_named(column):
    vocabulary = fit_vocabulary(pd.Series(column, name="odd"), 1, 4 if column[0] == 5.0 else None)
    why = "it has one value alone" if column[0] == 5.0 else "its values are names"
    with pytest.raises(ValueError, match=f"field 'odd' cannot be embedded as a number: {why}; take a number of buckets"):
        number_grid(vocabulary, torch.ones(9, dtype=torch.int32), torch.zeros(9))


def test_a_tree_has_the_splits_that_scikit_learn_finds_in_the_rows(data):
    grid, bins = grid_of(data, 0), 8
    ids = data.train.ids[:, 0].long()
    there = (ids > 0) & (ids <= len(grid.values))
    rows = grid.values[ids[there] - 1].numpy()[:, None]
    made = DecisionTreeClassifier(max_leaf_nodes=bins, min_samples_leaf=0.25 / bins, random_state=0)
    own = made.fit(rows, data.train.labels[there].numpy()).tree_
    expected = np.sort(own.threshold[own.feature == 0])
    found = tree_knots(grid, bins)[1:-1].numpy()
    side = [np.searchsorted(grid.values.numpy(), splits) for splits in (expected, found)]
    assert side[0].tolist() == side[1].tolist()


@pytest.mark.parametrize("scale, offset", [(1e-300, 0.0), (1e300, 0.0), (1.0, 1e15), (1e30, 1e40), (1e-6, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_offset_change_no_table(scale, offset, kind):
    """Whole numbers and the same in other units, beyond float32 among them: a fresh table has the same rows."""
    rng, made = np.random.default_rng(0), []
    whole = rng.integers(0, 60, 2000) * 2.0**8
    label = torch.from_numpy((whole > 2000 + 4000 * rng.random(2000)).astype(np.float32))
    for own in (whole, whole * scale + offset):
        column = pd.Series(own, name="n")
        vocabulary = fit_vocabulary(column, 1, "fine")
        grid = number_grid(vocabulary, torch.from_numpy(vocabulary.encode(column)), label)
        torch.manual_seed(0)
        made.append(NumberTable(grid, sized(kind, 60, 2), 2)().detach())
    assert made[1].isfinite().all()
    torch.testing.assert_close(made[1], made[0], atol=1e-4, rtol=1e-3)


def test_numbers_that_no_double_holds_apart_are_named():
    for column in ([2.0**60, 2.0**60 + 256] * 9, [-1.7e308, -1.6e308, 1.6e308, 1.7e308] * 9):
        vocabulary = fit_vocabulary(pd.Series(column, name="odd"), 1, "fine")
        ids = torch.from_numpy(vocabulary.encode(pd.Series(column)))
        with pytest.raises(ValueError, match="field 'odd' cannot be embedded as a number: .* too close to each other, or too far apart"):
            number_grid(vocabulary, ids, torch.zeros(len(ids)))


def test_every_number_has_a_bin_however_rare_its_value_is():
    column = pd.Series(np.random.default_rng(0).standard_normal(600), name="n")  # two rows a bin, or three
    vocabulary = fit_vocabulary(column, 30, "fine")
    new = pd.Series([-1e9, *np.linspace(-3, 3, 99), 1e9], name="n")
    ids = vocabulary.encode(new)
    assert (ids > 0).all() and (np.diff(ids) >= 0).all() and vocabulary.cardinality == 1 + FINE
    edges = np.array(vocabulary.edges)
    assert ids.tolist() == [1 + int((edges <= x).sum()) for x in new]


@pytest.mark.parametrize("task", ["regression", "classes"])
def test_a_tree_of_other_tasks_has_the_splits_of_scikit_learn_on_the_rows(frame, task):
    rng, bins = np.random.default_rng(0), 6
    score = np.log(frame.price.fillna(1)) + rng.normal(0, 0.3, len(frame))
    labels = 1e6 + 1e3 * score if task == "regression" else np.digitize(score, [-1.0, 0.5]).astype(float)
    made = encode_table(frame.assign(label=labels), random_split(len(frame), 0), buckets={"price": "fine", "visits": "fine"},
                        task=task)
    ids = made.train.ids[:, 0].long()
    grid = number_grid(made.vocabularies[0], made.train.ids[:, 0], made.train.labels, made.task)
    there = (ids > 0) & (ids <= len(grid.values))
    tree = DecisionTreeRegressor if task == "regression" else DecisionTreeClassifier
    own = tree(max_leaf_nodes=bins, min_samples_leaf=0.25 / bins, random_state=0).fit(
        ids[there].numpy()[:, None], made.train.labels[there].double().numpy()).tree_
    expected = np.sort(own.threshold[own.feature == 0])  # between ids
    found = np.searchsorted(grid.values.numpy(), tree_knots(grid, bins)[1:-1].numpy()) + 0.5
    assert expected.tolist() == found.tolist()


@pytest.mark.parametrize("bins", [1, 2, 5, 20, 400])
def test_knots_are_never_more_than_asked_for(data, bins):
    for m in (0, 1):
        grid = grid_of(data, m)
        for knots in (quantile_knots(grid, bins), tree_knots(grid, bins)):
            assert 2 <= len(knots) <= bins + 1 and (knots.diff() > 0).all()


def test_a_piecewise_embedding_is_an_interpolated_bucket_table(data):
    """Its outputs are those of SciPy's interpolation between one vector a knot; float64."""
    grid = grid_of(data, 0)
    torch.manual_seed(0)
    made = NumberTable(grid, Encoding("piecewise", 6), 3).double()
    made.numbers.basis = torch.cat([torch.ones(len(grid.values), 1), piecewise(grid.values, quantile_knots(grid, 6))], 1)
    knots = quantile_knots(grid, 6).numpy()
    between = interpolate.interp1d(knots, made.numbers.weight.detach().cumsum(0).numpy(), axis=0)
    np.testing.assert_allclose(made()[1:-1].detach(), between(grid.values.numpy().clip(knots[0], knots[-1])), atol=1e-12)


def test_places_are_the_shares_of_rows(frame, data):
    train = frame.iloc[random_split(len(frame), 0).train].price.dropna().to_numpy()
    u = (places_of(grid_of(data, 0)) + 1) / 2
    below = np.array([(train < v).mean() for v in grid_of(data, 0).values.tolist()])
    inner = (below > 0.05) & (below < 0.95)  # beyond the outer quantiles the tail is long, and u follows the number
    assert np.abs(u.numpy() - below)[inner].max() < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_and_all_learn(data, kind):
    d, floats = 5, 130
    encoding = sized(kind, floats, d)
    torch.manual_seed(1)
    made = NumberTable(grid_of(data, 0), encoding, d)
    assert sum(q.numel() for q in made.parameters()) == encoding.parameters(d) <= floats
    if kind == "out":
        assert not made().any()
        return
    assert Encoding(kind, encoding.size + 1).parameters(d) > floats
    (made() * torch.randn(made().shape)).sum().backward()
    assert all(q.grad.abs().sum() > 0 for q in made.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_plain_tables_have_the_same_outputs(data, kind):
    dims = {"price": 4, "visits": 3, "shop": 2}
    encodings = {"price": sized(kind, 90, 4), "visits": Encoding("buckets", 3)}
    fitted = train_encodings(data, dims, encodings, TrainConfig(epochs=1, batch_size=200), SMALL,
                             Runtime(0, progress=False))
    plain = as_tables(fitted.model.eval(), data.cardinalities)
    expected = fitted.model(data.test.ids).detach()
    torch.testing.assert_close(plain(data.test.ids), expected, atol=1e-6, rtol=1e-6)
    assert embedding_parameters(fitted.model) < embedding_parameters(plain)


@pytest.mark.parametrize("backbone, task", [("MLP", "classes"), ("IPNN", "regression"), ("DCN", "binary")])
def test_other_networks_and_tasks_have_plain_tables_too(frame, backbone, task):
    """The caller's random numbers go on as if nothing had been drawn."""
    label = {"classes": pd.qcut(frame.price.fillna(1), 3, labels=False), "regression": frame.visits, "binary": frame.label}
    made = encode_table(frame.assign(label=label[task]), random_split(len(frame), 0), buckets={"price": "fine"}, task=task)
    network = Network(backbone, hidden=(8,))
    dims = {"price": 4, "visits": 3, "shop": 2}
    fitted = train_encodings(made, dims, {"price": sized("periodic", 90, 4)}, TrainConfig(epochs=1, batch_size=200),
                             network, Runtime(0, progress=False))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    plain = as_tables(fitted.model.eval(), made.cardinalities)
    assert torch.equal(torch.rand(3), expected)
    torch.testing.assert_close(plain(made.test.ids), fitted.model(made.test.ids), atol=1e-5, rtol=1e-5)


def test_an_id_that_the_field_does_not_have_is_taken_for_id_0(data):
    torch.manual_seed(0)
    model = number_model(data, dict.fromkeys(data.fields, 2), {"price": Encoding("piecewise", 3)}, SMALL).eval()
    ids = data.test.ids[:3].clone()
    ids[:, 0] = torch.tensor([0, 9999, -1])
    ids[:, 1:] = ids[0, 1:]
    assert len(model(ids).unique()) == 1


def test_a_field_left_out_moves_no_logit_and_the_network_starts_alike(data):
    dims, models = dict.fromkeys(data.fields, 2), []
    for kind in ("out", "buckets"):
        torch.manual_seed(3)
        models.append(number_model(data, dims, {"price": sized(kind, 40, 2)}, SMALL).eval())
    ids, other = data.test.ids[:20], data.test.ids[:20].clone()
    other[:, 0] = 1
    assert (models[0](ids) == models[0](other)).all() and not (models[1](ids) == models[1](other)).all()
    for a, b in zip(models[0].backbone.parameters(), models[1].backbone.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrong, words", [
    ({"encodings": {"cost": Encoding("out", 0)}}, "the fields are price, visits, shop"),
    ({"encodings": {"shop": Encoding("periodic", 2)}}, "field 'shop' cannot be embedded"),
    ({"encodings": {"price": Encoding("out", 0)}, "network": Network("DeepFM")},
     "backbone DeepFM has a weight for each id, which no function of price makes.*DCN"),
])  # fmt: skip
def test_one_error_says_what_to_do(data, wrong, words):
    arguments = {"encodings": {}, "network": SMALL} | wrong
    with pytest.raises(ValueError, match=words):
        number_model(data, dict.fromkeys(data.fields, 2), **arguments)
