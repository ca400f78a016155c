"""What every driver shares: the table in, one line of JSON out. It runs in the peer's environment."""
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch._dynamo  # an optimiser imports it when it is first made: not part of a fit


def table() -> dict[str, np.ndarray]:
    """The arrays of the file named first on the command line; the second argument is the number of threads."""
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    with np.load(sys.argv[1]) as arrays:
        return {name: arrays[name] for name in arrays.files}


def columns(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Each field's ids under a name, as these libraries want them."""
    return {f"f{m}": ids[:, m] for m in range(ids.shape[1])}


def report(fit: Callable[[], object], model: torch.nn.Module, library: str) -> None:
    """Time a fit and print its seconds, with the number of the model's parameters."""
    began = time.perf_counter()
    fit()
    line = {"seconds": time.perf_counter() - began, "parameters": sum(p.numel() for p in model.parameters()),
            "versions": f"{library}, torch {torch.__version__}"}
    print("\n" + json.dumps(line))
