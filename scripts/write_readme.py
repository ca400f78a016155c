"""Write what README.md says of results into it, between its marks: from results/*.csv, and what its example prints.

    python scripts/write_readme.py            from the committed rows
    python scripts/write_readme.py --example  also run the example in Python and write down what it prints
"""
import io
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd

from autodim.study.front import came_out, front_claims

ROOT = Path(__file__).resolve().parents[1]
STUDY = ["MiD", "MaD", "RaS (best draw)", "SAM (best by validation)", "AutoDim (best by validation)"]


def marks(part: str) -> tuple[str, str]:
    """The two lines between which a part of the README stands."""
    return f"<!-- {part} -->", f"<!-- /{part} -->"


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """The README's text with its parts made anew; ValueError if a part's marks are not there, once each and in order."""
    for part, made in parts.items():
        first, last = marks(part)
        if [text.count(mark) for mark in (first, last)] != [1, 1] or text.index(first) > text.index(last):
            raise ValueError(f"README.md: expected {first} and {last}, once each and in this order")
        text = f"{text.split(first)[0]}{first}\n{made}\n{last}{text.split(last)[1]}"
    return text


def code_block(text: str) -> str:
    """Text as a terminal shows it."""
    return f"```text\n{text}\n```"


def parts_of_rows(root: Path = ROOT) -> dict[str, str]:
    """The parts that follow from results/*.csv."""
    claims, compression, study = (pd.read_csv(root / "results" / f"{name}.csv", dtype=kind)
                                  for name, kind in (("claims", None), ("compression", None), ("study", str)))
    shown = study.set_index("method").loc[STUDY]
    runs = pd.read_csv(root / "results" / "table3.csv")
    minutes = ((runs.seconds_search + runs.seconds_train) / 60).quantile([0.5, 0.95]).round().astype(int)
    took = (f"Of the {len(runs)} runs of Table III one took {minutes[0.5]} minutes on one core (median; 95 % at most "
            f"{minutes[0.95]}).")
    return {"came out": came_out(claims, compression, "nbs/"), "claims": front_claims(claims, "nbs/"),
            "study": code_block(shown.to_string()), "minutes": took}


def example(text: str) -> str:
    """The README's code in Python."""
    return re.findall(r"(?s)```python\n(.*?)```", text)[0]


def printed(code: str) -> str:
    """What the code prints, run here."""
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {"__name__": "example"})
    return out.getvalue().strip()


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    parts = parts_of_rows()
    if "--example" in sys.argv:
        parts["printed"] = code_block(printed(example(before)))
    readme.write_text(with_parts(before, parts), encoding="utf-8")
    print(f"{readme.name}: {', '.join(parts)}")
