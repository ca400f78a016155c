"""What all tests share: the repository's root, and its markers."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autodim.data.batches import Data, Part
from autodim.data.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


def pytest_configure(config):
    for marker in ("house: rules of the repository that take seconds to check",
                   "slow: random kills, races, full disks, a wheel, the pages in a browser; `make test-slow`",
                   "peers: other libraries load what we export; `make test-peers`"):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items):
    """A test that needs the peers' environment, or a disk of its own, has the mark that says so."""
    for item in items:
        for fixture, mark in (("peers", pytest.mark.peers), ("small_disk", pytest.mark.slow)):
            if fixture in item.fixturenames:
                item.add_marker(mark)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def make_data():
    """A factory of small encoded tables: each value of each field has an effect on the label's logit."""
    def make(sizes=(5, 9, 4, 30), rows=(300, 120, 120), seed=0, effect=1.5) -> Data:
        rng = np.random.default_rng(seed)
        ids = np.stack([rng.integers(0, size, sum(rows)) for size in sizes], 1)
        logits = sum(effect * rng.normal(size=size)[ids[:, m]] for m, size in enumerate(sizes))
        labels = rng.random(len(ids)) < 1 / (1 + np.exp(-logits))
        ends = np.cumsum(rows)[:-1]
        parts = [Part(torch.tensor(i, dtype=torch.int32), torch.tensor(y, dtype=torch.float32))
                 for i, y in zip(np.split(ids, ends), np.split(labels, ends))]
        vocabularies = tuple(Vocabulary(f"field {m}", np.arange(1, size)) for m, size in enumerate(sizes))
        return Data("small", vocabularies, *parts, fingerprint="0" * 16)
    return make


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of 64 KiB; the test is skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if not is_root or not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", folder], check=True)
