"""Backbones: logits by loops in float64, properties, gradients, cost, search and training by name, and the peers."""
import json
import math
import subprocess
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from oracles import field_tables, random_ids
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from test_checkpoint import Memory, same
from test_search import snapshot
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

import autodim.method.retrain
import autodim.method.selection
from autodim.method.backbones import (
    ALIGNMENTS, BACKBONES, MLP, Align, Backbone, Linear, Network, XDeepFM, bi_interaction,
)  # fmt: skip
from autodim.data.batches import Part
from autodim.data.vocabulary import Vocabulary
from autodim import AutoDim, load
from autodim.app.export import write_exports, write_onnx
from autodim.app.storage import Trained
from autodim.data.columns import Schema
from autodim.method.lookup import uniform_candidates
from autodim.method.metrics import evaluate
from autodim.method.models import DLRS, VARIANTS, SearchModel, embedding_parameters, loss_of
from autodim.method.retrain import TrainConfig, fit, retrain
from autodim.method.search import SearchConfig, Searcher, alpha_gradient, search, supernet_auc
from autodim.training.runtime import Runtime

SIZES, WIDTHS, HIDDEN = (7, 11, 5, 9), (2, 5, 3, 5), (12, 10)
MIXED = (WIDTHS, (3, 3, 3), (1, 4, 2), (6, 2), (2, 6))
DEEP = {"MLP", "WideDeep", "DeepFM", "NFM", "FNN", "IPNN", "OPNN", "DCN", "DCNv2", "xDeepFM"}
CONCATENATING = {"MLP", "WideDeep", "DCN", "DCNv2"}  # need no projection
SUMMING = {"FM", "DeepFM", "FFM"}  # have a scale in the search
SEARCH = SearchConfig(dims=(2, 4), epochs=2, f=2, batch_size=50, tau_decay=0.05)
TRAIN = TrainConfig(epochs=3, batch_size=50, lr=0.01)
WAYS = [("linear", 0), ("linear", 6), ("zero-padding", 0), ("zero-padding", 6)]  # to one dimension, and its least
every_name = pytest.mark.parametrize("name", BACKBONES)
every_way = pytest.mark.parametrize("equal, least", WAYS)


def tables_of(name: str, n_fields: int) -> int:
    return n_fields - 1 if name == "FFM" else 1


def quiet(seed: int = 0, checkpoint=None) -> Runtime:
    return Runtime(seed, progress=False, checkpoint=checkpoint)


def dlrs(sizes, dims, network: Network, scaled: bool) -> DLRS:
    """A model in float64, with the scale that only the search has, or without."""
    model = DLRS(sizes, dims, network)
    model.backbone = network.build(dims, sizes, search=scaled)
    return model.double()


def build(name: str, widths=WIDTHS, equal="linear", least=0, scaled=False) -> DLRS:
    """A model in float64 and evaluation, none of whose weights, biases and statistics is zero."""
    torch.manual_seed(len(widths) + len(name))
    model = dlrs(SIZES[:len(widths)], widths, Network(name, HIDDEN, alignment=equal, min_dim=least), scaled)
    for q in model.parameters():
        torch.nn.init.normal_(q, std=0.5)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.eval()


# ---------------------------------------------------------------- logits by loops

def dot(a, b) -> float:
    assert len(a) == len(b)
    return sum(x * y for x, y in zip(a, b))


def pairs(n_fields: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n_fields) for j in range(n_fields) if i < j]


class Row:
    """One row as the oracles read it, all in lists of numbers.

    Attributes:
        w: the backbone's weights by names.
        h0: the concatenated embeddings.
        x: each field's embedding in d dimensions; for FFM `aware[i][j]`, that of field i for field j.
        weights, linear: the linear part's weight of each field, and w_0 plus their sum.
        deep: the module's own MLP, of a list.
    """

    def __init__(self, name: str, model: DLRS, widths, equal: str, least: int, ids) -> None:
        backbone, self.n_fields, self.widths, self.equal = model.backbone, len(widths), widths, equal
        self.w = {key: t.tolist() for key, t in backbone.state_dict().items()}
        tables = [t.tolist() for t in field_tables(model.embedding, SIZES)]
        embeddings = [table[i] for table, i in zip(tables, ids)]
        self.h0, self.d = sum(embeddings, []), max(*widths, least)
        if "linear.bias" in self.w:
            columns = field_tables(backbone.linear.weights, SIZES)
            self.weights = [column[i].item() for column, i in zip(columns, ids)]
            self.linear = self.w["linear.bias"] + sum(self.weights)
        mlp = backbone if name == "MLP" else getattr(backbone, "deep", None)
        self.deep = lambda z: mlp(torch.tensor([z], dtype=torch.float64), None).item()
        if name == "FFM":
            self.aware = [{j: self.widened(m, self.digits(m, j, embeddings[m])) for j in range(self.n_fields) if j != m}
                          for m in range(self.n_fields)]
        elif name not in CONCATENATING:
            self.x = [self.widened(m, e) for m, e in enumerate(embeddings)]

    def digits(self, m: int, other: int, stored: list[float]) -> list[float]:
        """Of what a field has stored digit by digit, its embedding for another field."""
        others = [j for j in range(self.n_fields) if j != m]
        return [stored[k * len(others) + others.index(other)] for k in range(self.widths[m])]

    def widened(self, m: int, e: list[float]) -> list[float]:
        """A field's embedding in d dimensions, scaled."""
        assert len(e) == self.widths[m]
        projected = [f for f, width in enumerate(self.widths) if self.equal == "linear" and width < self.d]
        if m in projected:
            start = sum(self.widths[f] for f in projected if f < m)
            rows, bias = self.w["align.weight"][start:start + len(e)], self.w["align.bias"][projected.index(m)]
            found = [bias[j] + sum(e[k] * rows[k][j] for k in range(len(e))) for j in range(self.d)]
        else:
            found = e + [0.0] * (self.d - len(e))
        scales = self.w.get("align.scale", self.w.get("scale"))
        return found if scales is None else [scales[m] * v for v in found]


def pairwise(row: Row) -> float:
    return sum(dot(row.x[i], row.x[j]) for i, j in pairs(row.n_fields))


def products_of(row: Row) -> list[list[float]]:
    return [[a * b for a, b in zip(row.x[i], row.x[j])] for i, j in pairs(row.n_fields)]


def nfm(row: Row) -> float:
    return row.linear + row.deep([sum(p[k] for p in products_of(row)) for k in range(row.d)])


def afm(row: Row) -> float:
    products, scores = products_of(row), []
    for p in products:
        hidden = [max(0.0, dot(w, p) + b) for w, b in zip(row.w["hidden.weight"], row.w["hidden.bias"])]
        scores.append(math.exp(dot(row.w["score.weight"][0], hidden)))
    pooled = [sum(s * p[k] for s, p in zip(scores, products)) / sum(scores) for k in range(row.d)]
    return row.linear + dot(row.w["out.weight"][0], pooled)


def ffm(row: Row) -> float:
    return row.linear + sum(dot(row.aware[i][j], row.aware[j][i]) for i, j in pairs(row.n_fields))


def inner(row: Row) -> float:
    return row.deep(sum(row.x, []) + [dot(row.x[i], row.x[j]) for i, j in pairs(row.n_fields)])


def outer(row: Row) -> float:
    products = [sum(row.x[i][a] * row.x[j][b] for i in range(row.n_fields) for j in range(row.n_fields))
                for a in range(row.d) for b in range(row.d)]
    return row.deep(sum(row.x, []) + products)


def autoint(row: Row, layers: int = 2, heads: int = 2, width: int = 8) -> float:
    e = row.x
    for layer in range(layers):
        query, key, value, residual = (
            [[dot(w, e_m) for w in row.w[f"layers.{layer}.{part}.weight"]] for e_m in e]
            for part in ("query", "key", "value", "residual"))
        attended = []
        for m in range(row.n_fields):
            new = list(residual[m])
            for columns in (range(h * width, (h + 1) * width) for h in range(heads)):
                scores = [sum(query[m][c] * key[k][c] for c in columns) for k in range(row.n_fields)]
                shares = [math.exp(s - max(scores)) for s in scores]
                for c in columns:
                    new[c] += sum(s * v[c] for s, v in zip(shares, value)) / sum(shares)
            attended.append([max(0.0, v) for v in new])
        e = attended
    return row.w["out.bias"][0] + dot(row.w["out.weight"][0], sum(e, []))


def cross(row: Row, matrix: bool, layers: int = 3) -> float:
    c = row.h0
    for layer in range(layers):
        weight = row.w[f"cross.{layer}.weight"]
        bias = row.w[f"cross.{layer}.bias"] if matrix else row.w[f"biases.{layer}"]
        if matrix:
            c = [h * (dot(weight[i], c) + bias[i]) + c[i] for i, h in enumerate(row.h0)]
        else:
            c = [h * dot(weight[0], c) + bias[i] + c[i] for i, h in enumerate(row.h0)]
    return dot(row.w["out.weight"][0], c) + row.deep(row.h0)


def xdeepfm(row: Row, layers: int = 2) -> float:
    maps, sums = row.x, []
    for layer in range(layers):
        weights = row.w[f"maps.{layer}.weight"]
        assert {len(w) for w in weights} == {len(maps) * row.n_fields}
        maps = [[sum(w[h * row.n_fields + j] * maps[h][k] * row.x[j][k] for h in range(len(maps))
                     for j in range(row.n_fields)) for k in range(row.d)] for w in weights]
        sums += [sum(m) for m in maps]
    return row.linear + dot(row.w["out.weight"][0], sums) + row.deep(sum(row.x, []))


ORACLES = {
    "MLP": lambda row: row.deep(row.h0),
    "FM": lambda row: row.linear + pairwise(row),
    "WideDeep": lambda row: row.linear + row.deep(row.h0),
    "DeepFM": lambda row: row.linear + pairwise(row) + row.deep(sum(row.x, [])),
    "FFM": ffm, "AFM": afm, "NFM": nfm,
    "FNN": lambda row: row.w["linear.bias"] + row.deep(row.weights + sum(row.x, [])),
    "IPNN": inner, "OPNN": outer, "AutoInt": autoint,
    "DCN": lambda row: cross(row, False), "DCNv2": lambda row: cross(row, True), "xDeepFM": xdeepfm,
}  # fmt: skip
CASES = [(name, equal, least, scaled) for name in ORACLES for equal, least in WAYS for scaled in (False, True)
         if (name in SUMMING or not scaled) and (name not in CONCATENATING or (equal, least) == WAYS[0])]


@pytest.mark.parametrize("name, equal, least, scaled", CASES)
def test_logits_by_loops(name, equal, least, scaled):
    for widths in MIXED:
        model, rng = build(name, widths, equal, least, scaled), np.random.default_rng(0)
        ids = random_ids(rng, SIZES[:len(widths)], 5)
        with torch.no_grad():
            expected = [ORACLES[name](Row(name, model, widths, equal, least, row)) for row in ids.tolist()]
            found = model(ids)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-11)
        assert np.ptp(expected) > 1e-3  # rows are told apart


def test_every_backbone_and_every_way_to_one_dimension_has_its_oracle():
    assert set(BACKBONES) == set(ORACLES) and set(ALIGNMENTS) == {equal for equal, _ in WAYS}


# ---------------------------------------------------------------- one dimension for all

@pytest.mark.parametrize("seed", range(10))
def test_projections_cost_what_narrow_fields_need(seed):
    rng = np.random.default_rng(seed)
    widths, least = rng.integers(1, 6, rng.integers(1, 8)).tolist(), int(rng.integers(0, 8))
    for least in (0, least):
        d = max(*widths, least)
        counts = {"linear": sum(d_m * d + d for d_m in widths if d_m < d), "zero-padding": 0}
        for equal, count in counts.items():
            network = Network(alignment=equal, min_dim=least)
            align = Align(widths, network)
            assert sum(q.numel() for q in align.parameters()) == count
            assert align(torch.ones(2, sum(widths))).shape == (2, len(widths), d)
            scaled = Align(widths, network, scaled=True)
            assert sum(q.numel() for q in scaled.parameters()) == count + len(widths)
    assert list(Align([d] * len(widths), Network()).parameters()) == []


@every_way
def test_a_field_begins_with_the_lengths_and_angles_of_its_embeddings(equal, least):
    x = torch.randn(20, sum(WIDTHS))
    parts = x.split(WIDTHS, 1)
    for factor, scaled in ((1.0, False), (0.1, True)):
        wide = Align(WIDTHS, Network(alignment=equal, min_dim=least), scaled)(x).detach() / factor
        for m, part in enumerate(parts):
            torch.testing.assert_close(wide[:, m] @ wide[:, m].T, part @ part.T, rtol=1e-4, atol=1e-5)


@every_way
@pytest.mark.parametrize("scaled", [False, True])
def test_more_axes_are_carried_along(equal, least, scaled):
    """[B, Σ widths, K] is K times [B, Σ widths]."""
    align = Align(WIDTHS, Network(alignment=equal, min_dim=least), scaled).double()
    h0 = torch.randn(3, sum(WIDTHS), 4, dtype=torch.float64)
    for q in align.parameters():
        torch.nn.init.normal_(q)
    torch.testing.assert_close(align(h0), torch.stack([align(h0[..., k]) for k in range(4)], 3), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- the order of fields

def drawn(shape, *key) -> torch.Tensor:
    """Random numbers that depend on a key alone."""
    seed = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return torch.tensor(np.random.default_rng(seed).normal(0, 0.5, shape))


def ordered(name: str, order, equal: str, least: int, scaled: bool) -> DLRS:
    """A model of fields in this order, what belongs to a field drawn by its number, all else by its name."""
    widths, sizes, k = [WIDTHS[m] for m in order], [SIZES[m] for m in order], tables_of(name, len(order))
    d = max(*widths, least)
    model = dlrs(sizes, widths, Network(name, HIDDEN, alignment=equal, min_dim=least), scaled).eval()
    with torch.no_grad():
        for key, q in model.named_parameters():
            q.copy_(drawn(q.shape, key))
        backbone, start, projected = model.backbone, 0, 0
        scale = [q for key, q in backbone.named_parameters() if key.split(".")[-1] == "scale"]
        linear, stored = field_tables(backbone.linear.weights, sizes), field_tables(model.embedding, sizes)
        for place, m in enumerate(order):
            linear[place].copy_(drawn((SIZES[m], 1), "linear", m))
            others = [other for other in order if other != m] if name == "FFM" else [0]
            for t, other in enumerate(others):  # FFM: the tables for the others, in their order
                stored[place].view(SIZES[m], WIDTHS[m], k)[:, :, t] = drawn((SIZES[m], WIDTHS[m]), "table", m, other)
            for q in scale:
                q[place] = drawn((), "scale", m)
            if equal == "linear" and WIDTHS[m] < d:
                backbone.align.weight[start:start + WIDTHS[m]] = drawn((WIDTHS[m], d), "W", m)
                backbone.align.bias[projected] = drawn(d, "b", m)
                start, projected = start + WIDTHS[m], projected + 1
    return model


@every_way
@pytest.mark.parametrize("name, scaled", [("FM", False), ("FM", True), ("AFM", False), ("NFM", False), ("FFM", False),
                                          ("FFM", True)])
def test_the_order_of_fields_does_not_matter(name, scaled, equal, least):
    ids = random_ids(np.random.default_rng(1), SIZES, 8)
    with torch.no_grad():
        expected = ordered(name, range(4), equal, least, scaled)(ids)
        assert expected.std() > 1e-3
        for order in ([3, 1, 2, 0], [1, 2, 3, 0], [2, 0, 3, 1]):
            found = ordered(name, order, equal, least, scaled)(ids[:, order])
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- gradients and cost

def gradients_hold(module: torch.nn.Module, call, x: torch.Tensor) -> bool:
    """gradcheck of `call(module with weights, x)` in x and in all weights that the call reads."""
    weights = {key: q.detach().clone().requires_grad_() for key, q in module.named_parameters()}

    def output(x, *values):
        return functional_call(Calling(module, call), {f"module.{k}": v for k, v in zip(weights, values)}, (x,))
    return torch.autograd.gradcheck(output, (x.requires_grad_(), *weights.values()))


class Calling(torch.nn.Module):
    """A module of which something else than forward is called."""

    def __init__(self, module, call) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x):
        return self.call(self.module, x)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for q in module.double().parameters():
        torch.nn.init.normal_(q)
    return module


IDS = torch.tensor([[1, 2, 0], [0, 3, 2]])
GRADIENTS = {
    **{f"Align {equal} {least}": (Align([2, 3, 1], Network(alignment=equal, min_dim=least), True), lambda align, x: align(x), (2, 6))
       for equal, least in (("linear", 0), ("linear", 4), ("zero-padding", 0))},
    "Align of tables": (Align([2, 3, 1], Network()), lambda align, x: align(x), (2, 6, 2)),
    "bi_interaction": (torch.nn.Identity(), lambda _, x: bi_interaction(x), (2, 4, 3)),
    "FFM": (Network("FFM").build([2, 3, 1], [4, 5, 3], search=True), lambda ffm, x: ffm(x, IDS), (2, 12)),
    "xDeepFM": (XDeepFM([3] * 4, [2] * 4, Network(hidden=HIDDEN), maps=(3, 2)), lambda net, x: net.interactions(x), (2, 4, 3)),
}


@pytest.mark.parametrize("part", GRADIENTS)
def test_gradients_by_finite_differences(part):
    module, call, shape = GRADIENTS[part]
    assert gradients_hold(filled(module), call, torch.randn(shape, dtype=torch.float64))


class Elements(TorchDispatchMode):
    """Writes down how many elements each result has."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        self.counts += [t.numel() for t in (result if isinstance(result, (tuple, list)) else [result])
                        if isinstance(t, torch.Tensor)]
        return result


def elements(name: str, n_fields: int, batch: int = 4, d: int = 4) -> list[int]:
    """Of all results of a step, forward and backward, after the lookup."""
    widths = [d, d // 2] * (n_fields // 2)
    backbone = Network(name, (4,), 0.0).build(widths, [2] * n_fields)
    h0, ids = torch.randn(batch, sum(widths), requires_grad=True), torch.zeros(batch, n_fields, dtype=torch.int64)
    with Elements() as recorder:
        backbone(h0, ids).sum().backward()
    return recorder.counts


@pytest.mark.parametrize("name", ["FM", "DeepFM", "NFM"])
def test_inner_products_of_all_pairs_cost_linear_time(name):
    """No result is larger than the embeddings in one dimension, and twice the fields make twice the elements."""
    small, large = elements(name, 200), elements(name, 400)
    assert max(small) == 200 * 4 * 4 and max(large) == 400 * 4 * 4
    assert sum(large) < 2.05 * sum(small)


def test_elements_would_show_a_quadratic_cost():
    assert max(elements("IPNN", 200)) >= 4 * 200 * 200


# ---------------------------------------------------------------- names

def parameters_after_embeddings(name: str, widths, sizes, least: int) -> int:
    """What each definition has, counted by hand; MLP of two hidden layers with BatchNorm."""
    m, d, n, p = len(widths), max(*widths, least), sum(widths), len(widths) * (len(widths) - 1) // 2
    a, b = HIDDEN
    one = sum(w * d + d for w in widths if w < d) if name not in CONCATENATING else 0
    linear = sum(sizes) + 1

    def mlp(n_in: int) -> int:
        return n_in * a + a * b + 3 * (a + b) + b + 1
    return one + {
        "MLP": lambda: mlp(n), "FM": lambda: linear, "WideDeep": lambda: linear + mlp(n),
        "DeepFM": lambda: linear + mlp(m * d), "FFM": lambda: linear,
        "AFM": lambda: linear + d * 8 + 8 + 8 + d, "NFM": lambda: linear + mlp(d),
        "FNN": lambda: linear + mlp(m + m * d), "IPNN": lambda: mlp(m * d + p), "OPNN": lambda: mlp(m * d + d * d),
        "AutoInt": lambda: 4 * d * 16 + 4 * 16 * 16 + m * 16 + 1,
        "DCN": lambda: 3 * 2 * n + n + mlp(n), "DCNv2": lambda: 3 * (n * n + n) + n + mlp(n),
        "xDeepFM": lambda: linear + m * m * 32 + 32 * m * 32 + 64 + mlp(m * d),
    }[name]()


@every_name
@pytest.mark.parametrize("least", [0, 6])
@pytest.mark.parametrize("widths", [WIDTHS, (4, 4, 4, 4)])
def test_parameters_are_those_of_the_definition(name, widths, least):
    k, network = tables_of(name, 4), Network(name, HIDDEN, min_dim=least)
    model = DLRS(SIZES, widths, network)
    assert network.table_rows(SIZES) == [k * size for size in SIZES] and model.dims == widths
    assert embedding_parameters(model) == sum(d * k * s for d, s in zip(widths, SIZES))
    expected = parameters_after_embeddings(name, widths, SIZES, least)
    assert sum(q.numel() for q in model.backbone.parameters()) == expected
    for scaled in (True, False):
        searched = replace(network, learned_scale=scaled).build(widths, SIZES, search=True)
        assert sum(q.numel() for q in searched.parameters()) == expected + 4 * (scaled and name in SUMMING)


@every_name
def test_settings_arrive(name):
    backbone = Network(name, (6, 5, 4), 0.25, True, "zero-padding").build(WIDTHS, SIZES)
    rates = [part.rate for part in backbone.modules() if type(part).__name__ == "Dropout"]
    assert rates == [0.25] * 3 * (name in DEEP)
    assert [part.bfloat16 for part in backbone.modules() if isinstance(part, MLP)] == [True] * (name in DEEP)
    aligns = [part for part in backbone.modules() if isinstance(part, Align)]
    assert len(aligns) == (name not in CONCATENATING)
    assert all(list(align.parameters()) == [] for align in aligns)


@pytest.mark.parametrize("settings, message", [
    ({"name": "DeepMF"}, "backbone 'DeepMF': expected one of MLP, FM, WideDeep"),
    ({"name": "fm"}, "backbone 'fm': expected one of MLP"),
    ({"name": "FM", "alignment": "padding"}, "alignment='padding': expected one of linear, zero-padding"),
])
def test_unknown_names_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        Network(**settings)
    assert "\n" not in str(error.value)


def test_unknown_names_are_refused_where_they_are_given():
    with pytest.raises(ValueError, match="backbone.*'DeepMF'.*one of MLP, FM"):
        AutoDim(backbone="DeepMF").fit(clicks(), label="click")


def test_ffm_says_that_it_needs_two_fields(make_data):
    for call in (lambda: search(make_data(sizes=(6,)), SEARCH, Network("FFM"), quiet()),
                 lambda: DLRS([6], [2], Network("FFM")), lambda: Network("FFM").build([2], [6])):
        with pytest.raises(ValueError, match="FFM needs two fields"):
            call()


class Sum(torch.nn.Module):
    """A user's own backbone: a linear part and the sum of all embeddings; field-aware."""

    def __init__(self, dims, cardinalities, network) -> None:
        super().__init__()
        self.linear, self.factor = Linear(cardinalities), torch.nn.Parameter(torch.tensor(network.dropout))

    def forward(self, h0, ids):
        return self.linear(ids) + self.factor * h0.sum(1)


def test_a_backbone_of_ones_own_is_searched_and_trained_by_name(monkeypatch, make_data):
    monkeypatch.setitem(BACKBONES, "Sum", Backbone(Sum, field_aware=True))
    monkeypatch.setitem(BACKBONES, "plain Sum", Backbone(Sum))
    monkeypatch.setitem(BACKBONES, "Other", Backbone(MLP, pretrained="plain Sum"))
    data, network = make_data(), Network("Sum", dropout=0.25)
    found = search(data, SEARCH, network, quiet())
    assert set(found.dims.values()) <= {2, 4} and found.alpha.shape == (4, 2)
    trained = retrain(data, list(found.dims.values()), TRAIN, network, quiet())
    assert isinstance(trained.model.backbone, Sum) and trained.model.embedding.tables_per_field == 3
    assert embedding_parameters(trained.model) == sum(
        d * rows for d, rows in zip(found.dims.values(), network.table_rows(data.cardinalities)))
    with pytest.raises(ValueError, match="Other has no weight 'backbone.*' of plain Sum"):
        retrain(data, [2] * 4, TRAIN, Network("Other"), quiet())


# ---------------------------------------------------------------- search

@pytest.fixture
def quiet_noise(monkeypatch):
    """Gumbel noise that is the same in each forward pass."""
    def noise(like, generator=None):
        return torch.linspace(-1, 1, like.numel(), dtype=like.dtype).sin().view_as(like)
    monkeypatch.setattr(autodim.method.selection, "gumbel_noise", noise)


def searcher_of(name: str, variant: int, data, dtype=torch.float64) -> Searcher:
    """Some steps into a search, without dropout."""
    torch.manual_seed(variant)
    candidates = uniform_candidates(len(data.fields), (2, 4))
    model = SearchModel(data.cardinalities, candidates, variant, Network(name, HIDDEN, dropout=0.0)).to(dtype)
    torch.nn.init.normal_(model.selection.logits)
    searcher = Searcher(model, SearchConfig(variant=variant, dims=(2, 4), lr=0.01))
    for _ in range(2):
        searcher.weight_step(batch_of(data.train, dtype))
    return searcher


def batch_of(part: Part, dtype) -> Part:
    return Part(part.ids[:40], part.labels[:40].to(dtype))


@every_name
@pytest.mark.parametrize("variant", VARIANTS)
def test_alpha_learns_through_every_backbone(name, variant, quiet_noise, make_data):
    """α's gradient is that of finite differences, and no field is without one."""
    data = make_data(sizes=(5, 9, 4))
    searcher = searcher_of(name, variant, data)
    model, val = searcher.model, batch_of(data.val, torch.float64)
    _, gradient = alpha_gradient(model, val, val, tau=1.0)
    assert gradient.isfinite().all() and (gradient.abs().amax(1) > 1e-8).all()
    start = model.selection.logits.detach().clone()

    def loss(logits) -> float:
        with torch.no_grad():
            model.selection.logits.copy_(logits)
            return loss_of(model(val.ids, model.selection(1.0)), val.labels).item()
    for place in np.ndindex(*start.shape):
        nudge = torch.zeros_like(start)
        nudge[place] = 1e-5
        slope = (loss(start + nudge) - loss(start - nudge)) / 2e-5
        assert gradient[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-8)


@every_name
@pytest.mark.parametrize("variant", VARIANTS)
def test_alpha_step_moves_alpha_alone(name, variant, make_data):
    data = make_data(sizes=(5, 9, 4))
    searcher = searcher_of(name, variant, data, torch.float32)
    model, (train, val) = searcher.model, (batch_of(part, torch.float32) for part in (data.train, data.val))
    before, alpha = snapshot(model, searcher.w_optimizer), model.selection.logits.detach().clone()
    gradients = [q.grad.clone() for q in model.weights()]
    searcher.alpha_step(val, train)
    assert all(a.equal(b) for a, b in zip(before, snapshot(model, searcher.w_optimizer), strict=True))
    assert all(g.equal(q.grad) for g, q in zip(gradients, model.weights(), strict=True))
    assert (model.selection.logits != alpha).any(1).all()
    searcher.weight_step(train)
    moved = [not a.equal(b) for a, b in zip(before, snapshot(model, searcher.w_optimizer), strict=True)]
    assert np.mean(moved) > 0.5  # and statistics are recorded again


@pytest.mark.parametrize("variant", VARIANTS)
def test_ffm_is_searched_over_dimensions_of_one_table(variant, make_data):
    data, config = make_data(), replace(SEARCH, variant=variant, dims=(1, 2, 5), alpha_lr=0.3)
    found = search(data, config, Network("FFM"), quiet(1))
    assert list(found.dims) == list(data.fields) and len(set(found.dims.values())) > 1
    assert list(found.dims.values()) == [(1, 2, 5)[n] for n in found.alpha.argmax(1).tolist()]
    assert found.model.backbone.align.d == 5
    scores = [supernet_auc(found.model, data.val, dims) for dims in (list(found.dims.values()), [5] * 4, [1] * 4)]
    assert all(0 < score < 1 for score in scores) and len(set(scores)) > 1
    with pytest.raises(ValueError):
        supernet_auc(found.model, data.val, [15] * 4)  # the width of its three tables
    trained = retrain(data, list(found.dims.values()), replace(TRAIN, epochs=1), Network("FFM"), quiet(1))
    assert trained.model.dims == tuple(found.dims.values()) and trained.model.embedding.tables_per_field == 3


@pytest.mark.parametrize("variant", [1, 3])
def test_a_candidate_of_ffm_is_the_first_digits_of_each_of_its_tables(variant):
    """With one candidate chosen, a table has its first d_n columns and zeros; pairs meet in the smaller dimension."""
    torch.manual_seed(0)
    dims, n_fields, chosen = (1, 2, 4), 4, (1, 4, 2, 2)
    candidates = uniform_candidates(n_fields, dims)
    model = SearchModel(SIZES, candidates, variant, Network("FFM", learned_scale=False)).double()
    for q in model.parameters():
        torch.nn.init.normal_(q)
    p = torch.eye(3, dtype=torch.float64)[[dims.index(d) for d in chosen]]
    ids, read = random_ids(np.random.default_rng(0), SIZES, 30), []
    model.backbone.align.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
    logits = model(ids, p)
    tables = read[0].unflatten(1, (n_fields, 4)).tolist()  # [B, M, 4, 3]
    linear = [t.tolist() for t in field_tables(model.backbone.linear.weights, SIZES)]
    for b, row in enumerate(ids.tolist()):
        logit = model.backbone.linear.bias.item() + sum(linear[m][i][0] for m, i in enumerate(row))
        for i, j in pairs(n_fields):
            common = range(min(chosen[i], chosen[j]))
            logit += sum(tables[b][i][k][j - 1] * tables[b][j][k][i] for k in common)
        assert logits[b].item() == pytest.approx(logit, rel=1e-9)
        for m, d in enumerate(chosen):
            for t in range(n_fields - 1):
                column = [tables[b][m][k][t] for k in range(4)]
                assert all(column[:d]) and not any(column[d:])


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("name", ["FM", "FFM"])
def test_a_resumed_search_equals_an_uninterrupted_one(name, stop, make_data):
    run = partial(search, make_data(), replace(SEARCH, epochs=3), Network(name))
    whole, memory = run(quiet(1)), Memory(stop)
    with pytest.raises(KeyboardInterrupt):
        run(quiet(1, memory))
    torch.rand(5)
    resumed = run(quiet(1, memory))
    assert resumed.alpha.equal(whole.alpha) and resumed.dims == whole.dims and same(resumed.history, whole.history)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


# ---------------------------------------------------------------- training

@every_name
def test_a_seed_fixes_everything_and_the_callers_random_numbers_go_on(name, make_data):
    data, network = make_data(), Network(name, (8,))
    torch.manual_seed(77)
    searches, trainings = [], []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        searches.append(search(data, replace(SEARCH, epochs=1), network, quiet(seed)))
        trainings.append(retrain(data, [2, 4, 2, 1], replace(TRAIN, epochs=1), network, quiet(seed)))
        assert torch.get_rng_state().equal(before)
        torch.rand(3)
    assert searches[0].alpha.equal(searches[1].alpha) and not searches[0].alpha.equal(searches[2].alpha)
    states = [result.model.state_dict() for result in (*searches, *trainings)]
    assert same(states[0], states[1]) and not same(states[0], states[2])
    assert same(states[3], states[4]) and not same(states[3], states[5])
    assert trainings[0].history == trainings[1].history
    assert evaluate(trainings[0].model, data.val) == trainings[0].val


@every_name
@pytest.mark.parametrize("sparse", [False, True])
def test_all_parameters_are_trained(name, sparse, make_data):
    data = make_data()
    result = retrain(data, [2, 4, 2, 1], replace(TRAIN, sparse=sparse), Network(name, (8,)), quiet())
    fresh = torch.random.get_rng_state()
    torch.manual_seed(0)
    start = DLRS(data.cardinalities, [2, 4, 2, 1], Network(name, (8,))).state_dict()
    torch.random.set_rng_state(fresh)
    assert start.keys() == result.model.state_dict().keys()
    assert [key for key, t in result.model.state_dict().items() if t.equal(start[key])] == []


@pytest.fixture(scope="module")
def together(make_data):
    """Labels that two fields decide together, a chequered board, and a third field a little by itself."""
    rng, data = np.random.default_rng(0), make_data(sizes=(4, 4, 6), rows=(1500, 500, 10))
    for part in (data.train, data.val):
        a, b, c = part.ids.numpy().T
        odds = 3.0 * (-1.0) ** (a + b) + 0.5 * c - 1
        part.labels.copy_(torch.tensor(rng.random(len(odds)) < 1 / (1 + np.exp(-odds))))
    return data


def test_a_linear_model_does_not_learn_it(together):
    train, val = (np.eye(16)[part.ids.numpy() + [0, 4, 8]].sum(1) for part in (together.train, together.val))
    linear = LogisticRegression().fit(train, together.train.labels.numpy())
    assert roc_auc_score(together.val.labels, linear.decision_function(val)) < 0.75


@every_name
def test_every_backbone_learns_what_two_fields_decide_together(name, together):
    config = TrainConfig(epochs=8, patience=8, batch_size=100, lr=0.03)
    found = retrain(together, [4, 4, 2], config, Network(name, (16,), dropout=0.1), quiet())
    assert found.val.auc > 0.9


def begun(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The weights with which each training begins."""
    seen = []

    def spy(model, *arguments):
        seen.append({key: t.clone() for key, t in model.state_dict().items()})
        return fit(model, *arguments)
    monkeypatch.setattr(autodim.method.retrain, "fit", spy)
    return seen


@every_way
def test_fnn_begins_with_what_an_fm_has_learnt(equal, least, monkeypatch, make_data):
    data, dims, seen = make_data(), [2, 5, 3, 5], begun(monkeypatch)
    network = Network("FNN", HIDDEN, alignment=equal, min_dim=least)
    fnn = retrain(data, dims, TRAIN, network, quiet(3))
    first = seen[1]  # after the FM's
    trained = retrain(data, dims, TRAIN, replace(network, name="FM"), quiet(3)).model.state_dict()
    torch.manual_seed(3)
    fresh = DLRS(data.cardinalities, dims, network).state_dict()
    assert {key for key in first if ".deep." not in key} == trained.keys()
    for key, t in first.items():
        assert t.equal(trained[key] if key in trained else fresh[key]), key
        assert key not in trained or not t.equal(fresh[key]), key
    parts = {"tables", "linear"} | (set() if equal == "zero-padding" else {"align"})
    assert {key.split(".")[1] for key in trained} == parts
    model = DLRS(data.cardinalities, dims, network)
    model.load_state_dict(first)
    expected = fit(model, data, TRAIN, quiet(3))
    assert expected.history == fnn.history and same(expected.model.state_dict(), fnn.model.state_dict())


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("name", ["FM", "FFM", "DeepFM", "FNN"])
def test_a_resumed_training_equals_an_uninterrupted_one(name, stop, monkeypatch, make_data):
    """And FNN, going on, does not train its FM again."""
    config = TrainConfig(epochs=4, patience=4, batch_size=50, lr=0.01)
    run = partial(retrain, make_data(), [2, 4, 2, 8], config, Network(name, HIDDEN))
    whole, memory, trainings = run(quiet(1)), Memory(stop), begun(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(quiet(1, memory))
    torch.rand(5)
    assert len(trainings) == 1 + (name == "FNN")
    resumed = run(quiet(1, memory))
    assert len(trainings) == 2 + (name == "FNN")
    assert len(resumed.history) > stop and resumed.history == whole.history and resumed.val == whole.val
    assert same(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("name", ["FM", "FNN", "FFM"])
def test_dimensions_of_another_number_of_fields_are_refused(name, make_data):
    with pytest.raises(ValueError, match="3 dims for the 4 fields field 0, field 1, field 2, field 3"):
        retrain(make_data(), [2, 2, 2], TRAIN, Network(name), quiet())


# ---------------------------------------------------------------- files

def clicks(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": rng.integers(0, 12, n), "item": [f"i{i}" for i in rng.integers(0, 9, n)],
                          "place": rng.choice(["shop", "web", None], n), "price": rng.gamma(2, 5, n).round(1)})
    frame["click"] = (rng.random(n) < 1 / (1 + np.exp(frame.user / 3 - 2))).astype(int)
    return frame


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("name", ["FM", "FFM", "AFM", "FNN", "AutoInt", "DCNv2", "xDeepFM"])
def test_an_estimator_predicts_as_before_it_was_saved(name, tmp_path):
    table = clicks()
    model = AutoDim(dims=(2, 4), backbone=name, hidden=(8,), search_epochs=1, epochs=2, batch_size=50, f=2,
                    rivals=False)
    model.fit(table, label="click").save(tmp_path / "model")
    again, kind = load(tmp_path / "model"), type(DLRS([2, 2], [2, 2], Network(name)).backbone)
    assert type(again.model_.backbone) is type(model.model_.backbone) is kind
    assert np.array_equal(again.predict_proba(table), model.predict_proba(table))
    assert np.array_equal(again.predict(table), model.predict(table)) and again.dims_ == model.dims_
    assert set(model.dims_.values()) <= {2, 4} and np.ptp(model.predict_proba(table)[:, 1]) > 0


def test_an_ffm_is_refused_by_name_where_a_field_has_one_table(tmp_path):
    model, fields = DLRS(SIZES, [4, 4, 4, 4], Network("FFM")), ["a", "b", "c", "d"]
    vocabularies = [Vocabulary(field, np.arange(size - 1)) for field, size in zip(fields, SIZES)]
    trained = Trained(Schema("y", tuple(fields), {}, {}), vocabularies, np.array([0, 1]), dict.fromkeys(fields, 4), model,
                      Network("FFM"), {})
    with pytest.raises(ValueError, match="3 tables a field.*exported as onnx"):
        write_exports(trained, tmp_path, ["torchrec"])
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:left out")
def test_an_estimator_takes_a_backbone_of_ones_own(monkeypatch, tmp_path):
    settings = dict(dims=(2, 4), backbone="my sum", search_epochs=1, epochs=1, batch_size=50, f=2, rivals=False)
    with pytest.raises(ValueError, match="backbone.*'my sum'.*one of MLP, FM"):
        AutoDim(**settings).fit(clicks(), label="click")
    monkeypatch.setitem(BACKBONES, "my sum", Backbone(Sum))
    table, model = clicks(), AutoDim(**settings).fit(clicks(), label="click")
    model.save(tmp_path / "model")
    assert isinstance(model.model_.backbone, Sum)
    assert np.array_equal(load(tmp_path / "model").predict_proba(table), model.predict_proba(table))


class Together(torch.nn.Module):
    """All backbones on the same embeddings; the last field's id says whose logit is returned."""

    def __init__(self, widths, cardinalities) -> None:
        super().__init__()
        built = {name: widths if name != "FFM" else [w // (len(widths) - 1) for w in widths] for name in BACKBONES}
        self.each = torch.nn.ModuleList(Network(name, HIDDEN).build(dims, cardinalities) for name, dims in built.items())

    def forward(self, h0, ids):
        logits = torch.stack([backbone(h0, ids) for backbone in self.each], 1)
        return logits.gather(1, ids[:, -1:]).squeeze(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of all backbones, since an export takes two seconds, and what ONNX Runtime loads of it."""
    torch.manual_seed(0)
    sizes, path = (*SIZES, len(BACKBONES)), tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = DLRS(sizes, (4, 12, 8, 12, 4))  # FFM's four tables, of dimensions 1, 3, 2, 3, 1
    model.backbone = Together(model.dims, sizes)
    for q in model.parameters():
        torch.nn.init.normal_(q, std=0.4)
    for seed in range(30):  # running statistics that are those of its layers
        model(random_ids(np.random.default_rng(seed), sizes, 64))
    write_onnx(model, [f"f{m}" for m in range(5)], path)
    return model.eval(), onnxruntime.InferenceSession(path)


@every_name
@pytest.mark.parametrize("rows", [1, 3, 257])
def test_onnx_runtime_equals_pytorch(name, rows, exported):
    model, session = exported
    ids = random_ids(np.random.default_rng(rows), (*SIZES, 1), rows)
    ids[:, -1] = list(BACKBONES).index(name)
    with torch.no_grad():
        expected = 1 / (1 + np.exp(-model(ids).double().numpy()))
    (found,) = session.run(["probability"], {"ids": ids.numpy()})
    assert found.shape == (rows,) and np.abs(found - expected).max() < 1e-5
    assert rows < 100 or np.ptp(expected) > 0.05  # rows are told apart


# ---------------------------------------------------------------- the peers

@pytest.fixture(scope="module")
def peers(root, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """Comparisons with DeepCTR-Torch and FuxiCTR by (model, library)."""
    home = root / ".peers" / "exports"
    if not (home / ".installed").exists():
        pytest.skip("no .peers/exports with DeepCTR-Torch and FuxiCTR: run `make peers`")
    result = subprocess.run([home / "bin" / "python", root / "scripts" / "peers" / "compare_backbones.py"],
                            capture_output=True, text=True, timeout=900, cwd=tmp_path_factory.mktemp("peers"))
    assert result.returncode == 0, result.stderr[-3000:]
    entries = json.loads(result.stdout.splitlines()[-1])
    return {(entry["model"], entry["library"].split()[0]): entry for entry in entries}


DEEPCTR = ("FM", "WideDeep", "DeepFM", "NFM", "AFM", "IPNN", "AutoInt", "DCN", "DCNv2", "xDeepFM")
FUXICTR = ("FM", "WideDeep", "DeepFM", "NFM", "IPNN", "DCN", "DCNv2", "xDeepFM")


@pytest.mark.parametrize("library, name", [("deepctr-torch", n) for n in DEEPCTR] + [("fuxictr", n) for n in FUXICTR])
def test_logits_are_those_of_the_peers(name, library, peers):
    entry = peers[name, library]
    assert entry["difference"] < 1e-12 and entry["range"] > 1
