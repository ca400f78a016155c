"""Tables as somebody may have written them, and commands as somebody types them."""
import contextlib
import csv
import io

import numpy as np
import pandas as pd

from autodim.app.cli import main

NASTY = ["a", "b", "c", "d,e", 'say "hi"', "two\nlines", "é", "\U0001f600", " x ", "'", "a\r\nb", '5" pipe', "NA", "null",
         "0", "-1", "\t", '"', "\ufeff", "007", "#", "\\", "\x00"]  # fmt: skip


def cell(rng, value):
    """A value as somebody may have written it."""
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(rng.choice([["false", "False", "FALSE", "0"], ["true", "True", "TRUE", "1"]][int(value)]))
    if isinstance(value, str):
        return value
    text = repr(float(value)) if isinstance(value, float) else str(value)
    ways = [text, f" {text}", f"{text} "] + ([f"+{text}", f"0{text}"] if text[0].isdigit() else [])
    return str(rng.choice(ways))


def written(rng, frame, layout, columns):
    """A table as text: bytes."""
    text = io.StringIO(newline="")
    end = str(rng.choice(["\n", "\r\n"]))
    rows = ([str(v) if name == "label" else cell(rng, v) for name, v in zip(columns, row)]
            for row in frame[columns].astype(object).to_numpy().tolist())
    if layout.quoted:
        style = int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer = csv.writer(text, delimiter=layout.separator, lineterminator=end, quoting=style)
        write = writer.writerow
    else:
        def write(row):
            text.write(layout.separator.join(row) + end)
    empty = rng.choice([0, 0.3])
    for row in ([] if layout.columns else [columns]) + list(rows):
        text.write(end * int(rng.random() < empty))
        write(row)
    content = text.getvalue().encode()
    if rng.random() < 0.3:
        content = content.removesuffix(end.encode())  # no line break at the end
    mark = "\ufeff".encode()
    return mark + content if rng.random() < 0.3 or content.startswith(mark) else content  # else it were taken for one


def rows_of(n):
    rng = np.random.default_rng(99)  # not the seed of the split: its first lots would be the labels' draws
    return [f"{int(y)},{v}" for y, v in zip(rng.random(n) < 0.4, rng.integers(0, 9, n))]


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()
