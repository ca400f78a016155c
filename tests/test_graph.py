"""Packed tables by standard operations against the module that serves them, and as ONNX: numbers, bytes, memory."""
import copy
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn as nn
from test_packing import random_tables, seeds

from autodim.app.export import write_onnx
from autodim.memory.allocation import Components
from autodim.memory.graph import GraphTables
from autodim.memory.packing import PackedTables, pack
from autodim.memory.sensitivity import Table, frequency_groups, model_tables
from autodim.method.backbones import Network
from autodim.method.models import DLRS


@seeds
@pytest.mark.parametrize("renumbered", [True, False])
def test_it_finds_what_the_module_finds(seed, renumbered):
    tables = pack(*random_tables(seed), renumbered)
    sizes = [h.rows for h in tables.headers]
    ids = torch.stack([torch.randint(0, v, (60,)) for v in sizes], 1)
    torch.testing.assert_close(GraphTables(tables)(ids), tables(ids), rtol=1e-4, atol=1e-5)
    outside = ids + torch.randint(0, 2, ids.shape) * 10_000
    torch.testing.assert_close(GraphTables(tables)(outside), tables(outside.where(outside < 10_000, 0)), rtol=1e-4,
                               atol=1e-5)


def packed_like(module: nn.Module, fields, bits: int) -> PackedTables:
    """The tables of a FieldEmbedding with so many bits for each component, in groups of made-up frequencies."""
    offers, counts = [], []
    for table in model_tables(module, fields):
        weight = table.weight()
        counts.append((1e5 / (1 + torch.arange(len(weight)))).long())
        d, groups = weight.shape[1], frequency_groups(counts[-1], 4, 8)
        deviation = weight.std(0, correction=0).clamp_min(1e-6).unsqueeze(1).expand(d, len(groups.starts))
        offers.append(Components(table, groups, weight.mean(0), torch.eye(d).double(), torch.eye(d).double(), deviation,
                                 torch.ones_like(deviation)))
    return pack(offers, [torch.full(c.score.shape, bits, dtype=torch.uint8) for c in offers], counts)


def packed_model(model: DLRS, bits: int) -> DLRS:
    memo = {id(m): packed_like(m, [f"f{i}" for i in range(len(model.dims))], bits)
            for m in model.modules() if type(m).__name__ == "FieldEmbedding"}
    return copy.deepcopy(model, memo).eval()


@pytest.mark.parametrize("network,dims", [("MLP", (2, 5, 3)), ("DeepFM", (4, 2, 4)), ("FFM", (2, 2, 2)), ("DCNv2", (3, 3, 3))])
def test_onnx_runtime_equals_our_packed_model(network, dims, tmp_path):
    torch.manual_seed(0)
    sizes = (90, 40, 3)
    model = DLRS(sizes, dims, Network(network, hidden=(8,)))
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.3)
    packed = packed_model(model, 3)
    write_onnx(packed, "abc", tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows in (1, 2, 500):
        ids = torch.stack([torch.randint(0, v, (rows,)) for v in sizes], 1)
        found = session.run(None, {"ids": ids.numpy()})[0]
        with torch.no_grad():
            assert np.abs(found - packed(ids).sigmoid().numpy()).max() < 1e-5
    outside, plain = np.array([[-1, 40, 2**62], [90, 1, 2]]), np.array([[0, 0, 0], [0, 1, 2]])
    assert np.array_equal(*(session.run(None, {"ids": ids})[0] for ids in (outside, plain)))
    assert np.ptp(found) > 0.01


MEMORY = """
import sys
import numpy as np, onnxruntime
def resident():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
ids = np.random.default_rng(0).integers(0, int(sys.argv[2]), (1000, 2))
before = resident()
session = onnxruntime.InferenceSession(sys.argv[1])
for _ in range(5):
    session.run(None, {"ids": ids})
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc")
def test_the_file_and_the_memory_of_a_process_that_serves_are_small(tmp_path):
    """400,000 rows of 16 as float32 and with 2 bits a number: the runtime must not unfold the codes."""
    rows, full = 200_000, 2 * 200_000 * 16 * 4
    model = DLRS((rows, rows), (16, 16), Network(hidden=(8,))).eval()
    packed = packed_model(model, 2)
    network, memory = sum(t.nbytes for t in model.backbone.state_dict().values()), {}
    for name, one in (("float", model), ("packed", packed)):
        write_onnx(one, "ab", tmp_path / f"{name}.onnx")
        done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / f"{name}.onnx", str(rows)], capture_output=True,
                              text=True, check=True)
        memory[name] = int(done.stdout)
    stored = packed.embedding.nbytes()
    assert stored < full / 15
    assert stored < (tmp_path / "packed.onnx").stat().st_size < stored + network + 30_000
    assert (tmp_path / "float.onnx").stat().st_size > full
    assert memory["float"] > full  # the measure sees the tables
    assert memory["packed"] < memory["float"] - 0.7 * full, memory
