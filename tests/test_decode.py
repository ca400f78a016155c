"""Packed files read with NumPy alone, against the module that serves them; damaged files; no PyTorch in the process."""
import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from test_packing import random_tables, seeds

from autodim.memory.allocation import Components
from autodim.memory.decode import NumpyTables, load_numpy, read_safetensors
from autodim.memory.packing import pack, save_packed
from autodim.memory.sensitivity import Table, frequency_groups


@seeds
@pytest.mark.parametrize("renumbered", [True, False])
def test_it_finds_what_the_module_finds(seed, renumbered, tmp_path):
    offers, plans, counts = random_tables(seed)
    tables = pack(offers, plans, counts, renumbered)
    save_packed({"embedding": tables, "a/b": copy.deepcopy(tables)}, tmp_path / "t")
    found = load_numpy(tmp_path / "t")
    ids = torch.stack([torch.randint(0, h.rows, (60,)) for h in tables.headers], 1)
    assert list(found) == ["embedding", "a/b"]
    for read in found.values():
        out = read(ids.numpy())
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, tables(ids), rtol=1e-4, atol=1e-5)
        assert read(ids[:0].numpy()).shape == (0, out.shape[1])
    for bad in (ids + 90, ids - 90):
        with pytest.raises(IndexError, match="outside its table: 't0' has 0 to"):
            read(bad.numpy())


def test_fields_with_several_tables_and_fields_that_are_left_out():
    torch.manual_seed(0)
    counts = torch.randint(1, 9, (10,))
    groups = frequency_groups(counts, 1, 1, ())
    tables = [Table(f"f{m} {t}", m, nn.Embedding(10, 12), slice(0, 10), slice(t, None, 3))
              for m in (2, 0) for t in range(3)]
    offers = [Components(t, groups, torch.randn(4).double(), torch.eye(4).double(), torch.eye(4).double(),
                         torch.ones(4, 1).double(), torch.ones(4, 1)) for t in tables]
    packed = pack(offers, [torch.full((4, 1), 3, dtype=torch.uint8)] * 6, [counts] * 6)
    read = NumpyTables(packed.headers, {name: t.numpy() for name, t in packed.state_dict().items()})
    ids = torch.randint(0, 10, (20, 3))
    np.testing.assert_allclose(read(ids.numpy()), packed(ids), rtol=1e-5, atol=1e-6)


def test_files_cut_short_and_of_other_versions(tmp_path):
    offers, plans, counts = random_tables(1)
    path = tmp_path / "tables.safetensors"
    save_packed({"embedding": pack(offers, plans, counts)}, path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    about, tensors = read_safetensors(path)
    assert about["format"] == 1 and set(about["modules"]) == {"embedding"} and "embedding/codes" in tensors
    for cut in sorted({0, 5, *rng.integers(8, len(content), 30).tolist()}):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="tables.safetensors is no file of packed tables, or cut short"):
            load_numpy(path)
    path.write_bytes(content.replace(b'{\\"format\\":1,', b'{\\"format\\":2,'))
    with pytest.raises(ValueError, match="format 2 of packed tables, this decoder reads 1"):
        load_numpy(path)


def test_there_is_no_torch_in_a_process_that_reads(root, tmp_path):
    offers, plans, counts = random_tables(3)
    tables = pack(offers, plans, counts)
    save_packed({"embedding": tables}, tmp_path / "t")
    script = ("import sys; sys.modules.update(torch=None, pandas=None, scipy=None)\n"
              "import numpy as np; from autodim.memory.decode import load_numpy\n"
              f"print(load_numpy(sys.argv[1])['embedding'](np.zeros((1, {len(offers)}), int)).tolist())")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "t"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(eval(done.stdout), tables(torch.zeros(1, len(offers)).long()), rtol=1e-4, atol=1e-5)
