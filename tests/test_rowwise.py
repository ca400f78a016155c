"""Tables in FBGEMM's rows: the choice against all choices, and the rows in FBGEMM's own tables."""
import json
import subprocess
from itertools import product

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn
from test_packing import random_tables

from autodim.memory.allocation import Components, components
from autodim.memory.rowwise import (
    BITS, RowFormat, best_formats, decoded_rows, format_losses, quantised_rows, row_table, stored_bytes,
)  # fmt: skip
from autodim.memory.sensitivity import Sensitivity, Table, frequency_groups


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_are_quantised_by_their_own_range(bits):
    y = torch.randn(50, 12, generator=torch.Generator().manual_seed(bits)) * torch.logspace(-3, 2, 50).unsqueeze(1)
    y[3], y[4] = 0.0, 0.7
    for row, codes, (scale, offset) in zip(y.double(), *quantised_rows(y, bits)):
        step = max((row.max() - row.min()).item() / (2**bits - 1), 1e-12)
        half = 2.0**-10 * row.abs().max().item() + 1e-7  # float16 rounds the offset, and the scale of up to so many steps
        levels = offset.double() + scale.double() * torch.arange(2**bits)
        nearest = (row.unsqueeze(1) - levels).abs().min(1).values
        found = decoded_rows(codes.unsqueeze(0), torch.stack([scale, offset]).unsqueeze(0))[0].double()
        assert ((found - row).abs() <= nearest + 1e-5 * row.abs().max() + 1e-9).all()
        assert (nearest <= step / 2 + 2 * half).all()


def made(seed: int) -> tuple[list[Components], list[torch.Tensor]]:
    """Three tables with curvatures of their own, as offers, and counts."""
    torch.manual_seed(seed)
    offers, counts = [], []
    for m, (v, d) in enumerate([(60, 5), (40, 8), (3, 4)]):
        counts.append(torch.randint(0, 99, (v,)))
        groups, root = frequency_groups(counts[-1], 4, 8), torch.randn(d, d).double()
        offers.append(components(Sensitivity(
            Table(f"t{m}", m, nn.Embedding(v, d), slice(0, v)), counts[-1], groups,
            (root @ root.T).expand(2, len(groups.starts), d, d), torch.full((2,), 100.0).double())))
    return offers, counts


def test_the_loss_of_a_format_is_that_of_its_rows_one_by_one():
    """With one group the curvature is the table's own; coordinates of a pooled curvature leave some terms across."""
    torch.manual_seed(0)
    counts, weight, root = torch.randint(1, 50, (30,)), torch.randn(30, 6), torch.randn(6, 6).double()
    groups, table = frequency_groups(counts, 1), Table("t", 0, nn.Embedding(30, 6, _weight=weight), slice(0, 30))
    c = components(Sensitivity(table, counts, groups, (1000 * root @ root.T).expand(2, 1, 6, 6),
                               torch.full((2,), 1000.0).double()))
    for form, loss in format_losses(c, counts).items():
        stored, expected = row_table(c, form), 0.0
        rows = stored.weights if BITS[form.kind] > 8 else decoded_rows(
            torch.stack([stored.weights >> s & (2 ** BITS[form.kind] - 1) for s in range(0, 8, BITS[form.kind])], 2
                        ).flatten(1), stored.scale_shift.view(torch.float16))
        for i in range(30):
            error = (stored.mean + rows[i].float() @ stored.decode).double() - weight[i].double()
            expected += 0.5 * counts[i].item() / counts.sum().item() * (error @ (root @ root.T) @ error).item()
        assert loss == pytest.approx(expected, rel=0.1, abs=1e-5), form


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all_choices(seed):
    offers, counts = made(seed)
    losses = [format_losses(*one) for one in zip(offers, counts)]
    every = [(sum(stored_bytes(c, form) for c, (form, _) in zip(offers, one)), sum(loss for _, loss in one))
             for one in product(*(own.items() for own in losses))]
    least, most = min(size for size, _ in every), max(size for size, _ in every)
    for budget in np.geomspace(least, most, 7).round().tolist():
        forms = best_formats(offers, counts, budget)
        assert sum(map(stored_bytes, offers, forms)) <= budget
        assert sum(own[f] for own, f in zip(losses, forms)) == pytest.approx(
            min(loss for size, loss in every if size <= budget), abs=1e-7)
    with pytest.raises(ValueError, match=f"too small: tables of FBGEMM's smallest rows, .* take {least:,}"):
        best_formats(offers, counts, least - 1)


@pytest.mark.peers
def test_fbgemm_looks_up_what_is_stored(root, tmp_path):
    home = root / ".peers" / "exports"
    if not (home / ".installed").exists():
        pytest.skip("no .peers/exports with TorchRec and FBGEMM: run `make peers`")
    offers, _, _ = random_tables(2, tables=5)
    forms = [RowFormat(4 + 4 * (len(c.decode) > 4), kind) for c, kind in zip(offers, BITS)]
    tables = [row_table(c, form) for c, form in zip(offers, forms)]
    tensors = {f"{m}/{name}": getattr(t, name) for m, t in enumerate(tables) for name in ("weights", "scale_shift")
               if getattr(t, name).numel()}
    safetensors.torch.save_file(tensors, tmp_path / "tables.safetensors")
    (tmp_path / "tables.json").write_text(json.dumps([[len(t.weights), *t.form] for t in tables]))
    ids = torch.stack([torch.randint(0, len(t.weights), (25,)) for t in tables], 1)
    np.save(tmp_path / "ids.npy", ids.numpy())
    done = subprocess.run([home / "bin" / "python", root / "scripts" / "peers" / "fused_rows.py", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result, expected = json.loads(done.stdout.splitlines()[-1]), []
    for t, own in zip(tables, ids.T):
        bits, rows = BITS[t.form.kind], t.weights[own]
        if bits <= 8:
            codes = torch.stack([rows >> s & (2**bits - 1) for s in range(0, 8, bits)], 2).flatten(1)
            rows = decoded_rows(codes, t.scale_shift[own].view(torch.float16))
        expected.append(rows.float())
    torch.testing.assert_close(torch.tensor(result["found"]), torch.cat(expected, 1), rtol=1e-3, atol=1e-4)
    assert result["bytes"] == sum(len(t.weights) * t.form.bytes() for t in tables)
