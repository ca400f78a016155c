"""Results tables as HTML and as text, answers and prose: what a browser's parser reads in them, against the rows."""
import html.parser
import math
import random

import numpy as np
import pandas as pd
import pytest

from autodim.study.inference import compare
from autodim.study.report import interval_text
from autodim.study.tables import answer, fold, prose, show_table, table_html, text_frame, value_text


class Page(html.parser.HTMLParser):
    """What stands in a page: rows of cells (tag, class, text), the caption, and every tag."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.caption, self.tags, self.open = [], "", [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([tag, dict(attributes).get("class", ""), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1][2] += data
        if self.open and self.open[-1] == "figcaption":
            self.caption += data


def shown(call) -> dict[str, str]:
    """What a call displays, by kind."""
    with pytest.MonkeyPatch.context() as patch:
        outputs = []
        patch.setattr("IPython.display.display", lambda data, raw: outputs.append(data))
        call()
    (output,) = outputs
    return output


@pytest.mark.parametrize("digits", [0, 2, 4])
def test_a_number_keeps_its_digits_and_never_a_negative_zero(digits):
    draw = random.Random(digits)
    for x in [0.0, -0.0, -1e-9, 1e6, *(draw.uniform(-20, 20) for _ in range(200))]:
        text = value_text(x, digits)
        assert abs(float(text.replace(",", "")) - x) <= 0.5 * 10**-digits * (1 + 1e-9)
        assert len(text.partition(".")[2]) == digits
        assert not (text.startswith("-") and float(text) == 0)
        assert text == value_text(np.float64(x), digits)


@pytest.mark.parametrize("value, text", [(9999, "9999"), (10_000, "10,000"), (np.int64(-12_345), "-12,345"), (True, "True"),
    (None, ""), (pd.NA, ""), (pd.NaT, ""), (math.nan, ""), ("n/a", "n/a"), ("", "")])  # fmt: skip
def test_other_values(value, text):
    assert value_text(value) == text


def test_a_page_holds_every_value_of_the_frame_in_its_place():
    frame = pd.DataFrame({"model <b>": ["a & b", 'say "x"', "x" * 60], "AUC": [0.81931, math.nan, 0.5], "n": [5, 12_000, 1]})
    page = Page(table_html(frame, "AUC of <three>", {"AUC": 2}))
    assert page.caption == "AUC of <three>" and not {"script", "link", "img", "b"} & set(page.tags)
    head, *body = [[text for *_, text in row] for row in page.rows]
    assert head == ["model <b>", "AUC", "n"]
    assert body == [["a & b", "0.82", "5"], ['say "x"', "", "12,000"], ["x" * 60, "0.50", "1"]]
    kinds = [[kind for _, kind, _ in row] for row in page.rows]
    assert kinds == [["text", "", ""], ["text", "", ""], ["text", "", ""], ["text long", "", ""]]
    assert [row[0][0] for row in page.rows] == ["th"] * 4


def test_levels_of_an_index_are_said_once_and_columns_in_one_line():
    index = pd.MultiIndex.from_tuples([("a", "x", 1), ("a", "x", 2), ("a", "y", 2), ("b", "y", 2)], names=["p", None, "r"])
    frame = pd.DataFrame(np.arange(8).reshape(4, 2), index, pd.MultiIndex.from_tuples([("AUC", "mean"), ("n", "")]))
    text = text_frame(frame)
    assert [column.strip() for column in text] == ["p", "", "r", "AUC, mean", "n"]
    assert text.iloc[:, :3].to_numpy().tolist() == [["a", "x", "1"], ["", "", "2"], ["", "y", "2"], ["b", "y", "2"]]
    assert frame.index.names == ["p", None, "r"]  # the frame that was given stays as it was
    assert Page(table_html(frame, "x")).rows[1][3] == ["td", "", "0"]


def test_show_table_puts_out_a_page_and_text():
    means = pd.Series({"MiD": 80.914, "MaD": 81.93}, name="AUC %")
    data = shown(lambda: show_table(means, "Means", 1))
    assert data["text/html"] == table_html(means, "Means", 1)
    lines = data["text/plain"].splitlines()
    assert lines[0] == "Means" and lines[-2].split() == ["MiD", "80.9"] and lines[-1].split() == ["MaD", "81.9"]
    assert "0" not in shown(lambda: show_table(pd.DataFrame({"a": ["b"]}), "no counting index"))["text/plain"]


def test_a_table_has_a_caption_and_a_picture_a_description():
    for call, words in ((lambda: table_html(pd.DataFrame(), "  "), "without a caption"),
                        (lambda: answer("Why.", "x"), "question mark"),
                        (lambda: answer("Why?", "x", "exp_x"), "alternative text")):
        with pytest.raises(ValueError, match=words):
            call()


def test_prose_loses_its_indentation():
    text = """
        First, *and*
        - one
          more
        """
    assert shown(lambda: prose(text))["text/markdown"] == "First, *and*\n- one\n  more"
    assert shown(lambda: answer("Why?", text))["text/markdown"] == "**Why?**\n\nFirst, *and*\n- one\n  more"
    folded = shown(lambda: fold("A < B", text))["text/markdown"]
    assert folded.startswith("<details>\n<summary>A &lt; B</summary>\n\nFirst") and folded.endswith("\n\n</details>")


@pytest.mark.parametrize("draw", range(5))
def test_an_interval_says_what_was_compared(draw):
    rng = np.random.default_rng(draw)
    c = compare(rng.normal(0, 0.002, 5))
    text = interval_text(c)
    mean, low, high = (float(part.strip("[],")) for part in text.split())
    assert np.allclose([mean, low, high], [100 * c.mean, 100 * c.low, 100 * c.high], atol=0.0051)
    assert all(part.strip("[],")[0] in "+-" for part in text.split())
    row = pd.Series(c._asdict())
    assert text == interval_text(row) == interval_text(row.rename({"mean": "estimate"}) * 100, 1)
    assert "+" not in interval_text(c, sign="") and interval_text(compare([0.001])) == "+0.10"
