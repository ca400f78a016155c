"""Lookups against loops over rows, fields and digits (Fig. 3)."""
import numpy as np
import pytest
import torch
from oracles import candidate_embeddings, field_tables, random_candidates, random_ids

from autodim.method.lookup import FieldEmbedding, SeparateLookup, SharedLookup, uniform_candidates

SEEDS = range(12)


def random_embedding(seed: int):
    """A random embedding, its cardinalities and ids [B, M]."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n_fields = rng.integers(1, 7)
    sizes, widths = rng.integers(1, 12, n_fields).tolist(), rng.integers(1, 5, n_fields).tolist()
    return FieldEmbedding(sizes, widths), sizes, random_ids(rng, sizes, int(rng.integers(1, 10)))


@pytest.mark.parametrize("seed", SEEDS)
def test_columns_are_the_fields_rows_in_their_order(seed):
    embedding, sizes, ids = random_embedding(seed)
    tables = field_tables(embedding, sizes)
    expected = [[x for m, table in enumerate(tables) for x in table[ids[i, m]].tolist()] for i in range(len(ids))]
    assert embedding(ids).tolist() == expected
    assert embedding(ids.int()).equal(embedding(ids))
    assert sum(q.numel() for q in embedding.parameters()) == sum(s * w for s, w in zip(sizes, embedding.dims))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_sees_its_own_id_only_and_no_two_values_share_a_row(seed):
    """Whatever the layout of the tables: outputs of a field are equal if and only if its ids are."""
    embedding, sizes, _ = random_embedding(seed)
    starts = np.cumsum([0, *embedding.dims])
    seen = {}
    for m, size in enumerate(sizes):
        for v in range(size):
            rng = np.random.default_rng(v)
            ids = random_ids(rng, sizes, 3)
            ids[:, m] = v
            rows = embedding(ids)[:, starts[m]:starts[m + 1]]
            assert rows.equal(rows[:1].expand(3, -1))
            seen[m, v] = tuple(rows[0].tolist())
    assert len(set(seen.values())) == sum(sizes)


OUTSIDE = [-1, 12, 2**31 - 1, 2**31, -(2**31) - 1, -(2**63), 2**63 - 1]  # 12: more than any field here has


@pytest.mark.parametrize("seed", SEEDS)
def test_an_id_outside_its_field_is_the_oov_id_of_that_field(seed):
    """Its neighbours in a stacked table, and the other fields, do not notice."""
    embedding, sizes, ids = random_embedding(seed)
    for m, size in enumerate(sizes):
        for outside in (size, *OUTSIDE):
            odd, plain = ids.clone(), ids.clone()
            odd[:, m], plain[:, m] = outside, 0
            assert embedding(odd).equal(embedding(plain)), (m, outside)
    lookup = SharedLookup(sizes, uniform_candidates(len(sizes)))
    odd, plain = torch.full_like(ids, -1), torch.zeros_like(ids)
    for found, expected in zip(lookup.distinct(odd), lookup.distinct(plain)):
        assert found.equal(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_land_in_the_rows_looked_up(seed):
    embedding, sizes, ids = random_embedding(seed)
    pull = torch.randn(embedding(ids).shape)
    (embedding(ids) * pull).sum().backward()
    for table in embedding.tables:
        table.weight.data = table.weight.grad
    start = 0
    for m, gradient in enumerate(field_tables(embedding, sizes)):
        expected = torch.zeros_like(gradient)
        for i, v in enumerate(ids[:, m].tolist()):
            for j in range(gradient.shape[1]):
                expected[v, j] += pull[i, start + j]
        torch.testing.assert_close(gradient, expected)
        start += gradient.shape[1]


@pytest.mark.parametrize("width", [0, -1, 2.0, "2"])
def test_widths_that_are_none_are_refused(width):
    with pytest.raises(ValueError, match="field 1: dimension"):
        FieldEmbedding([3, 4], [2, width])


@pytest.mark.parametrize("seed", SEEDS)
def test_permuted_fields_permute_the_columns(seed):
    embedding, sizes, ids = random_embedding(seed)
    order = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    permuted = FieldEmbedding([sizes[m] for m in order], [embedding.dims[m] for m in order])
    tables = field_tables(embedding, sizes)
    for m, table in zip(order, field_tables(permuted, [sizes[m] for m in order])):
        table.copy_(tables[m])
    blocks = embedding(ids).split(embedding.dims, 1)
    assert permuted(ids[:, order]).equal(torch.cat([blocks[m] for m in order], 1))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("lookup_class", [SharedLookup, SeparateLookup])
@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_of_a_block(lookup_class, uniform, seed):
    """Candidate n of field m is its own rows (separate) or the first d_n digits (shared); what is not owned is 0."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = rng.integers(1, 9, rng.integers(1, 6)).tolist()
    candidates, ids = random_candidates(rng, len(sizes), uniform), random_ids(rng, sizes, 7)
    lookup = lookup_class(sizes, candidates)
    block, shared = lookup(ids).detach(), lookup_class is SharedLookup
    tables = field_tables(lookup.embedding, sizes)
    owned = torch.zeros(block.shape[1:], dtype=torch.bool)
    for m, row in enumerate(candidate_embeddings(tables, candidates, shared, ids)):
        for columns, x in zip(lookup.columns, row):
            if x is not None:
                assert np.array_equal(block[:, m, columns].double().numpy(), x)
                owned[m, columns] = True
    assert (block[:, ~owned] == 0).all()
    stored = sum(s * (max(d) if shared else sum(d)) for s, d in zip(sizes, candidates.allowed))
    assert sum(q.numel() for q in lookup.parameters()) == stored
