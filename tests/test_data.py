"""autodim.data against encoders, splits and buckets written as plain loops over Python objects."""
import hashlib
import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import autodim.data.batches as data_module
from autodim.data.batches import DiskPart, Part, batches
from autodim.data.encode import encode_table
from autodim.data.files import DataError
from autodim.data.split import ScatteredSplit, Split, chronological_split, random_split, row_draws, split_of
from autodim.data.vocabulary import (
    FOLDS, STRENGTHS, Vocabulary, compare_codings, count_by_fold, criteo_buckets, edges_between, fit_vocabulary,
    quantile_edges, shared_values, vocabulary_from_dict, vocabulary_to_dict,
)  # fmt: skip
from oracles import bucket_edges


def missing(value):
    return value is None or value is pd.NA or value != value


def oracle_ids(train, rows, min_count):
    """The rule of the vocabulary as dictionaries: own ids in the order of values, then missing; 0 is the OOV id."""
    counts = Counter(None if missing(v) else v for v in train)
    kept = sorted(v for v, c in counts.items() if v is not None and c >= min_count)
    ids = {value: i for i, value in enumerate(kept, 1)}
    if counts[None] >= max(min_count, 1):
        ids[None] = len(kept) + 1
    return [ids.get(None if missing(v) else v, 0) for v in rows], 1 + len(ids)


def random_column(rng, kind):
    n = int(rng.integers(1, 60))
    values = rng.zipf(1.5, n).clip(max=9)
    holes = rng.random(n) < rng.choice([0, 0.2, 1.0], p=[0.4, 0.5, 0.1])
    made = {"str": [f"v{v}" for v in values], "int": values.tolist(), "float": [float(v) for v in values]}
    column = [None if hole else v for v, hole in zip(made[kind.split("-")[0]], holes)]
    dtypes = {"str": None, "int": "Int64", "float": "float64", "int-object": object, "str-category": "category"}
    return column, pd.Series(column, dtype=dtypes[kind], name="field")


@pytest.mark.parametrize("kind", ["str", "int", "float", "int-object", "str-category"])
def test_vocabulary_equals_a_loop(kind):
    rng = np.random.default_rng(0)
    for _ in range(60):
        values, column = random_column(rng, kind)
        n_train, min_count = int(rng.integers(1, len(values) + 1)), int(rng.integers(1, 5))
        vocabulary = fit_vocabulary(column.iloc[:n_train], min_count)
        expected, cardinality = oracle_ids(values[:n_train], values, min_count)
        ids = vocabulary.encode(column)
        assert ids.dtype == np.int64 and ids.tolist() == expected
        assert vocabulary.cardinality == cardinality


def test_values_of_several_types_each_have_an_id():
    column = pd.Series(["a", 1, 2.5, "a", None, ("x", 1)], dtype=object)
    ids = fit_vocabulary(column).encode(column).tolist()
    assert len(set(ids)) == 5 and ids[0] == ids[3] and 0 not in ids


def test_a_column_may_change_its_type_after_fitting():
    """Integers become floats as soon as pandas meets a hole; the ids must not move."""
    vocabulary = fit_vocabulary(pd.Series([5, 7, 5]))
    assert vocabulary.encode(pd.Series([7.0, np.nan, 5.0])).tolist() == [2, 0, 1]
    strings = fit_vocabulary(pd.Series(["x", "y"], dtype="category"))
    assert strings.encode(pd.Series(["y", "new", "x"], dtype="category")).tolist() == [2, 0, 1]


def criteo_loop(v):
    if v is None or v != v:
        return None
    return math.floor(math.log(v) ** 2) if v > 2 else int(v)


def test_criteo_rule_equals_a_loop():
    values = np.r_[np.arange(-5, 3000), 2.0001, -0.7, 1.9, 1e9]
    assert criteo_buckets(values).tolist() == [criteo_loop(v) for v in values.tolist()]


def test_criteo_column_equals_a_loop():
    rng = np.random.default_rng(1)
    values = [None if rng.random() < 0.2 else int(v) for v in np.exp(rng.normal(2, 2, 500)).round() - 2]
    column, train = pd.Series(values, name="I1", dtype="Int64"), 300
    buckets = [criteo_loop(v) for v in values]
    expected, cardinality = oracle_ids(buckets[:train], buckets, min_count=3)
    vocabulary = fit_vocabulary(column[:train], min_count=3, buckets="criteo")
    assert (vocabulary.encode(column).tolist(), vocabulary.cardinality) == (expected, cardinality)


@pytest.mark.parametrize("q", [1, 2, 5, 20])
def test_quantiles_equal_a_loop(q):
    rng = np.random.default_rng(q)
    values = np.where(rng.random(400) < 0.1, np.nan, rng.exponential(size=400).round(1))
    train = values[:250]
    cuts = bucket_edges(train, q)
    buckets = [None if v != v else sum(v >= cut for cut in cuts) for v in values.tolist()]
    expected, cardinality = oracle_ids(buckets[:250], buckets, min_count=1)
    vocabulary = fit_vocabulary(pd.Series(train, name="x"), buckets=q)
    assert list(vocabulary.edges) == pytest.approx(cuts)
    assert (vocabulary.encode(pd.Series(values)).tolist(), vocabulary.cardinality) == (expected, cardinality)


@pytest.mark.parametrize("q", [2, 4, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_number_beyond_training_is_encoded_as_the_outermost_of_training(q, seed):
    rng = np.random.default_rng(seed)
    train = np.where(rng.random(300) < rng.uniform(0, 0.9), 0.0, rng.exponential(size=300).round(1))  # often zero
    vocabulary = fit_vocabulary(pd.Series(train, name="x"), buckets=q)
    inner = vocabulary.encode(pd.Series([train.min(), train.max()]))
    assert vocabulary.encode(pd.Series([train.min() - 5, train.max() + 5])).tolist() == inner.tolist()
    assert min(inner) > 0  # none is the OOV id


@pytest.mark.parametrize("q", [np.int64(3), np.uint8(3)])
def test_numbers_of_buckets_may_be_numpys(q):
    column = pd.Series(np.arange(30.0), name="x")
    assert fit_vocabulary(column, buckets=q).edges == fit_vocabulary(column, buckets=3).edges
    with pytest.raises(ValueError, match="a number of quantiles"):
        fit_vocabulary(column, buckets=True)


def test_quantile_buckets_are_balanced():
    counts = np.bincount(fit_vocabulary(pd.Series(np.arange(1000.0)), buckets=8).encode(pd.Series(np.arange(1000.0))))
    assert counts.tolist() == [0] + [125] * 8
    assert quantile_edges(np.array([np.nan]), 4) == ()


@pytest.mark.parametrize("share", [0.2, 0.78, 0.99])
def test_a_value_that_many_rows_share_has_a_bucket_of_its_own(share):
    """The others are in as many buckets, of equally many rows, as are left, on both sides of it or on one."""
    for low in (0.0, -1.0):
        rng = np.random.default_rng(0)
        values = np.where(rng.random(10_000) < share, 0.0, rng.uniform(low, 1, 10_000))
        vocabulary = fit_vocabulary(pd.Series(values, name="x"), buckets=20)
        counts = np.bincount(vocabulary.encode(pd.Series(values)))[1:]
        mine = vocabulary.encode(pd.Series([0.0]))[0] - 1
        assert counts[mine] == (values == 0).sum() and len(counts) in ((20,) if low == 0 else (20, 21))
        even = (values != 0).sum() / 19
        assert all(abs(n - even) < 2 for n in np.delete(counts, mine if low == 0 else [mine - 1, mine, mine + 1]))
        assert abs(counts.sum() - counts[mine] - 19 * even) < 1e-6


def test_few_values_are_kept_apart_however_unequal_their_rows():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values, q = rng.permutation(100)[: rng.integers(1, 21)] - 50.0, 20
        counts = np.exp(rng.uniform(0, 12, len(values))).astype(np.int64) + 1
        edges = quantile_edges(values, q, counts)
        assert len(set(np.searchsorted(edges, values, side="right"))) == len(values) == len(edges) + 1
        assert shared_values(counts, q).sum() < q or shared_values(counts, q).all()


NEIGHBOURS = {
    "tenths": np.arange(1, 80) / 10, "thirds": np.arange(-40, 40) / 3, "prices": np.round(np.arange(1, 300) * 7.77, 2),
    "one unit of float32 apart": np.float64(np.float32(0.1)) + np.arange(60) * 2.0**-27,
    "half a unit": 0.7 + np.arange(200) * 2.0**-25, "around zero": np.r_[-1e-300, 1e-300, 5e-324, np.arange(-40, 40)],
    "whole": np.arange(2.0**24 - 40, 2.0**24), "seconds": 1.7e9 + np.arange(0, 5e5, 77), "huge": np.arange(1, 30) * 1e37,
}


@pytest.mark.parametrize("name", NEIGHBOURS)
@pytest.mark.parametrize("q", [2, 7, 20])
def test_doubles_and_singles_fall_into_the_same_buckets(name, q):
    """Trained on either, asked with either, and with doubles that were not seen, as 0.30000000000000004 for 0.3."""
    values = NEIGHBOURS[name]
    singles = values.astype(np.float32)
    unseen = np.concatenate([values, (values[1:] + values[:-1]) / 2, values * (1 + 2.0**-25), values * (1 - 2.0**-25)])
    unseen = np.concatenate([unseen, np.nextafter(unseen, np.inf), np.nextafter(unseen, -np.inf)])
    found = []
    for trained in (values, singles):
        vocabulary = fit_vocabulary(pd.Series(trained, name="x"), buckets=q)
        ids = vocabulary.encode(pd.Series(values))
        assert ids.tolist() == vocabulary.encode(pd.Series(singles)).tolist()
        same = vocabulary.encode(pd.Series(unseen)) == vocabulary.encode(pd.Series(unseen.astype(np.float32)))
        assert same.all(), unseen[~same]
        for text in map(repr, vocabulary.edges):  # as JSON has them
            assert float(text) in vocabulary.edges
        found.append(ids.tolist())
    assert found[0] == found[1]


def test_numbers_that_no_float32_tells_apart_are_cut_as_doubles():
    for values in (1e9 + np.arange(60), 2.0**53 + 2 * np.arange(60), np.arange(1, 60) * 1e306, np.arange(60) * 1e-310):
        edges = quantile_edges(values, 4)
        assert np.bincount(np.searchsorted(edges, values, side="right")).tolist() == pytest.approx([15] * 4, abs=1)
    below, above = np.array([1.0, -1e308, 0.0]), np.array([np.nextafter(1, 2), 1e308, 5e-324])
    edges = edges_between(below, above)
    assert (below < edges).all() and (edges <= above).all() and np.isfinite(edges).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_comparison_of_codings_equals_a_loop_over_rows(seed):
    rng = np.random.default_rng(seed)
    n, size = 400, int(rng.integers(25, 200))
    codes, folds = rng.integers(-1, size, n), rng.integers(-1, FOLDS, n)
    labels = (rng.random(n) < 0.2 + 0.6 * codes / size).astype(int)
    rows = [(c, f, y) for c, f, y in zip(codes, folds, labels) if c >= 0 and f >= 0]
    seen = sorted({c for c, _, _ in rows})
    values = np.cumsum(rng.integers(1, 9, size)) * 1.0
    found = count_by_fold(size, [(codes[:150], labels[:150], folds[:150]), (codes[150:], labels[150:], folds[150:])])
    made = compare_codings(values[seen], found[:, :, seen], 10)
    edges = bucket_edges([values[c] for c, _, _ in rows], 10)
    best = []
    for key in (lambda c: c, lambda c: sum(edge <= values[c] for edge in edges), lambda c: 0):
        losses = {}
        for m in STRENGTHS:
            losses[m] = []
            for c, f, y in rows:
                others = [(key(k), label) for k, fold, label in rows if fold != f]
                mean = (sum(label for _, label in others) + 1) / (len(others) + 2)
                same = [label for k, label in others if k == key(c)]
                p = (sum(same) + m * mean) / (len(same) + m)
                losses[m].append(-math.log(p if y else 1 - p))
        best.append(min(losses.values(), key=sum))
    value, bucket, mean = np.array(best)
    assert made[:3] == pytest.approx((value.mean(), bucket.mean(), mean.mean()), abs=1e-9)
    error = lambda d: 2 * (d ** 2).sum() ** 0.5  # noqa: E731
    assert made.ordered == ((mean - bucket).sum() > error(mean - bucket)
                            and (bucket - value).sum() <= error(bucket - value))


def encode_elsewhere(text, column):
    """What a service in another language would do with a vocabulary's JSON: nothing of NumPy, pandas or autodim."""
    record = json.loads(text)
    mixed = len({type(v) for v in record["values"]}) > 1  # True equals 1 there, and nowhere else
    ids = {(mixed or isinstance(v, bool), v): i for i, v in enumerate(record["values"], 1)}

    def id_of(value):
        if missing(value):
            return record["missing_id"]
        if record["rule"] == "criteo":
            value = criteo_loop(float(value))
        elif record["rule"] == "quantiles":
            value = sum(edge <= float(value) for edge in record["edges"])
        return ids.get((mixed or isinstance(value, bool), value), 0)

    return [id_of(value) for value in column]


COLUMNS = {  # a column to fit, a type for it, buckets, and values that were not seen
    "strings": (["b", "a", None, "ü\U0001f600", "5", "", " a"], None, None, ["z", 5, "A"]),
    "strings, none missing": (["b", "a"], None, None, [None, "c"]),
    "strings of pandas": (["b", "a", None], "string", None, ["z"]),
    "categories": (["b", "a", None], "category", None, ["z"]),
    "integers": ([5, -7, 2**62 + 1, 2**62], None, None, [5.0, -7.0, None, 6, True]),
    "integers with holes": ([5, -7, None], "Int64", None, [5.0, 6, "5"]),
    "small integers": ([5, -7], "int8", None, [-7.0, 300]),
    "large integers": ([2**63 + 5, 3], "uint64", None, [3]),
    "whole floats": ([5.0, 2.0, None, -0.0, 1e300, 2.0**53], None, None, [5, 2, 0, True]),
    "fractions": ([0.1, 1 / 3, 5e-324], "category", None, [0.1, 0.2]),
    "single floats": ([0.1, 0.5], "float32", None, [0.5]),
    "booleans": ([True, False], None, None, [False, 1, None]),
    "one boolean": ([True, True], None, None, [False, 1]),
    "booleans with holes": ([True, None], None, None, [False, 1]),
    "booleans of pandas": ([True, None], "boolean", None, [False]),
    "mixed": (["a", 1, 2.5, True, None, "1"], object, None, ["2.5", 0]),
    "nothing": ([None, None], None, None, ["a", 1]),
    "quantiles": ([0.5, 1 / 3, 7, None, 2.25, 1e9], None, 3, [-5, 0.5, 1e12]),
    "quantiles of one value": ([7.0, 7.0], None, 4, [6.9, 7, None]),
    "criteo": ([-3, 0, 3, 100, None, 12345], None, "criteo", [2.5, 1, 101, -1]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_vocabulary_survives_json_and_another_language(name):
    values, dtype, buckets, others = COLUMNS[name]
    column = pd.Series(values, dtype=dtype, name="field.1")
    vocabulary = fit_vocabulary(column, buckets=buckets)
    text = json.dumps(vocabulary_to_dict(vocabulary), allow_nan=False)
    again = vocabulary_from_dict(json.loads(text))
    assert (again.name, again.cardinality, again.rule) == ("field.1", vocabulary.cardinality, vocabulary.rule)
    assert again.values.dtype == vocabulary.values.dtype and again.edges == vocabulary.edges
    assert [(type(v), v) for v in again.values.tolist()] == [(type(v), v) for v in vocabulary.values.tolist()]
    for seen in (column, pd.Series(others, dtype=object), *(pd.Series([other]) for other in others)):
        if dtype is None or seen is column:
            assert again.encode(seen).tolist() == vocabulary.encode(seen).tolist()
    assert encode_elsewhere(text, column.tolist()) == vocabulary.encode(column).tolist()
    for other in others:  # one by one, so that pandas gives each its own type
        assert encode_elsewhere(text, [other]) == vocabulary.encode(pd.Series([other])).tolist(), other


def test_dates_survive_json():
    column = pd.Series(pd.to_datetime(["2020-02-29 12:00:00.000001", "1969-01-01 00:00:00.0", None]), name="day")
    vocabulary = fit_vocabulary(column)
    record = json.loads(json.dumps(vocabulary_to_dict(vocabulary)))
    assert record["values"] == ["1969-01-01T00:00:00.000000", "2020-02-29T12:00:00.000001"]
    assert vocabulary_from_dict(record).encode(column).tolist() == [2, 1, 3]


@pytest.mark.parametrize("value", [("x", 1), b"x", math.inf, pd.Timestamp("2020-01-01", tz="UTC"), 1j])
def test_a_value_that_json_cannot_hold_is_named(value):
    vocabulary = fit_vocabulary(pd.Series(["a", value], dtype=object, name="odd"))
    with pytest.raises(DataError, match="field 'odd': JSON cannot hold its value .* make the column strings"):
        vocabulary_to_dict(vocabulary)


@pytest.mark.parametrize("change,message", [
    ({"missing_id": 2}, "'f': not as it was written"),
    ({"missing_id": None}, "'f': not as it was written"),
    ({"rule": "log"}, "'f': not as it was written"),
    ({"dtype": "int64", "values": [1, 1.5]}, "'f': not as it was written"),
    ({"dtype": "int64"}, "'f': not as it was written"),
    ({"dtype": "int8", "values": [1, 300]}, "'f': not as it was written"),
    ({"dtype": "no type"}, "'f': not as it was written"),
    ({"values": ["a", "a"]}, "'f': not as it was written"),
    ({"values": ["a", None]}, "JSON cannot hold its value None"),
    ({"values": ["a", ["b"]]}, "JSON cannot hold its value"),
    ({"values": "ab"}, "'f': not as it was written"),
    ({"values": None}, "'f': not as it was written"),
    ({"edges": [2.0, 1.0]}, "'f': not as it was written"),
    ({"edges": [math.nan]}, "'f': not as it was written"),
    ({"edges": ["a"]}, "'f': not as it was written"),
    ({"edges": None}, "'f': not as it was written"),
    ({"name": 5}, "vocabulary of 5: not as it was written"),
    ({"more": 1}, "a vocabulary has the keys name, rule, edges, dtype, values, missing_id; found .*'more'"),
])
def test_a_damaged_vocabulary_is_refused_in_one_line(change, message):
    record = vocabulary_to_dict(Vocabulary("f", np.array(["a", "b"], dtype=object)))
    assert vocabulary_from_dict(record).cardinality == 3
    with pytest.raises(DataError, match=message) as error:
        vocabulary_from_dict(record | change)
    assert "\n" not in str(error.value)
    for damaged in (None, [], {}, "x", {k: v for k, v in record.items() if k != "edges"}):
        with pytest.raises(DataError, match="a vocabulary has the keys"):
            vocabulary_from_dict(damaged)


def small_table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "site": rng.choice(list("abcdefgh"), n), "age": rng.integers(0, 90, n), "price": rng.exponential(size=n),
        "shop": pd.Series(rng.choice(["x", "y", None], n), dtype="category"), "label": rng.integers(0, 2, n),
    })  # fmt: skip


def test_encode_table_equals_a_loop_for_any_index():
    frame = small_table()
    split = random_split(len(frame), seed=3)
    data = encode_table(frame, split, min_count=2, buckets={"price": 4})
    prices = frame.price.to_numpy()
    cuts = [np.quantile(prices[split.train], k / 4) for k in (1, 2, 3)]  # 160 rows: each lies between two of them
    plain = {c: frame[c].tolist() for c in ("site", "age", "shop")}
    plain["price"] = [sum(v >= cut for cut in cuts) for v in prices]
    for m, field in enumerate(data.fields):
        ids, cardinality = oracle_ids([plain[field][i] for i in split.train], plain[field], min_count=2)
        assert data.cardinalities[m] == cardinality
        for part, rows in zip((data.train, data.val, data.test), split):
            assert part.ids[:, m].tolist() == [ids[i] for i in rows]
            assert part.labels.tolist() == [frame.label.iloc[i] for i in rows]
    shuffled = frame.set_index(np.random.default_rng(0).permutation(len(frame)))
    assert encode_table(shuffled, split, min_count=2, buckets={"price": 4}).fingerprint == data.fingerprint


def test_validation_and_test_rows_do_not_reach_the_vocabularies():
    frame = small_table()
    split = random_split(len(frame), seed=0)
    data, other = encode_table(frame, split, buckets={"price": 4}), frame.copy()
    rows = np.concatenate([split.val, split.test])
    other.loc[rows, "site"], other.loc[rows, "price"], other.loc[rows, "age"] = "unseen", 1e6, -1
    again = encode_table(other, split, buckets={"price": 4})
    assert again.train.ids.equal(data.train.ids) and again.cardinalities == data.cardinalities
    assert (again.test.ids[:, 0] == 0).all() and (again.test.ids[:, 1] == 0).all()


def test_ids_are_smaller_than_their_cardinality():
    data = encode_table(small_table(), random_split(200, 0), buckets={"price": "criteo"})
    for part in (data.train, data.val, data.test):
        assert part.ids.dtype == torch.int32 and part.ids.is_contiguous() and part.labels.dtype == torch.float32
        assert (part.ids >= 0).all() and (part.ids < torch.tensor(data.cardinalities)).all()


def test_fingerprint_is_the_hash_of_what_a_model_sees():
    data = encode_table(small_table(), random_split(200, 0), buckets={"price": 4})
    text = "\x1f".join(data.fields).encode()
    for part in (data.train, data.val, data.test):
        text += f"({len(part.labels)}, {len(data.fields)})".encode()
        text += np.array(part.ids.tolist(), dtype="<i4").tobytes()
        text += np.array(part.labels.tolist(), dtype="<f4").tobytes()
    assert data.fingerprint == hashlib.sha256(text).hexdigest()[:16]
    assert encode_table(small_table(), random_split(200, 1), buckets={"price": 4}).fingerprint != data.fingerprint


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.2, 0.3)])
@pytest.mark.parametrize("n", [10, 97, 1000])
def test_random_split_covers_all_rows_once(n, fractions):
    split = random_split(n, seed=5, fractions=fractions)
    assert sorted(np.concatenate(split).tolist()) == list(range(n))
    assert all(abs(len(part) - fraction * n) <= 1 for part, fraction in zip(split, fractions))
    assert all(part.dtype == np.int64 for part in split)


def test_random_split_is_random():
    """Over seeds, every row lands in the test part about as often."""
    hits = sum(np.bincount(random_split(20, seed).test, minlength=20) for seed in range(500))
    assert hits.sum() == 1000 and 25 <= hits.min() and hits.max() <= 80  # 50 expected, sd 6.7


def test_chronological_split_never_trains_on_later_rows():
    rng = np.random.default_rng(0)
    for _ in range(20):
        times = rng.integers(0, 30, 100)
        split = chronological_split(times)
        assert times[split.train].max() <= times[split.val].min() <= times[split.val].max() <= times[split.test].min()
        assert sorted(np.concatenate(split).tolist()) == list(range(100))
    equal = chronological_split(np.zeros(10))
    assert np.concatenate(equal).tolist() == list(range(10))
    dates = chronological_split(pd.date_range("2020-01-01", periods=10)[::-1].to_numpy())
    assert dates.test.tolist() == [0]


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.9])
def test_downsampling_keeps_positives_and_draws_negatives_evenly(rate):
    labels = np.zeros(300, dtype=int)
    labels[::10] = 1
    drawn, chance = np.zeros(300), 30 * (1 - rate) / rate / 270
    for seed in range(400):
        rows = np.flatnonzero(ScatteredSplit(seed, positive_rate=rate)(labels) < 3)
        assert len(set(rows.tolist())) == len(rows) and labels[rows].sum() == 30
        drawn[rows] += 1
    share = drawn[labels == 0] / 400
    assert abs(share.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / (400 * 270))
    assert np.abs(share - chance).max() < 5 * math.sqrt(chance * (1 - chance) / 400)


@pytest.mark.parametrize("start,n", [(0, 0), (0, 1), (65_535, 2), (65_536, 65_536), (100_000, 70_000), (131_071, 1)])
def test_draws_of_rows_are_their_own(start, n):
    assert np.array_equal(row_draws(3, start, n), row_draws(3, 0, 200_000)[:, start : start + n])
    assert n < 2 or not np.array_equal(row_draws(3, start, n), row_draws(4, start, n))


def test_draws_are_uniform_and_split_and_stay_are_independent():
    split, stays = row_draws(0, 0, 200_000)
    for lot in (split, stays, split[:65_536], split[65_536:131_072]):
        assert stats.kstest(lot, "uniform").pvalue > 1e-3
    counts = np.histogram2d(split, stays, bins=10)[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(split[:-1], split[1:])[0, 1]) < 0.01
    for other in (np.random.default_rng(0), np.random.default_rng([0, 0]), np.random.default_rng([0, 1])):
        assert abs(np.corrcoef(other.random(1000), split[:1000])[0, 1]) < 0.15  # not the draws of everybody's seed 0


def test_parts_by_draws_equal_a_loop():
    labels = np.arange(10_000) % 3 == 0
    for rate in (None, 0.5):
        parts, (split, stays) = ScatteredSplit(1, (0.7, 0.2, 0.1), rate)(labels.astype(np.int8)), row_draws(1, 0, 10_000)
        chance = 1 if rate is None else 3334 / 6666
        for part, one, other, positive in zip(parts.tolist(), split, stays, labels):
            expected = 0 if one < 0.7 else 1 if one < 0.7 + 0.2 else 2
            assert part == (expected if positive or other < chance else 3)
    assert [len(rows) for rows in split_of(np.array([2, 0, 1, 3, 0]))] == [2, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_counted_values_equal_repeated_ones(seed):
    rng = np.random.default_rng(seed)
    values, counts = rng.permutation(50)[:20] / 4 - 3, rng.integers(0, 6, 20)
    values[rng.integers(20)] = np.nan
    repeated = np.repeat(values, counts)
    for q in (1, 2, 3, 7, 20):
        assert quantile_edges(values, q, counts) == quantile_edges(repeated, q)
        assert list(quantile_edges(repeated, q)) == pytest.approx(bucket_edges(repeated, q), rel=1e-6, abs=1e-6)
    for buckets in (None, "criteo", 5):
        one = fit_vocabulary(pd.Series(values, name="x"), 3, buckets, counts)
        other = fit_vocabulary(pd.Series(repeated, name="x"), 3, buckets)
        assert vocabulary_to_dict(one) == vocabulary_to_dict(other)


@pytest.mark.parametrize("block,buffer,size", [(3, 2, 4), (1, 1, 1), (100, 5, 7), (7, 3, 50), (2, 100, 10)])
def test_a_part_on_disk_gives_each_row_once(block, buffer, size):
    n = 53
    ids = torch.arange(2 * n, dtype=torch.int32).view(n, 2)
    part = DiskPart(ids, torch.arange(n).float(), block, buffer)
    for drop_last in (False, True):
        seen = list(batches(part, size, torch.Generator().manual_seed(1), drop_last))
        rows = [int(v) for b in seen for v in b.labels]
        assert [len(b.labels) for b in seen[:-1]] == [size] * (len(seen) - 1)
        assert len(set(rows)) == len(rows) == (n - n % size if drop_last else n)
        assert [v for b in seen for v in b.ids.tolist()] == [[2 * r, 2 * r + 1] for r in rows]
        again = batches(part, size, torch.Generator().manual_seed(1), drop_last)
        assert [int(v) for b in again for v in b.labels] == rows
        groups = [{r // block for r in rows[k : k + block * buffer]} for k in range(0, len(rows), block * buffer)]
        assert size > block * buffer or all(len(blocks) <= 2 * buffer + 1 for blocks in groups)  # from few places
    generator = torch.Generator().manual_seed(1)
    first, second = ([int(v) for b in batches(part, size, generator) for v in b.labels] for _ in range(2))
    assert first != second


def test_a_reader_that_fails_is_heard_and_one_may_stop_early(monkeypatch):
    part = DiskPart(torch.zeros(40, 1, dtype=torch.int32), torch.zeros(40), block=2, buffer=2)
    for _ in batches(part, 3, torch.Generator()):
        break
    real, calls = data_module.read_group, []

    def failing(part, blocks):
        calls.append(blocks)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        return real(part, blocks)

    monkeypatch.setattr(data_module, "read_group", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        list(batches(part, 3, torch.Generator()))


@pytest.mark.parametrize("batch_size,drop_last,sizes", [(4, False, [4, 4, 3]), (4, True, [4, 4]), (20, False, [11]),
                                                        (20, True, []), (11, True, [11])])
def test_batches_are_one_permutation_of_the_part(batch_size, drop_last, sizes):
    part = Part(torch.arange(22, dtype=torch.int32).view(11, 2), torch.arange(11).float())
    order = torch.randperm(11, generator=torch.Generator().manual_seed(7)).tolist()
    for generator, rows in ((torch.Generator().manual_seed(7), order), (None, list(range(11)))):
        seen = list(batches(part, batch_size, generator, drop_last))
        assert [len(b.labels) for b in seen] == sizes
        assert [int(v) for b in seen for v in b.labels] == rows[: sum(sizes)]
        assert [v for b in seen for v in b.ids.tolist()] == [[2 * r, 2 * r + 1] for r in rows[: sum(sizes)]]


TEN = random_split(10, 0)
GOOD = pd.DataFrame({"site": list("abababcdab"), "price": np.arange(10) / 4, "label": [0, 1] * 5})


@pytest.mark.parametrize("change,arguments,message", [
    (lambda f: f, {"buckets": {"price": 4, "site": 4}}, "column 'site' row 0: 'a' is not a number"),
    (lambda f: f.assign(label=f.label.replace(1, 2)), {}, r"label 'label' row 1: 2, expected 0 or 1 \(in 5 rows\)"),
    (lambda f: f.assign(label=[None] + [0, 1] * 4 + [1]), {}, "label 'label' row 0: missing, expected 0 or 1"),
    (lambda f: f.assign(label=f.label.map({0: "0", 1: "1"})), {}, "label 'label' row 0: '0', expected 0 or 1"),
    (lambda f: f.assign(label=1), {}, "all of the table are 1, nothing to learn"),
])
def test_bad_tables_are_refused_in_one_line(change, arguments, message):
    split = Split(np.arange(6), np.array([6, 7]), np.array([8, 9]))
    with pytest.raises(DataError, match=message) as error:
        encode_table(change(GOOD), split, **{"buckets": {"price": 4}, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split,message", [
    (Split(np.arange(6), np.array([6, 7]), np.array([8, 10])), "all of them below 10"),
    (Split(np.arange(6), np.array([6, 7]), np.array([-1, 9])), "all of them below 10"),
    (Split(np.arange(7), np.array([6, 7]), np.array([8, 9])), "none in two parts"),
    (Split(np.arange(6), np.array([], dtype=int), np.array([8, 9])), "needs rows to train and to validate"),
    (Split(np.arange(6), np.array([6, 8]), np.array([7, 9])), "all of the val are 0"),
])
def test_bad_splits_are_refused(split, message):
    with pytest.raises(DataError, match=message):
        encode_table(GOOD, split, buckets={"price": 4})


def test_bool_and_category_labels_are_fine():
    split = Split(np.arange(6), np.array([6, 7]), np.array([8, 9]))
    plain = encode_table(GOOD[["site", "label"]], split)
    for labels in (GOOD.label.astype(bool), GOOD.label.astype("category"), GOOD.label.astype(float)):
        assert encode_table(GOOD[["site"]].assign(label=labels), split).fingerprint == plain.fingerprint


def test_chances_and_fractions_out_of_range():
    with pytest.raises(ValueError, match="positive_rate 1: expected"):
        ScatteredSplit(positive_rate=1)(np.array([0, 1]))
    with pytest.raises(ValueError, match="sum to 1"):
        random_split(10, 0, (0.5, 0.2, 0.2))
    with pytest.raises(DataError, match="row 2: no time"):
        chronological_split(np.array([1.0, 2.0, np.nan]))
