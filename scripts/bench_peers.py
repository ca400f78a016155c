"""`make bench-peers`: whole fits of other libraries against ours, with the same network, in turns.

Each library lives in a virtual environment of its own, made on first use; a fit runs in a process of its own, and only
the fit is timed: not imports, not the making of the data. The table is synthetic, random ids of MovieLens-1M's sizes.

    python scripts/bench_peers.py [--rounds 5] [--rows 50000] [--threads 2]
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from autodim.study.bench import MOVIELENS_SIZES, ratio
from autodim.study.runs import environment

ROOT = Path(__file__).resolve().parents[1]
DRIVERS = ROOT / "scripts" / "peers"
TORCH = "torch==2.13.0"  # as in requirements.txt
PEERS = {  # the library without its dependencies, and what of them the timed code needs
    "deepctr_torch": ("deepctr-torch==0.2.9", "tensorflow-cpu scikit-learn tqdm"),
    "fuxictr": ("fuxictr==2.3.10", "polars ray pyarrow h5py pandas scikit-learn tqdm pyyaml"),
    "torch_rechub": ("torch-rechub==0.9.0", "scikit-learn pandas tqdm"),
}


def python_of(name: str) -> Path:
    """The interpreter of a library's environment, which is made if it is not there."""
    if name == "ours":
        return Path(sys.executable)
    home, (library, needs) = ROOT / ".peers" / name, PEERS[name]
    python, done = home / "bin" / "python", home / ".installed"
    if not done.exists():
        print(f"making {home.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, TORCH, "numpy", *needs.split()], check=True)
        subprocess.run([*pip, "--no-deps", library], check=True)
        done.touch()
    return python


def write_table(path: Path, rows: int, epochs: int) -> None:
    """Random ids and labels: `rows` for training and a tenth of it for validation."""
    rng = np.random.default_rng(0)
    arrays = {"sizes": np.array(MOVIELENS_SIZES), "epochs": np.array(epochs)}
    for part, n in (("train", rows), ("val", rows // 10)):
        arrays[f"ids_{part}"] = np.stack([rng.integers(0, size, n) for size in MOVIELENS_SIZES], 1)
        arrays[f"labels_{part}"] = rng.integers(0, 2, n).astype("float32")
    np.savez(path, **arrays)


def fit_once(python: Path, name: str, table: Path, threads: int) -> dict[str, object]:
    """One fit in a fresh process: its seconds, the model's parameters, the versions."""
    result = subprocess.run([python, DRIVERS / f"{name}.py", table, str(threads)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"bench-peers: {name} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Measure in turns, print, and write out/results/peers.csv."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pythons = {name: python_of(name) for name in ("ours", *PEERS)}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.npz"
        write_table(table, options.rows, options.epochs)
        fits = [{name: fit_once(python, name, table, options.threads) for name, python in pythons.items()}
                for _ in range(options.rounds)]
    seconds = pd.DataFrame([{name: fit["seconds"] for name, fit in turn.items()} for turn in fits])
    device = environment("cpu")["device"].split(",")[0] + f", {options.threads} threads"
    rows = [{"name": f"fit_over_{name}", **ratio(seconds, "ours", name), "device": device,
             "versions": f"{fits[0]['ours']['versions']}; {fits[0][name]['versions']}"} for name in PEERS]
    path = ROOT / "out" / "results" / "peers.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
    print(pd.DataFrame(rows)[["name", "ratio", "low", "high", "versions"]].round(3).to_string(index=False))
    print("parameters: " + ", ".join(f"{name} {fit['parameters']:,}" for name, fit in fits[0].items()))
    print("seconds of a fit (median): " + ", ".join(f"{n} {s:.1f}" for n, s in seconds.median().items()))


if __name__ == "__main__":
    main()
