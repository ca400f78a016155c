"""Write the claims table of results/claims.csv into README.md, between its two marks.

    python scripts/write_readme.py
"""
from pathlib import Path

import pandas as pd

from autodim.study.report import claims_markdown

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- claims -->", "<!-- /claims -->")


def with_claims(text: str, claims: pd.DataFrame) -> str:
    """The README's text with its table made anew; ValueError if the marks are not there, once each and in order."""
    if [text.count(mark) for mark in MARKS] != [1, 1] or text.index(MARKS[0]) > text.index(MARKS[1]):
        raise ValueError(f"README.md: expected {MARKS[0]} and {MARKS[1]}, once each and in this order")
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{claims_markdown(claims, 'nbs/')}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    claims = pd.read_csv(ROOT / "results" / "claims.csv")
    readme.write_text(with_claims(readme.read_text(encoding="utf-8"), claims), encoding="utf-8")
    print(f"{readme.name}: {len(claims)} claims")
