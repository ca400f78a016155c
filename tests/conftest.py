"""What all tests share: the repository's root, and its markers."""
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


def pytest_configure(config):
    config.addinivalue_line("markers", "house: rules of the repository that take seconds to check")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
