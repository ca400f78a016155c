"""Tables of anybody's model: against PyTorch's own lookups, loops over rows, and what cannot be packed."""
import copy
import json
import os
import subprocess

import numpy as np
import pytest
import torch
import torch.nn as nn

from autodim.memory.modules import (
    Adapter, Lookup, ModuleCompressor, compress_modules, embedding_modules, with_lookups, with_packed,
)  # fmt: skip
from autodim.memory.packing import load_packed, save_packed
from autodim.memory.sensitivity import Table, frequency_groups, sensitivities
from autodim.method.metrics import auc

seeds = pytest.mark.parametrize("seed", range(6))


class Bags(nn.Module):
    """A bag of ids by offsets, one of equal length, and an id that shares the first one's table; in float64."""

    def __init__(self, mode: str = "sum", sparse: bool = False) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(40, 3, mode=mode, sparse=sparse).double()
        self.tags = nn.EmbeddingBag(9, 2, mode=mode, padding_idx=8, sparse=sparse).double()
        self.word = nn.Embedding(40, 3, sparse=sparse).double()
        self.word.weight = self.words.weight
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, batch):
        words, offsets, tags, word = batch
        return self.net(torch.cat([self.words(words, offsets), self.tags(tags), self.word(word)], 1)).squeeze(1)


def batches_of(seed: int, n: int = 12, size: int = 50) -> list[tuple]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        lengths = rng.integers(0, 4, size)
        words = (40 * rng.random(lengths.sum()) ** 2).astype(int)
        found.append(tuple(map(torch.tensor, (words, np.cumsum(lengths) - lengths, rng.integers(0, 9, (size, 3)),
                                              (40 * rng.random(size) ** 2).astype(int)))))
    return found


@seeds
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_those_of_pytorch(seed, mode):
    torch.manual_seed(seed)
    for options in ({}, {"padding_idx": 3}, {"include_last_offset": True}):
        bag = nn.EmbeddingBag(7, 4, mode=mode, **options)
        own = Lookup(bag, nn.Embedding(7, 4, _weight=bag.weight))
        ids, offsets = torch.randint(0, 7, (20,)), torch.randint(0, 20, (5,)).sort().values
        offsets[0] = 0
        if "include_last_offset" in options:
            offsets[-1] = 20
        torch.testing.assert_close(own(ids, offsets), bag(ids, offsets))
        torch.testing.assert_close(own(input=ids.view(4, 5)), bag(ids.view(4, 5)))
        if mode == "sum":
            weights = torch.rand(20)
            torch.testing.assert_close(own(ids, offsets, weights), bag(ids, offsets, weights))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_curvature_is_a_loop_over_rows_and_over_what_each_looks_up(mode):
    torch.manual_seed(0)
    model, batches = Bags(mode), batches_of(0, 2)
    rows = {"words": nn.Embedding(40, 3, _weight=model.words.weight),
            "tags": nn.Embedding(9, 2, _weight=model.tags.weight)}
    measured = with_lookups(model, rows, share=True)
    counts = [torch.ones(40), torch.ones(9)]
    tables = [Table(name, i, m, slice(0, len(m.weight))) for i, (name, m) in enumerate(rows.items())]
    found = sensitivities(measured, tables, counts, [frequency_groups(c) for c in counts], batches)
    expected, n = [np.zeros((3, 3)), np.zeros((2, 2))], 0
    for words, offsets, tags, word in batches:
        ends = [*offsets[1:].tolist(), len(words)]
        for i, (start, end) in enumerate(zip(offsets.tolist(), ends)):
            n += 1
            own, kept = words[start:end], tags[i][tags[i] != 8]
            vectors = [*model.words.weight[own].detach(), model.words.weight[word[i]].detach(),
                       *model.tags.weight[kept].detach()]
            vectors = [e.clone().requires_grad_() for e in vectors]
            a, c = vectors[: len(own)], vectors[len(own) + 1:]

            def pooled(parts, d):
                total = sum(parts, torch.zeros(d).double())
                return total / max(1, len(parts)) if mode == "mean" else total

            logit = model.net(torch.cat([pooled(a, 3), pooled(c, 2), vectors[len(own)]])[
                torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])])
            p = logit.sigmoid().item()
            gradients = torch.autograd.grad(logit, vectors)
            for k, g in enumerate(gradients):
                expected[k > len(own)] += p * (1 - p) * np.outer(g, g)
    for s, total in zip(found, expected):
        np.testing.assert_allclose(s.curvature(), total / n, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_within_the_budget_and_with_all_bits_nearly_as_it_was(mode, sparse, tmp_path):
    torch.manual_seed(1)
    model, batches = Bags(mode, sparse), batches_of(1)
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    logits = torch.cat([model(b) for b in batches]).detach()
    errors = []
    for budget in (1e6, 400, 200):
        found = compress_modules(model, batches, budget)
        assert found.bytes == sum(m.nbytes() for m in found.modules.values()) <= budget
        assert found.full_bytes == 8 * (40 * 3 + 9 * 2) and set(found.modules) == {"words", "tags"}
        errors.append((torch.cat([found.model(b) for b in batches]) - logits).square().mean().item())
        assert not any("words" in n or "tags" in n for n, _ in found.model.named_parameters())
    assert errors[0] < 1e-4 * logits.var()
    assert all(a <= 1.05 * b for a, b in zip(errors, errors[1:]))  # with all bits the groups make no difference
    assert model.training and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    save_packed(found.modules, tmp_path / "t")
    assert torch.equal(with_packed(model, load_packed(tmp_path / "t"))(batches[0]), found.model(batches[0]))


class Many(nn.Module):
    """Six small tables of odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 3) for n in (5, 7, 9, 11, 13, 15))
        self.out = nn.Linear(18, 1)

    def forward(self, ids):
        return self.out(torch.cat([t(ids[:, m]) for m, t in enumerate(self.tables)], 1)).squeeze(1)


def test_no_budget_is_exceeded_by_a_byte():
    """Tables are packed one by one, and each rounds its own arrays up."""
    torch.manual_seed(0)
    c = ModuleCompressor(Many(), [torch.stack([torch.randint(0, n, (40,)) for n in (5, 7, 9, 11, 13, 15)], 1)])
    found = []
    for budget in range(20, c.full_bytes):
        try:
            found.append((c.within(budget).bytes, budget))
        except ValueError as error:
            assert "is too small" in str(error)
    assert len(found) > 200 and all(size <= budget for size, budget in found)


def test_groups_where_they_pay_for_the_places_of_ids():
    """Of a table whose ids are in no order and mostly unseen, groups; where all are equally frequent, none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3000, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    some, equally = torch.randperm(3000)[:100], torch.arange(3000)
    grouped, plain = (compress_modules(model, [ids] * 3, 9_000) for ids in (some, equally))
    assert grouped.modules["0"].ranks is not None and plain.modules["0"].ranks is None
    for found, ids in ((grouped, some), (plain, equally)):
        assert (found.model(ids) - model(ids)).square().mean() < 0.1 * model(ids).var()


class Twice(nn.Module):
    """One weight, used with and without padding."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.net = nn.Embedding(300, 4, padding_idx=0), nn.Embedding(300, 4), nn.Linear(8, 1)
        self.b.weight = self.a.weight

    def forward(self, ids):
        return self.net(torch.cat([self.a(ids[:, 0]), self.b(ids[:, 1])], 1).tanh())


def test_a_row_that_is_padding_in_one_place_only_is_kept():
    torch.manual_seed(0)
    model, ids = Twice(), torch.randint(1, 300, (2000, 2)) * (torch.rand(2000, 2) < 0.5)
    model.a.weight.data += 0.5
    model.a.weight.data[0] = 0
    found = compress_modules(model, list(ids.split(100)), 1e6)
    assert not found.model.a(torch.tensor([0])).any()
    assert found.model.b(torch.tensor([0])).abs().max() < 0.1 < model.b.weight.abs().max()
    model = nn.Sequential(nn.Embedding(300, 4, padding_idx=0), nn.Linear(4, 1))
    model[0].weight.data += 3
    model[0].weight.data[0] = 0
    found = compress_modules(model, list((ids[:, 0]).split(100)), 1e6)
    assert not found.model[0](torch.tensor([0])).any()
    assert (found.modules["0"].means.float() - 3).abs().max() < 0.5  # of the rows that are none of padding


def test_a_packed_table_of_another_shape_is_refused():
    model = nn.Sequential(nn.Embedding(30, 2), nn.Linear(2, 1))
    found = compress_modules(model, [torch.arange(30)], 1e4)
    with pytest.raises(ValueError, match=r"'0' is \(31, 2\), packed is one of \(30, 2\)"):
        with_packed(nn.Sequential(nn.Embedding(31, 2), nn.Linear(2, 1)), found.modules)
    with pytest.raises(ValueError, match="no table '0'"):
        with_packed(nn.Linear(2, 1), found.modules)


class Unused(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.table, self.read = nn.Embedding(4, 5), read

    def forward(self, x):
        return x + self.table.weight.sum() if self.read else x


class Own(nn.Embedding):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("change, words", [
    (lambda m: m[0].weight.data[3].fill_(np.nan), "'0' has a weight that is not a finite number"),
    (lambda m: m[0].weight.data[0, 1].fill_(np.inf), "'0' has a weight that is not a finite number"),
    (lambda m: m[1].weight.data.fill_(np.nan), "a gradient of the model is not a finite number"),
    (lambda m: setattr(m[0], "max_norm", 1.0), "'0' cannot be packed: its max_norm"),
    (lambda m: m.__setitem__(0, Own(30, 2)), "Own has a lookup of its own; leave it as it is with keep"),
    (lambda m: m.__setitem__(0, nn.EmbeddingBag(30, 2, mode="max")), "mode='max' is no sum of rows"),
    (lambda m: m.__setitem__(0, nn.Linear(1, 2)), "no nn.Embedding or nn.EmbeddingBag"),
    (lambda m: m.append(Unused(False)), "'2.table' is never looked up in these batches: if it is used otherwise"),
    (lambda m: m.append(Unused(True)), "reads the weight of its table of 4 rows of 5 itself"),
])
def test_what_cannot_be_had_is_one_clear_error(change, words):
    model = nn.Sequential(nn.Embedding(30, 2), nn.Linear(2, 1))
    change(model)
    with pytest.raises(ValueError, match=words):
        compress_modules(model, [torch.arange(30)], 1e4)


def labelled(seed: int, n: int = 6) -> tuple[nn.Module, list, list]:
    """A model of `Bags`, its training batches, and validation rows whose labels are drawn from what it says."""
    torch.manual_seed(seed)
    model, pairs = Bags(), []
    for batch in batches_of(seed + 100, n, 200):
        chance = (3 * model(batch)).sigmoid()
        pairs.append((batch, (torch.rand(len(chance)) < chance).float()))
    return model, batches_of(seed), pairs


def test_the_fewest_bytes_for_a_tolerated_loss():
    """What is said of validation rows is what a look of one's own finds, and a budget below costs too much."""
    model, train, pairs = labelled(0)
    c, costs = ModuleCompressor(model, train), []
    for max_loss in (0.2, 1.0):
        found = compress_modules(model, train, max_loss=max_loss, validation=pairs)
        labels = torch.cat([y for _, y in pairs])
        aucs = [auc(torch.cat([m(batch).detach() for batch, _ in pairs]), labels) for m in (model, found.model)]
        assert [found.before.auc, found.after.auc] == pytest.approx(aucs, abs=1e-9)
        assert found.loss <= max_loss and found.bytes < found.full_bytes
        sure = compress_modules(model, train, max_loss=max_loss + 2, validation=pairs, adapter=Adapter(sure=True))
        assert sure.interval()[1] <= max_loss + 2
        costs.append(found.bytes)
    assert costs[1] < costs[0] < c.within(1e9).bytes
    least = compress_modules(model, train, costs[1] / 2, validation=pairs)
    assert least.loss > 1.0  # half of the bytes would not do
    with pytest.raises(ValueError, match="with 8 bits for every component the validation AUC falls by"):
        compress_modules(model, train, max_loss=-50.0, validation=pairs)


@pytest.mark.parametrize("change, words", [
    (lambda pairs: [batch for batch, _ in pairs], "item 1: expected a pair"),
    (lambda pairs: [*pairs, (pairs[0][0], pairs[0][1][1:])], "item 7: expected a label, 0 or 1, for each of 200 rows"),
    (lambda pairs: [(batch, y + 1) for batch, y in pairs], "item 1: expected a label, 0 or 1"),
    (lambda pairs: [(batch, 0 * y) for batch, y in pairs], "expected rows of both classes"),
    (lambda pairs: [], "expected rows of both classes"),
    (lambda pairs: iter(pairs), "validation can be read but once"),
    (lambda pairs: Shuffled(pairs), "another order each time"),
])
def test_validation_rows_that_cannot_be_used(change, words):
    model, train, pairs = labelled(1)
    with pytest.raises(ValueError, match=words):
        compress_modules(model, train, max_loss=1.0, validation=change(pairs))


class Shuffled(list):
    def __iter__(self):
        self.append(self.pop(0))
        return super().__iter__()


def test_weights_that_another_layer_uses():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False), nn.Linear(8, 1))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="'0' shares its weight with '1'"):
        embedding_modules(model)
    both = nn.Sequential(nn.Embedding(8, 4), copy.deepcopy(model))
    assert list(embedding_modules(both, keep=["1.0"])) == ["0"]


@pytest.mark.peers
@pytest.mark.parametrize("library", ["deepctr", "fuxictr"])
def test_models_of_other_libraries_are_packed_as_they_are(library, root):
    home = root / ".peers" / "exports"
    if not (home / ".installed").exists():
        pytest.skip("no .peers/exports with DeepCTR-Torch and FuxiCTR: run `make peers`")
    done = subprocess.run([home / "bin" / "python", root / "scripts" / "peers" / "pack_modules.py", library],
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["share"] <= 0.2 and found["error"] < 0.05 and len(found["tables"]) >= 3
