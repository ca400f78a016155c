"""The choice among encodings of numbers: mixtures against sure choices, and which weights each step moves."""
import numpy as np
import pandas as pd
import pytest
import torch

from autodim.data.encode import encode_table
from autodim.data.split import random_split
from autodim.method.backbones import Network
from autodim.method.number_choice import FieldMixture, NumberSearchModel, Options, search_encodings
from autodim.method.numbers import FINE, KINDS, Encoding, NumberTable, number_grid, sized
from autodim.method.search import SearchConfig, Searcher
from autodim.training.runtime import Runtime

SMALL = Network(hidden=(8,), dropout=0.0)
OPTIONS = Options(("a", "b"), tuple(sized(kind, 60, 3) for kind in KINDS))
DIMS = {"a": 3, "b": 3, "c": 2}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.random(2500), "c": rng.choice(list("xyz"), 2500), "b": rng.random(2500)})
    chance = 1 / (1 + np.exp(-4 * np.sin(6 * frame.a)))
    frame["label"] = (rng.random(2500) < chance).astype(int)
    return encode_table(frame, random_split(2500, 0), buckets={"a": FINE, "b": FINE})


@pytest.mark.parametrize("n", range(len(KINDS)))
def test_a_sure_choice_is_the_normalised_table_of_its_encoding(data, n):
    torch.manual_seed(n)
    grid = number_grid(data.vocabularies[0], data.train.ids[:, 0], data.train.labels)
    mixture = FieldMixture([NumberTable(grid, e, 3) for e in OPTIONS.encodings])
    ids = data.train.ids[:200, 0]
    alone = torch.nn.BatchNorm1d(3, affine=False)(mixture.tables[n]()[ids])
    torch.testing.assert_close(mixture(ids, torch.eye(len(KINDS))[n]), alone, atol=1e-4, rtol=1e-4)


def test_a_step_on_alpha_moves_alpha_alone_and_a_step_on_weights_all_but_alpha(data):
    torch.manual_seed(0)
    model = NumberSearchModel(data, DIMS, OPTIONS, SMALL)
    searcher = Searcher(model, SearchConfig(batch_size=100))
    train, val = (part._replace(ids=part.ids[:100], labels=part.labels[:100]) for part in (data.train, data.val))
    before = {name: q.detach().clone() for name, q in model.state_dict().items()}
    searcher.alpha_step(val, train)
    moved = {name for name, q in model.state_dict().items() if not torch.equal(q, before[name])}
    assert moved == {"selection.logits"}
    before = {name: q.detach().clone() for name, q in model.named_parameters()}
    searcher.weight_step(train)
    still = {name for name, q in model.named_parameters()
             if torch.equal(q, before[name]) and not name.endswith("missing")}  # no number is missing here
    assert still == {"selection.logits"}


def test_the_order_of_fields_does_not_matter_to_which_numbers_are_looked_up(data):
    """Numbers before and after a name: each logit changes with the ids of its own field."""
    torch.manual_seed(0)
    model, p = NumberSearchModel(data, DIMS, OPTIONS, SMALL), torch.full((2, len(KINDS)), 0.0)
    p[0, 1] = p[1, -1] = 1.0  # a piecewise, b left out
    ids = data.train.ids[:64]
    changed = []
    for m in range(3):
        other = ids.clone()
        other[:, m] = ids[:, m].flip(0)
        changed.append(not torch.allclose(model(ids, p), model(other, p)))
    assert changed == [True, True, False]


def test_a_search_is_the_same_for_one_seed_and_keeps_what_predicts(data):
    config = SearchConfig(f=1, epochs=4, batch_size=200, lr=0.01, alpha_lr=0.05, tau_decay=0.02)
    one, again = (search_encodings(data, DIMS, OPTIONS, config, SMALL, Runtime(3, progress=False)) for _ in range(2))
    assert torch.equal(one.alpha, again.alpha) and one.encodings == again.encodings
    assert one.history["alpha"].shape[1:] == (2, len(KINDS)) and one.encodings["a"].kind != "out"
    assert one.alpha[0, -1] < one.alpha[1, -1]  # the number that predicts is the less likely to be left out


@pytest.mark.parametrize("fields, encodings, words", [
    ((), (Encoding("out", 0), Encoding("buckets", 2)), "at least one field"),
    (("a",), (Encoding("buckets", 2),), "two encodings"),
    (("a", "b"), {"a": (Encoding("out", 0), Encoding("buckets", 2))}, "as many for each field"),
    (("a", "b"), {"a": OPTIONS.encodings, "b": OPTIONS.encodings[1:]}, "as many for each field"),
])  # fmt: skip
def test_options_need_something_to_choose(fields, encodings, words):
    with pytest.raises(ValueError, match=words):
        Options(fields, encodings)


def test_encodings_by_field_are_those_of_all_where_they_are_the_same(data):
    config, quiet = SearchConfig(f=1, epochs=1, batch_size=200), Runtime(progress=False)
    by_field = Options(("a", "b"), {"b": OPTIONS.encodings, "a": OPTIONS.encodings})
    one, two = (search_encodings(data, DIMS, options, config, SMALL, quiet) for options in (OPTIONS, by_field))
    assert torch.equal(one.alpha, two.alpha) and one.encodings == two.encodings
    own = Options(("a", "b"), {"a": OPTIONS.encodings, "b": tuple(sized(kind, 63, 3) for kind in reversed(KINDS))})
    sure = torch.zeros(2, len(KINDS)).index_fill_(1, torch.tensor(0), 1.0)  # a in buckets, b left out
    torch.manual_seed(0)
    model = NumberSearchModel(data, DIMS, own, SMALL)
    ids = data.train.ids[:64]
    changed = {name: ids.clone() for name in ("a", "b")}
    for name, other in changed.items():
        other[:, data.fields.index(name)] = ids[:, data.fields.index(name)].flip(0)
    made = model(ids, sure)
    assert torch.equal(model(changed["b"], sure), made) and not torch.equal(model(changed["a"], sure), made)


@pytest.mark.parametrize("fields, words", [(("c",), "field 'c' cannot be embedded"), (("z",), "encoding of 'z'")])
def test_a_field_that_is_no_number_is_named(data, fields, words):
    with pytest.raises(ValueError, match=words):
        search_encodings(data, DIMS, Options(fields, OPTIONS.encodings), network=SMALL)
