"""Packed tables against a reader that goes bit by bit, and files against what may befall them."""
import json

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn

from autodim.data.files import DataError
from autodim.memory.allocation import Components, allocate, components, packed_bytes
from autodim.memory.packing import (
    LOOKUP_BYTES, PackedEmbedding, PackedTables, best_step, load_packed, pack, quantise, save_packed, step_of,
)  # fmt: skip
from autodim.memory.sensitivity import BLOCKS, Groups, Sensitivity, Table, frequency_groups

seeds = pytest.mark.parametrize("seed", range(8))


def random_tables(seed: int, tables: int = 4):
    """Tables, plans of random bits, and counts; some rows are never seen, some components and tables not kept."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    offers, plans, counts = [], [], []
    for m in range(tables):
        v, d = int(rng.integers(1, 90)), int(rng.integers(1, 6))
        counts.append(torch.tensor(rng.poisson(rng.exponential(4, v))))
        groups = frequency_groups(counts[-1], 4, 5)
        basis = torch.linalg.qr(torch.randn(d, d).double())[0]
        k = len(groups.starts)
        offers.append(Components(Table(f"t{m}", m, nn.Embedding(v, d), slice(0, v)), groups, torch.randn(d).double(),
                                 basis, basis.T.contiguous(), 0.3 + torch.rand(d, k).double(), torch.ones(d, k)))
        bits = torch.tensor(rng.integers(0, 9, (d, k)) * (rng.random((d, k)) > 0.3) * (rng.random((d, 1)) > 0.3))
        plans.append(bits.to(torch.uint8) * int(rng.random() > 0.2))
    return offers, plans, counts


def read_bit_by_bit(tables: PackedTables) -> list[np.ndarray]:
    """Every row of every table, in the order of the groups, from the stored tensors alone."""
    bits = np.unpackbits(tables.codes.numpy(), bitorder="little").tolist()
    widths = [w for byte in tables.widths.tolist() for w in (byte & 15, byte >> 4)]
    steps, means, basis = iter(tables.steps.tolist()), tables.means.double(), tables.basis.double()
    starts, found = tables.starts.tolist(), []
    for h in tables.headers:
        ends = [*starts[: h.groups - 1], h.rows]
        starts, mean, means = starts[h.groups - 1:], means[: h.width], means[h.width:]
        matrix, basis = basis[: h.kept * h.width].view(h.kept, h.width), basis[h.kept * h.width:]
        rows = []
        for start, end in zip([0, *ends], ends):
            own, widths = widths[: h.kept], widths[h.kept:]
            scales = [step_of(next(steps)).item() if b else 0.0 for b in own]
            y = np.zeros((end - start, h.kept))
            for i, j in np.ndindex(y.shape):
                code, bits = sum(bit << n for n, bit in enumerate(bits[: own[j]])), bits[own[j]:]
                y[i, j] = (code - (2 ** own[j] - 1) / 2) * scales[j]
            rows.append(mean.numpy() + y @ matrix.numpy())
        found.append(np.concatenate(rows))
    assert len(bits) < 8 and not any(bits)
    return found


@seeds
@pytest.mark.parametrize("room", [LOOKUP_BYTES, 9_000, 3_000, 0, -1_000_000])
def test_lookups_are_what_a_reader_bit_by_bit_finds(seed, room):
    """Decoded, and by chunks of four, two and one bits, whatever room there is for sums."""
    offers, plans, counts = random_tables(seed)
    tables, ranked = (PackedTables(t.headers, t.state_dict(), room)
                      for t in (pack(offers, plans, counts), pack(offers, plans, counts, False)))
    expected = read_bit_by_bit(tables)
    ids = torch.stack([torch.randint(0, h.rows, (50,)) for h in tables.headers], 1)
    wanted = np.concatenate([e[ids[:, m]] for m, e in enumerate(expected)], 1)
    np.testing.assert_allclose(tables(ids), wanted, rtol=1e-4, atol=1e-5)
    places = torch.stack([c.groups.order[ids[:, m]] for m, c in enumerate(offers)], 1)
    assert torch.equal(ranked(places), tables(ids))
    torch.testing.assert_close(tables(ids[:1].int())[0], tables(ids)[0])
    assert tables.nbytes() == packed_bytes(offers, plans)
    assert ranked.nbytes() - tables.nbytes() == 2 * sum(h.rows for h in tables.headers)


@seeds
def test_what_is_kept_is_near_and_what_is_not_is_the_mean(seed):
    """Eight bits everywhere give the table back, none the mean; a dropped component stays at the mean's."""
    offers, _, counts = random_tables(seed)
    counts = [c + 1 for c in counts]
    offers = [components(Sensitivity(c.table, n, c.groups, torch.eye(len(c.mean)).double().expand(
        BLOCKS, len(c.groups.starts), len(c.mean), len(c.mean)), torch.ones(BLOCKS).double()))
        for c, n in zip(offers, counts)]
    ids = torch.stack([torch.randint(0, len(c.groups.order), (200,)) for c in offers], 1)
    exact = torch.cat([c.table.weight()[ids[:, m]] for m, c in enumerate(offers)], 1)
    all_bits, none = ([torch.full(c.score.shape, b, dtype=torch.uint8) for c in offers] for b in (8, 0))
    assert (pack(offers, all_bits, counts, False)(ids) - exact).square().mean() < 1e-3 * exact.var()
    mean = torch.cat([c.mean for c in offers]).float()
    torch.testing.assert_close(pack(offers, none, counts, False)(ids), mean.expand(200, -1), rtol=1e-3, atol=1e-4)


def test_values_that_training_never_saw_get_the_mean():
    torch.manual_seed(0)
    counts = torch.tensor([0, 5, 0, 9, 3, 7, 0, 2, 2, 4, 6, 8])
    groups = frequency_groups(counts, 2, 2)
    s = Sensitivity(Table("t", 0, nn.Embedding(12, 3), slice(0, 12)), counts, groups,
                    torch.eye(3).double().expand(BLOCKS, len(groups.starts), 3, 3), torch.ones(BLOCKS).double())
    c = components(s)
    packed = PackedEmbedding(pack([c], allocate([c], 1e6), [counts], renumbered=False))
    unseen = packed(torch.tensor([[0, 2], [6, 2]]))
    torch.testing.assert_close(unseen, s.mean().float().expand(2, 2, 3), rtol=1e-3, atol=1e-3)
    assert (packed(torch.arange(12))[counts > 0] - s.table.weight()[counts > 0]).abs().max() < 0.05


def test_a_large_table_without_a_bit_is_its_mean():
    """There are no codes to read then; and no row to look up in an empty batch."""
    offers, plans, counts = random_tables(0)
    groups, table = Groups(torch.arange(3000), (0, 20)), Table("t", 0, nn.Embedding(3000, 2), slice(0, 3000))
    offer = Components(table, groups, torch.ones(2).double(), torch.eye(2).double(), torch.eye(2).double(),
                       torch.ones(2, 2).double(), torch.ones(2, 2))
    packed = pack([offer], [torch.zeros(2, 2, dtype=torch.uint8)], [torch.ones(3000)])
    assert len(packed.codes) == 0 and packed.resident_bytes() < 8000
    assert torch.equal(packed(torch.tensor([[0], [2999]])), torch.ones(2, 2))
    assert PackedEmbedding(packed)(torch.zeros(0, 3).long()).shape == (0, 3, 2)
    tables = pack(offers, plans, counts)
    for room in (LOOKUP_BYTES, -1_000_000):
        empty = PackedTables(tables.headers, tables.state_dict(), room)(torch.zeros(0, len(offers)).long())
        assert empty.shape == (0, sum(tables.dims))


def test_wide_models_and_tables_with_several_to_a_field():
    """More columns than one matrix product gives; tables of one field side by side, digit by digit, as FFM's."""
    torch.manual_seed(0)
    module, counts = nn.Embedding(30, 120), torch.randint(1, 9, (10,))
    groups = frequency_groups(counts, 1, 1, ())
    tables = [Table(f"f{m} {t}", m, module, slice(10 * m, 10 * m + 10), slice(t, None, 3))
              for m in range(3) for t in range(3)]
    offers = [Components(t, groups, torch.zeros(40).double(), torch.eye(40).double(), torch.eye(40).double(),
                         torch.ones(40, 1).double(), torch.ones(40, 1)) for t in tables]
    packed = pack(offers, [torch.full((40, 1), 8, dtype=torch.uint8)] * 9, [counts] * 9, renumbered=False)
    ids = torch.randint(0, 10, (20, 3))
    expected = module(ids + torch.tensor([0, 10, 20])).flatten(1)
    assert (packed(ids) - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_step_is_the_best_of_its_neighbours_for_the_values_at_hand(bits):
    y = torch.tensor(np.random.default_rng(bits).laplace(size=500))
    weights = torch.arange(1, 501)
    code = best_step(y, weights, bits)

    def error(code):
        step = step_of(code).item()
        levels = (torch.arange(2**bits) - (2**bits - 1) / 2) * step
        return ((y[:, None] - levels).abs().min(1).values.square() * weights).sum()

    assert error(code) <= min(error(code - 1), error(code + 1))
    stored = quantise(y, step_of(code), bits)
    assert stored.min() >= 0 and stored.max() < 2**bits


def test_ids_outside_their_table_and_values_beyond_float16():
    offers, plans, counts = random_tables(0)
    tables = pack(offers, plans, counts)
    good = torch.tensor([[h.rows - 1 for h in tables.headers]])
    tables(good)
    for bad in (good + 1, good - good.max() - 1):
        with pytest.raises(IndexError, match="outside its table"):
            tables(bad)
    offers[0] = offers[0]._replace(mean=offers[0].mean + 1e6)
    with pytest.raises(ValueError, match="'t0' has values beyond what float16 holds"):
        pack(offers, plans, counts)


# ---------------------------------------------------------------- files

@seeds
def test_a_file_comes_back_bit_for_bit_and_has_the_bytes_that_were_counted(seed, tmp_path):
    offers, plans, counts = random_tables(seed)
    modules = {"embedding": pack(offers, plans, counts), "linear.weights": pack(offers, plans, counts, False)}
    save_packed(modules, tmp_path / "t")
    again = load_packed(tmp_path / "t")
    assert list(again) == list(modules)
    ids = torch.stack([torch.randint(0, h.rows, (20,)) for h in modules["embedding"].headers], 1)
    for name, tables in modules.items():
        assert again[name].headers == tables.headers and torch.equal(again[name](ids), tables(ids))
    content = (tmp_path / "t").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == sum(m.nbytes() for m in modules.values())
    save_packed(again, tmp_path / "u")
    assert (tmp_path / "u").read_bytes() == content


def test_files_that_are_none_are_refused_with_their_name(tmp_path):
    offers, plans, counts = random_tables(1)
    path = tmp_path / "tables.safetensors"
    save_packed({"embedding": pack(offers, plans, counts)}, path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in sorted({0, 5, *rng.integers(8, len(content), 30).tolist()}):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match="tables.safetensors"):
            load_packed(path)


def test_other_versions_other_files_and_tensors_that_do_not_fit(tmp_path):
    offers, plans, counts = random_tables(1)
    tables = pack(offers, plans, counts)
    path = tmp_path / "tables.safetensors"
    about = {"format": 1, "modules": {"embedding": {"tables": tables.headers}}}
    state = {f"embedding/{name}": t for name, t in tables.state_dict().items()}

    def written(tensors, about):
        path.write_bytes(safetensors.torch.save(tensors, {"packed": json.dumps(about)}))
        return load_packed(path)

    assert torch.equal(written(state, about)["embedding"].codes, tables.codes)
    with pytest.raises(DataError, match="format 2 of packed tables, this autodim reads 1"):
        written(state, about | {"format": 2})
    for name in ("codes", "widths", "steps", "means", "basis", "starts"):
        with pytest.raises(DataError):
            written(state | {f"embedding/{name}": state[f"embedding/{name}"][:-1]}, about)
        with pytest.raises(DataError):
            written({key: t for key, t in state.items() if not key.endswith(name)}, about)
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    with pytest.raises(DataError, match="no file of packed tables"):
        load_packed(path)
    with pytest.raises(DataError, match="cannot be written"):
        save_packed({"embedding": tables}, tmp_path)
