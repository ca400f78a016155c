"""What tests/test_allocation.py starts: compresses a table of so many rows and prints MiB before it and at the peak.

    python memory_job.py 2000000
"""
import resource
import sys

import torch
import torch.nn as nn

from autodim.memory.allocation import allocate, components
from autodim.memory.packing import pack
from autodim.memory.sensitivity import Table, frequency_groups, sensitivities

if __name__ == "__main__":
    v, d = int(sys.argv[1]), 16
    torch.manual_seed(0)
    module, counts = nn.Embedding(v, d), torch.randint(0, 9, (v,))
    net = nn.Linear(d, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    groups = frequency_groups(counts, 16, 8, ())
    found, = sensitivities(lambda ids: net(module(ids).tanh()), [Table("t", 0, module, slice(0, v))], [counts],
                           [groups], torch.randint(0, v, (10, 1000)))
    offer = components(found)
    packed = pack([offer], allocate([offer], 0.08 * 4 * v * d), [counts])
    assert packed.nbytes() <= 0.08 * 4 * v * d
    print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
