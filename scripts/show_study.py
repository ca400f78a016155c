"""Print the main table of an executed experiment notebook, and where the notebook, its rows and its figure lie.

The text comes from the cells with a tag, `table3` or `speed`, so that the terminal shows what the notebook shows.

    python scripts/show_study.py TAG NOTEBOOK ROWS FIGURE
"""
import json
import sys
from pathlib import Path


def tagged_text(notebook: Path, tag: str) -> str:
    """The plain text that the cells with this tag have put out; ValueError if there is none."""
    document = json.loads(notebook.read_text(encoding="utf-8"))
    parts = []
    for cell in document["cells"]:
        if tag not in cell["metadata"].get("tags", []):
            continue
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                parts.append("".join(output["text"]))
            parts.append("".join(output.get("data", {}).get("text/plain", "")))
    text = "\n".join(part.rstrip() for part in parts if part.strip())
    if not text:
        raise ValueError(f'{notebook}: no output in a cell tagged "{tag}"')
    return text


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[2:]]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        sys.exit(f"study: not written: {', '.join(missing)}")
    try:
        print("\n" + tagged_text(paths[0], sys.argv[1]) + "\n")
    except ValueError as error:
        sys.exit(f"study: {error}")
    for label, path in zip(("notebook", "rows", "figure"), paths):
        print(f"{label:9s} {path}")
