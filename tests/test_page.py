"""The report on one table: what a browser, a reader and a hostile table would find in it."""
import base64
import copy
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from autodim.data.files import DataError
from autodim.method.calibration import calibration_record
from autodim.app.page import (
    answer, by_parameters, bytes_text, cautions, draw_models, draw_probabilities, facts, page, percent, printable,
    short, sizes, summary, write_page,
)  # fmt: skip

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = ["<script>alert(1)</script>", "\"><img src=http://x.y onerror=alert(1)>", "</style></svg></table>",
           "$x_1$ and $", "a'b\"c", "&lt;",
           "#262626", "商品カテゴリー名称と小分類コード番号一覧", "قسم", "\x1b[31mred\x00", "\ud800", "_hidden", "]]>",
           "{format} %s", "x" * 5000, "", " "]  # fmt: skip


class Reader(HTMLParser):
    """Checks that tags nest; keeps elements with their attributes, and the text inside each kind."""

    def __init__(self, document: str):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.rows, self.texts = [], [], [], []
        self.feed(document)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {tag} {attributes}"
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += text
        if not {"style", "td", "th"} & set(self.open):
            self.texts.append(text)

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, *first: str) -> list[str]:
        found = [row for row in self.rows if row[:len(first)] == list(first)]
        assert len(found) == 1, (first, found)
        return found[0]


def made(fields: int = 11, rivals: bool = True, seed: int = 0, names: list[str] | None = None) -> dict:
    """A record with invented numbers that add up."""
    rng, dims = np.random.default_rng(seed), [2, 4, 6, 8, 10]
    rows = (10 ** rng.uniform(0.5, 6, fields)).astype(int).tolist()
    chosen = rng.choice(dims, fields).tolist()
    names = names or [f"field_{m}" for m in range(fields)]
    kinds = rng.choice(["categorical", "numerical"], fields).tolist()
    total = sum(v * d for v, d in zip(rows, chosen))

    def outcome(name: str, parameters: int) -> dict:
        history = [{"epoch": e + 1, "loss_train": 0.6, "auc_val": a, "logloss_val": 0.5}
                   for e, a in enumerate(rng.uniform(0.7, 0.8, 4).tolist())]
        return {"name": name, "space": parameters / (10 * sum(rows)), "parameters": parameters, "bytes": 4 * parameters,
                "val_auc": max(h["auc_val"] for h in history), "test_auc": float(rng.uniform(0.7, 0.8)),
                "test_auc_error": 0.0104, "test_logloss": 0.5769, "best_epoch": 3, "history": history}

    others = {"uniform 5": 5 * sum(rows), "uniform 6": 6 * sum(rows), "widest": 10 * sum(rows)} if rivals else {}
    return {
        "settings": {"dims": dims, "seed": 0, "max_space": None}, "candidates": dims,
        "environment": {"device": "a computer", "versions": "python 3, torch 2"},
        "data": {"label": "clicked", "classes": ["no", "yes"], "split": "random", "fingerprint": "0123abcd",
                 "rows": {"train": 16000, "validation": 2000, "test": 2001},
                 "left_out": {"row_id": "a value of its own"},
                 "positives": {"train": 400, "validation": 50, "test": 51}},
        "fields": [{"name": name, "kind": kind, "values": v, "dim": d, "parameters": v * d, "bytes": 4 * v * d,
                    "alpha": [0.2] * 5} for name, kind, v, d in zip(names, kinds, rows, chosen)],
        "search": {"step": [1, 2, 3], "tau": [1.0] * 3, "loss_train": [0.7, None, 0.6], "loss_val": [0.7, 0.6, 0.6],
                   "entropy": [1.0, 0.9, 0.8], "margin": [0.0, 0.1, 0.2]},
        "curve": [{"share": s, "space": s, "parameters": 10, "bytes": 40, "search_auc": 0.7 + s / 50}
                  for s in (0.2, 0.6)],
        "outcomes": [outcome("AutoDim", total)] + [outcome(name, n) for name, n in others.items()],
        "differences": [{"rival": "widest", "mean": -0.00499, "low": -0.0195, "high": 0.0095,
                         "words": "these test rows cannot tell"},
                        {"rival": "uniform 5 and uniform 6 mixed", "mean": 0.0244, "low": 0.0116, "high": 0.0372,
                         "words": "better: the search paid"}] if rivals else [],
    }  # fmt: skip


def with_calibration(record: dict, slope: float = 0.8, intercept: float = -0.3) -> dict:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1, 2000)
    labels = rng.random(2000) < 1 / (1 + np.exp(0.3 - 0.8 * logits))
    return record | {"calibration": calibration_record(logits, labels, (slope, intercept))}


@pytest.fixture(scope="module")
def record() -> dict:
    return made()


@pytest.fixture(scope="module")
def document(record) -> str:
    return page(record, "My table")


@pytest.fixture(scope="module")
def read(document) -> Reader:
    return Reader(document)


# ---------------------------------------------------------------- packed tables

def with_compression(record: dict, asked: dict, **changed: object) -> dict:
    points = [{"bytes": 1000 * 2**n, "val_auc": 0.7 + 0.01 * n} for n in range(5)]
    return record | {"compression": {
        "asked": asked, "sure": True, "bytes": 4000, "full_bytes": 50_000, "network": 6000, "predicted": 1e-4,
        "val": {"before": 0.74, "after": 0.7395, "loss": 0.05, "low": 0.01, "high": 0.09},
        "test": {"before": 0.73, "after": 0.7288, "mean": -0.0012, "low": -0.002, "high": -0.0004},
        "curve": {"ours": points, "uniform bits": points[1:]}, "plan": {"format": 1, "bits": {"a": ["12"]}}} | changed}


@pytest.mark.parametrize("asked, words", [
    ({"max_loss": 0.1}, "at most 0.1 points of loss by the upper end of the interval."),
    ({"max_bytes": 4096}, "a budget of 4,096 bytes."), ({"max_space": 0.05}, "a budget of 5.0 % of the widest"),
    ({"plan": "my/plan.json"}, "the plan my/plan.json."),
])
def test_packed_tables_come_first_in_words_and_pictures(record, asked, words):
    """12.5 is 50,000 / 4,000, and 10 kB the packed tables with the network's 6 kB."""
    made = with_compression(record, asked)
    said = answer(made)
    assert said[0].startswith("12.5 times smaller tables, AUC changed by −0.0012 [95 % interval −0.0020 to −0.0004]")
    assert words in said[1] and "changed by −0.050 points (hundredths), 95 % interval −0.090 to −0.010." in said[1]
    assert "10.0 kB in place of 56.0 kB" in said[1]
    assert said[3:] == answer(record) and summary(made).startswith(said[0])
    document, read = page(made), Reader(page(made))
    check_self_contained(document)
    assert read.of("img")[0]["alt"].startswith("AUC against bytes on validation rows: 0.7000 at 1.00 kB; ")
    assert len(read.of("img")) == len(Reader(page(record)).of("img")) + 1
    assert read.row("chosen") == ["chosen", "4.00 kB", "0.7395"]


def test_packed_tables_with_few_rows_or_without_test_rows(record):
    few = with_compression(record, {"max_bytes": 5000}, val={"before": 0.7, "after": 0.7, "loss": 0.0, "low": None, "high": None},
                           test={"before": 0.7, "after": 0.7, "mean": 0.0, "low": -1.0, "high": 1.0})
    assert "[too few rows of a class for an interval]" in answer(few)[0] and "interval" not in answer(few)[1]
    rows = record["data"]["rows"] | {"test": 0}
    none = with_compression(record | {"data": record["data"] | {"rows": rows}}, {"max_bytes": 5000})
    assert "on the validation rows 0.7288 in place" in summary(none)
    assert facts(none)["compression"]["bytes"] == 4000 and facts(record)["compression"] is None


# ---------------------------------------------------------------- probabilities

def test_probabilities_before_and_after(record, document):
    found = with_calibration(record)["calibration"]
    read = check_self_contained(page(with_calibration(record)))
    words = " ".join(" ".join(read.texts).split())
    for name in ("before", "after"):
        assert f"{found[name]['mean'] / found['share']:.2f} times" in words and f"{found[name]['logloss']:.4f}" in words
    assert "slope 0.80, intercept −0.30" in words and len(read.of("img")) == 5 and "Platt" not in document
    _, drawn = (c for c in draw_probabilities(with_calibration(record)).axes[0].containers)
    assert list(drawn[0].get_xdata()) == [g["mean"] for g in found["after"]["groups"]]
    bars = [bar[:, 1] for bar in drawn[2][0].get_segments()]
    np.testing.assert_allclose(bars, [[g["low"], g["high"]] for g in found["after"]["groups"]])
    head = read.rows.index(["rows", "mean prediction", "share of positives", "95 % interval"])
    assert [float(row[2]) for row in read.rows[head + 1:head + 11]] == [
        round(g["share"], 4) for g in found["after"]["groups"]]
    assert page(json.loads(json.dumps(with_calibration(record)))) == page(with_calibration(record))


def test_a_program_learns_of_calibration_and_of_other_kinds_of_models(record):
    whole = with_rivals(with_calibration(record), (0.8, 0.7, 0.75))
    found = json.loads(json.dumps(facts(whole)))
    assert found["rivals"] == whole["rivals"] and found["calibration"]["slope"] == 0.8
    assert found["calibration"]["after"] == {k: whole["calibration"]["after"][k] for k in ("mean", "logloss")}
    assert facts(record)["rivals"] is facts(record)["calibration"] is None
    assert facts(record | {"calibration": calibration_record([], [], (0.8, 0.1))})["calibration"]["after"] is None


def test_probabilities_that_were_left_alone_or_not_tested(record):
    alone = page(with_calibration(record, 1.0, 0.0))
    assert "not calibrated" in alone and "before calibration" not in alone
    untested = record | {"calibration": calibration_record([], [], (0.8, 0.1))}
    assert "Probabilities" not in page(untested)
    with pytest.raises(DataError, match="record, in its model.json, is damaged"):
        page(with_calibration(record) | {"calibration": {"after": {"mean": 0.1}}})


# ---------------------------------------------------------------- models without embeddings

def with_rivals(record: dict, aucs: tuple[float, ...], decided: bool = True, rows: int = 16000) -> dict:
    names = ("AutoDim", "logistic regression", "boosted trees")
    models = [{"name": name, "setting": "C = 0.1" if k else "", "auc": auc, "logloss": 0.5 + k / 100, "seconds": 1.25,
               "bytes": 1000 * k, "difference": {"mean": aucs[0] - auc, "low": -0.5, "high": 0.4} if k else None}
              for k, (name, auc) in enumerate(zip(names, aucs))]
    best = names[int(np.argmax(aucs))]
    return record | {"rivals": {"models": models, "best": best, "decided": decided, "rows": rows}}


@pytest.mark.parametrize("aucs, decided, said", [
    ((0.8, 0.7, 0.75), True, "An embedding model is right for this table: "),
    ((0.8, 0.7, 0.81), True, "Another kind of model is better on this table, boosted trees: "),
    ((0.8, 0.9, 0.81), True, "Another kind of model is better on this table, logistic regression: "),
    ((0.8, 0.7, 0.79), False, "These test rows cannot tell which kind of model is best, AutoDim is ahead: ")])
def test_it_says_plainly_which_kind_of_model_is_best(record, aucs, decided, said):
    whole = with_rivals(record, aucs, decided)
    nearest = max(aucs[1:])
    for text in (page(whole), summary(whole)):
        assert said + f"test AUC without embeddings is logistic regression {aucs[1]:.4f}, " in text
        assert f"{aucs[0] - nearest:+.4f}, 95 % interval from −0.5000 to +0.4000".replace("-", "−") in text
        assert ("By Logloss AutoDim is best" in text) == (max(aucs) > aucs[0])
    row = check_self_contained(page(whole)).row("boosted trees")
    assert row[2] == f"{aucs[2]:.4f}" and row[4:] == ["0.5200", "1.2", "2.00 kB"]
    assert "drawn at random, ours" not in page(whole)
    assert "They learnt from 5,000 training rows" in " ".join(page(with_rivals(record, aucs, rows=5000)).split())


@pytest.mark.parametrize("rivals", [None, {}])
def test_a_record_without_such_rivals(record, document, rivals):
    assert page(record | {"rivals": rivals}, "My table") == document and "without embeddings" not in document


# ---------------------------------------------------------------- one file, no network, no scripts

def check_self_contained(document: str) -> Reader:
    read = Reader(document)
    loading = {"script", "link", "iframe", "object", "embed", "image", "base", "form"}
    assert not loading & {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "xlink:href", "srcset"), (tag, name)
            if name == "src":
                assert tag == "img" and re.fullmatch(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", value), (tag, value)
    style = re.findall(r"(?s)<style>(.*?)</style>", document)
    assert len(style) == 1 and not re.search(r"@import|url\(", style[0])
    return read


def drawn(image: dict) -> list[str]:
    """The words in an image of the page, which must be well-formed SVG and load nothing either."""
    root = ElementTree.fromstring(base64.b64decode(image["src"].partition(",")[2]))
    for element in root.iter():
        assert not element.tag.endswith(("}script", "}image", "}foreignObject")), element.tag
        links = [value for name, value in element.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links), links
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_is_well_formed_and_loads_nothing(document):
    read = check_self_contained(document)
    images = read.of("img")
    assert len(images) == 4 == len(read.of("figcaption"))
    assert all(len(image["alt"]) > 20 and drawn(image) for image in images)
    policy = [m["content"] for m in read.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "color-scheme: light dark" in document and "@media print" in document


def test_the_check_of_the_page_speaks_up(document):
    for old, new in (("<h1>", "<h1><b>"), ("<body>", "<body><script></script>"),
                     ("<body>", '<p onclick="x"></p><body>'), ('src="data:', 'src="http://x'),
                     ("<body>", '<a href="x"></a><body>'), ("<style>", "<style>@import x;")):
        with pytest.raises(AssertionError):
            check_self_contained(document.replace(old, new, 1))


# ---------------------------------------------------------------- what it says

def test_fields_stand_in_the_table_sorted_by_parameters(record, read):
    head = read.rows.index(read.row("field", "kind"))
    rows = read.rows[head + 1:head + 1 + len(record["fields"])]
    total = sum(f["values"] * f["dim"] for f in record["fields"])
    numbers = [int(row[4].replace(",", "")) for row in rows]
    assert numbers == sorted((f["values"] * f["dim"] for f in record["fields"]), reverse=True)
    bars = dict(zip([row[0] for row in rows], [span["style"] for span in read.of("span")], strict=True))
    for field in record["fields"]:
        row = read.row(field["name"])
        parameters = field["values"] * field["dim"]
        assert row[1:5] == [field["kind"], str(field["dim"]), f"{field['values']:,}", f"{parameters:,}"]
        width = float(re.fullmatch(r"width: ([\d.]+)rem", bars[field["name"]])[1])
        assert width == pytest.approx(5 * field["dim"] / max(record["candidates"]))
        share = 100 * parameters / total
        assert abs(float(row[5].split()[-2]) - share) <= 0.05
        amount, unit = row[6].split()
        power = 1000 ** ("B", "kB", "MB", "GB").index(unit)
        assert abs(float(amount) * power / (4 * parameters) - 1) < 0.006


def test_outcomes_stand_in_the_table(record, read):
    for outcome in record["outcomes"]:
        row = read.row(outcome["name"])
        assert abs(float(row[1][:-2]) - 100 * outcome["space"]) <= 0.05
        assert int(row[2].replace(",", "")) == outcome["parameters"]
        auc, error = map(float, row[5].split(" ± "))
        assert abs(auc - outcome["test_auc"]) <= 5e-5 and abs(error - 0.0104 * 1.96) <= 6e-5
        assert float(row[4]) == round(outcome["val_auc"], 4) and row[6:] == ["0.5769", "3"]


def test_the_answer_comes_first_with_the_record_words(record, document):
    answer = re.search(r'(?s)<h1>My table</h1>\s*<div class="answer">(.*?)</div>', document)[1]
    chosen, rows = record["outcomes"][0], sum(f["values"] for f in record["fields"])
    assert f"keeps {100 * chosen['parameters'] / (10 * rows):.1f} %" in answer and f"of {10 * rows:,}" in answer
    low, high = re.search(r"interval is (\d\.\d+) to (\d\.\d+)", answer).groups()
    assert abs(float(low) + float(high) - 2 * chosen["test_auc"]) < 2e-4
    assert abs(float(high) - float(low) - 2 * 1.96 * 0.0104) < 2e-4
    for d in record["differences"]:
        sentence = [p for p in answer.split("<p>") if d["words"] in p]
        assert len(sentence) == 1
        said = [float(x.replace("−", "-")) for x in re.findall(r"[+−]\d\.\d{4}", sentence[0])]
        assert said == [round(d["mean"], 4), round(d["low"], 4), round(d["high"], 4)]


DEAD = {"test_auc": 0.5, "test_auc_error": 0.0, "test_logloss": 1.2e7}
KNOWN = {"baseline": 0.6, "model_bytes": {"tables": 5_190, "network": 1_284_810, "total": 1_290_000}}


@pytest.mark.parametrize("outcome, search, expected", [
    ({}, {"decided": True}, []),
    ({}, {"decided": False, "alpha_steps": 1}, ["The search decided nothing: 1 step of"]),
    (DEAD, {}, ["Do not use this model: its test AUC, 0.5000, is not above .5", "Worse than no model: the test Logloss is 1.2e+07"]),
    ({"test_auc": 0.52, "test_auc_error": 0.02}, {}, ["Do not use this model: its test AUC, 0.5200"]),
    ({"test_auc": 0.54, "test_auc_error": 0.02}, {}, []),
    ({"test_auc": 0.3, "test_auc_error": 0.02}, {}, ["Do not use this model"]),
    ({"test_auc": 0.5, "test_auc_error": None}, {}, []),  # no interval, so nothing is said of it
    ({"test_logloss": 0.6001}, {}, ["Its probabilities are worse than none: the test Logloss is 0.6001"]),
    ({"test_logloss": float("nan")}, {}, ["Its probabilities are worse than none"]),
    ({"test_logloss": 0.6}, {}, []),
    (DEAD, {"decided": False, "alpha_steps": 60}, ["Do not use this", "Worse than no", "The search decided nothing: 60 steps of"]),
])
def test_what_is_no_result_is_said_first(outcome, search, expected):
    changed = made() | KNOWN
    changed["outcomes"][0] |= outcome
    changed["search"] |= search
    said = cautions(changed)
    assert len(said) == len(expected) and all(line.startswith(start) for line, start in zip(said, expected))
    assert summary(changed).splitlines()[:len(said)] == said == facts(changed)["cautions"]
    document = page(changed, "T")
    first = re.search(r"</h1>\s*<div class=\"(\w+)\">\s*<p>(.*?)</p>", document)
    assert first[1] == ("caution" if said else "answer")
    assert not said or html.unescape(first[2]).startswith(expected[0])
    undecided = search.get("decided") is False
    assert all(word in " ".join(said) for word in (["`f`", "`batch_size`", "`search_epochs`", "`alpha_lr`"] * undecided))


def test_a_record_of_an_older_version_says_the_less(record):
    assert not {"baseline", "model_bytes"} & record.keys() and "decided" not in record["search"]
    assert cautions(record) == [] and "whole model" not in summary(record) and "label's mean" not in page(record)
    assert facts(record)["model_bytes"] is None and facts(record)["search"]["decided"] is None


def test_the_whole_model_s_size_and_when_tables_are_a_trivial_share(record):
    for text in (summary(record | KNOWN), " ".join(Reader(page(record | KNOWN)).texts)):
        assert "The whole model has 1.29 MB: the tables 5.19 kB, the network after them 1.28 MB." in text
        assert "trivial share of this model, 0.40 %" in text
    assert len(sizes({"tables": 100, "network": 900, "total": 1000})) == 1
    assert len(sizes({"tables": 99, "network": 901, "total": 1000})) == 2


def test_several_tables_a_field_count_in_the_widest_too(record):
    changed = copy.deepcopy(record)  # as FFM's: M - 1 tables a field
    for what in (changed["fields"], changed["outcomes"]):
        for entry in what:
            entry["parameters"] *= 10
    chosen = changed["outcomes"][0]
    assert f"{chosen['parameters']:,} of {100 * sum(f['values'] for f in record['fields']):,}" in summary(changed)


@pytest.mark.parametrize("words", ["worse: the search did not pay", "no loss worth naming", "anything else"])
def test_words_are_the_record_s(record, words):
    changed = copy.deepcopy(record)
    changed["differences"][1]["words"] = words
    assert words in summary(changed) and "better: the search paid" not in summary(changed)


def test_without_rivals_it_says_how_to_get_them():
    record = made(rivals=False)
    for text in (page(record), summary(record)):
        assert "No rival was trained" in text and "minus that" not in text
        assert "their test rows" not in text
    assert "No rival" not in summary(made())


def test_too_few_test_rows_for_an_interval(record):
    few = copy.deepcopy(record)
    for outcome in few["outcomes"]:
        outcome["test_auc_error"] = None
    read = check_self_contained(page(few))
    assert all(read.row(o["name"])[5] == f"{o['test_auc']:.4f} ± unknown" for o in few["outcomes"])
    assert "too few of a class for an interval" in summary(few) and "DeLong" not in summary(few)


def test_data_settings_and_environment(record, read):
    text = " ".join(read.texts)
    assert read.row("train")[1:] == ["16,000", "400", "2.5 %"] and read.row("test")[1:3] == ["2,001", "51"]
    assert read.row("row_id") == ["row_id", "a value of its own"]
    assert read.row("dims")[1] == "[2, 4, 6, 8, 10]" and read.row("max_space")[1] == "null"
    assert read.row("device")[1] == "a computer" and "0123abcd" in str(read.rows)
    text = " ".join(text.split())
    assert '"yes" counts as positive' in text and "split at random" in text and "newest" not in text
    by_time = record | {"data": record["data"] | {"split": "day", "left_out": {}}}
    text = " ".join(" ".join(Reader(page(by_time)).texts).split())
    assert 'by "day": the oldest' in text and "at random" not in text and "No column was left out" in text


def test_summary_is_the_same_answer_in_plain_lines(record, document):
    lines = summary(record, tables=3).splitlines()
    assert set(lines[:-1]) <= set(Reader(document).texts)
    largest = sorted(record["fields"], key=lambda f: f["values"] * f["dim"])[::-1][:3]
    named = ", ".join(f"{f['name']} {f['dim']}" for f in largest)
    assert lines[-1] == f"Dimensions: {named} and 8 smaller ones."
    assert "smaller" not in summary(made(fields=3), tables=3)


# ---------------------------------------------------------------- pictures

def test_error_bars_are_the_intervals(record):
    figure = draw_models(record)
    segments = [c.get_segments()[0] for c in figure.axes[0].collections]
    for segment, outcome in zip(segments, record["outcomes"], strict=True):
        assert np.allclose(segment[:, 0], 100 * outcome["space"])
        assert np.allclose(np.diff(segment[:, 1]), 2 * 1.96 * 0.0104, rtol=1e-3)


@pytest.mark.parametrize("fields", [1, 40, 200])
def test_any_number_of_fields(fields):
    record = made(fields, seed=fields)
    document = page(record)
    read = check_self_contained(document)
    assert all(read.row(f["name"]) for f in record["fields"])
    shown = [row[0] for row in read.rows if re.fullmatch(r"field_\d+", row[0])]
    assert shown == [f["name"] for f in by_parameters(record)]
    assert len(document.encode()) < 300_000


def test_pictures_of_other_candidates():
    record = made(3)
    for candidates in ([7], list(range(1, 65))):
        for field in record["fields"]:
            field["dim"], field["parameters"] = candidates[-1], candidates[-1] * field["values"]
        check_self_contained(page(record | {"candidates": candidates}))


# ---------------------------------------------------------------- text that is not ours

def test_hostile_text_is_shown_and_does_nothing():
    record = made(len(HOSTILE), names=HOSTILE)
    for place in ("label", "split", "fingerprint", "table"):
        record["data"][place] = HOSTILE[1]
    record["data"] |= {"classes": HOSTILE[:2], "left_out": {HOSTILE[0]: HOSTILE[2]}}
    record["environment"] = {"device": HOSTILE[0], "versions": HOSTILE[2]}
    record["settings"] = {HOSTILE[0]: HOSTILE[1], "nested": {HOSTILE[2]: [HOSTILE[3]]}}
    for i, outcome in enumerate(record["outcomes"]):
        outcome["name"] = HOSTILE[i] if i else HOSTILE[11]
    record["differences"][0] |= {"rival": HOSTILE[0], "words": HOSTILE[1]}
    record["fields"][0]["kind"] = HOSTILE[1]
    document = page(record, HOSTILE[2])
    read = check_self_contained(document)
    assert document.encode() and "\x1b" not in document + summary(record) and "\x00" not in document
    columns = [row[0] for row in read.rows]
    assert all(short(name, 300) in columns for name in HOSTILE)
    words = drawn(read.of("img")[0])
    assert all(short(outcome["name"]) in words for outcome in record["outcomes"])
    legends = [text.get_text() for text in draw_models(record).legends[0].texts]
    assert legends[0] == "_hidden"


@pytest.mark.parametrize("text", HOSTILE)
def test_short_text(text):
    for width in (12, 24):
        shown = short(text, width)
        assert len(shown) <= width and (shown == printable(text)) == (len(text) <= width)
        head, _, tail = shown.partition("…")
        assert shown == printable(text) or (
            printable(text).startswith(head) and printable(text).endswith(tail) and head and tail)


def test_numbers():
    sizes = [bytes_text(n) for n in (1, 1000, 9_999, 10_000, 123_456_789)]
    assert sizes == ["1 B", "1.00 kB", "10.0 kB", "10.0 kB", "123 MB"]
    assert [percent(s) for s in (0.005, 0.01, 0.99999)] == ["0.50 %", "1.0 %", "100.0 %"]


# ---------------------------------------------------------------- the same bytes, and errors

def test_the_same_record_gives_the_same_bytes(record, document, tmp_path):
    before = copy.deepcopy(record)
    write_page(json.loads(json.dumps(record)), tmp_path / "new" / "page.html", "My table")
    assert (tmp_path / "new" / "page.html").read_bytes() == document.encode() and record == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    assert page(made(seed=1), "My table") != document


def test_the_style_of_others_is_left_alone(record, document):
    import matplotlib
    other = {"axes.facecolor": "red", "font.size": 30, "text.color": "green", "svg.fonttype": "path"}
    with matplotlib.rc_context(other):
        assert page(record, "My table") == document
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert not matplotlib.pyplot.get_fignums()


PLACES = [("outcomes",), ("fields",), ("candidates",), ("differences",), ("outcomes", 0, "test_auc"),
          ("fields", 2, "parameters"), ("differences", 0, "words")]  # which a summary reads too
ON_THE_PAGE = [("curve",), ("search",), ("data",), ("settings",), ("environment",), ("outcomes", 1, "test_logloss"),
               ("outcomes", 0, "history"), ("fields", 2, "values"), ("data", "rows"), ("data", "left_out"),
               ("curve", 1, "search_auc"), ("search", "entropy"), ("environment", "versions"),
               ("outcomes", 0, "history", 3, "auc_val")]  # fmt: skip


@pytest.mark.parametrize("place, make", [*((place, summary) for place in PLACES),
                                         *((place, page) for place in PLACES + ON_THE_PAGE)])
def test_a_damaged_record_is_one_sentence(record, place, make):
    damaged = copy.deepcopy(record)
    inner = damaged
    for step in place[:-1]:
        inner = inner[step]
    del inner[place[-1]]
    with pytest.raises(DataError, match=f"the model's record.*is damaged.*{place[-1]}.*train it again") as error:
        make(damaged)
    assert "\n" not in str(error.value)
    if place[-1] not in ("words", "versions", "auc_val"):  # any text will do, or is drawn
        inner[place[-1]] = "<b>"
        with pytest.raises(DataError, match="is damaged"):
            make(damaged)


@pytest.mark.parametrize("name", ["outcomes", "candidates", "curve"])
def test_what_is_empty_is_damaged(record, name, tmp_path):
    with pytest.raises(DataError, match="is damaged"):
        write_page(record | {name: []}, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written(record, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(record, tmp_path / "file" / "page.html")
