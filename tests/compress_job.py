"""What tests/test_compress.py starts with torchrun: the plan that two processes find, and whether it is that of one.

    torchrun --nproc-per-node 2 compress_job.py
"""
import os

import torch
from processes_job import table

from autodim.memory.compress import Compression, Compressor
from autodim.method.backbones import Network
from autodim.method.models import DLRS
from autodim.training.distributed import torchrun

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
        os.write(1, f"process {processes.rank} of {processes.size}: the same plan\n".encode())  # in one piece
