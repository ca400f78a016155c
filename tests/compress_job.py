"""What tests/test_compress.py starts with torchrun: the plan that two processes find, and whether it is that of one.

Then each has a half of every table's rows, and packs it as the whole is packed.

    torchrun --nproc-per-node 2 compress_job.py
"""
import os
from dataclasses import replace

import torch
import torch.nn as nn
from processes_job import table

from autodim.data.batches import Data
from autodim.memory.allocation import allocate, components
from autodim.memory.compress import Compression, Compressor, values_of
from autodim.memory.packing import PackedTables, pack
from autodim.memory.sensitivity import model_tables, sensitivities
from autodim.method.backbones import Network
from autodim.method.models import DLRS
from autodim.training.distributed import Processes, torchrun


def check_shards(model: DLRS, data: Data, processes: Processes) -> None:
    """Each process packs its rows of every table, and a lookup gives what the table packed as a whole gives."""
    counts, groups = values_of(data, 16)
    for s in sensitivities(model.eval(), model_tables(model, data.fields), counts, groups, [data.train.ids]):
        s = replace(s, table=s.table._replace(field=0))
        rows, weight = processes.rows(len(s.counts)), s.table.weight().float()
        module = nn.Embedding.from_pretrained(weight[rows])
        table = s.table._replace(module=module, rows=slice(0, len(module.weight)), columns=slice(None))
        own = replace(s, table=table, counts=s.counts[rows], groups=s.groups.part(rows), shards=processes)
        one, two = components(s), components(own)
        torch.testing.assert_close(one.score, two.score)
        plan = allocate([two._replace(groups=s.groups)], 200)
        assert torch.equal(plan[0], allocate([one], 200)[0])
        whole, part = pack([one], plan, [s.counts], False), pack([two], plan, [own.counts], False, processes)
        assert torch.equal(whole.steps, part.steps) and torch.equal(whole.basis, part.basis)
        ids = torch.arange(rows.stop - rows.start).unsqueeze(1)
        coded = PackedTables(part.headers, part.state_dict(), lookup_bytes=0)  # nothing is kept as vectors
        for found in (part, coded):
            torch.testing.assert_close(found(ids), whole(ids + rows.start), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    data = table(double=False)
    torch.manual_seed(1)
    model = DLRS(data.cardinalities, [2, 4, 2, 8], Network("DeepFM", hidden=(16, 8)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    one = Compressor(model, data, Compression(batch_size=20))
    with torchrun() as processes:
        two = Compressor(model, data, Compression(batch_size=20, processes=processes))
        for a, b in zip(one.offers, two.offers, strict=True):
            torch.testing.assert_close(a.score, b.score)
        assert all(torch.equal(a, b) for a, b in zip(one.within(2000), two.within(2000), strict=True))
        check_shards(model, data, processes)
        os.write(1, f"process {processes.rank} of {processes.size}: the same plan and rows\n".encode())  # in one piece
