"""`make notebooks`: run notebooks in place and clean them, so that the committed pages carry their pictures.

Each notebook runs in a fresh kernel in nbs/. What differs from run to run does not stay: progress bars and warnings
(shown here, dropped there), execution counts and metadata (nbdev_clean). Printed lines that are wider than the site's
box are broken between words. A notebook that fails is left as it was.

    python scripts/run_notebooks.py [NOTEBOOK ...]      # without names: the components, experiments, index
"""
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 95  # characters that a page shows of a printed line
ROOMS = ("data", "training", "method", "memory", "study", "app")


def in_order(folder: Path) -> list[Path]:
    """Components by room and number, guides, the experiments, the front page, then what shows all of them."""
    rank = {room: i for i, room in enumerate((*ROOMS, "guide", "exp", "index"))}

    def place(path: Path) -> tuple[int, str]:
        return rank.get(path.stem.split("_")[0] if path.parent == folder else path.parent.name, len(rank)), path.name

    return sorted((p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts), key=place)


def drop_stderr(notebook) -> str:
    """Take the stderr streams out of the outputs and return their text."""
    text = ""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                text += output["text"]
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    return text


def break_lines(notebook) -> None:
    """Break printed lines that are wider than a page between words, the rest a little further in."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.output_type == "stream":
            lines = [line if len(line) <= WIDTH else textwrap.fill(
                line, WIDTH, subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2), break_long_words=False,
                break_on_hyphens=False) for line in output["text"].split("\n")]
            output["text"] = "\n".join(lines)


def run(path: Path) -> None:
    """Execute one notebook in its own folder and write it back, cleaned."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=None, record_timing=False, coalesce_streams=True,
                            extra_arguments=["--log-level=CRITICAL"],  # else each kernel warns of its local ports
                            resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    warnings = drop_stderr(notebook)
    break_lines(notebook)
    if warnings:
        print(f"  stderr, not kept:\n{warnings.rstrip()}", file=sys.stderr)
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    subprocess.run([Path(sys.executable).with_name("nbdev_clean"), "--fname", path], cwd=ROOT, check=True)


if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # else a backend without pictures could be inherited
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # numbers that do not depend on how many cores are free
    names = [Path(name).resolve() for name in sys.argv[1:]] or in_order(ROOT / "nbs")
    for name in names:
        if not name.exists():
            sys.exit(f"notebooks: {name} does not exist")
        start = time.perf_counter()
        print(f"{name.name} ...", end=" ", flush=True)
        try:
            run(name)
        except CellExecutionError as error:
            sys.exit(f"failed\n{error}")
        print(f"{time.perf_counter() - start:.0f} s")
