"""The pages: they load nothing from elsewhere, say what their pictures show, and are readable on a desk and on a phone.

`make preview`'s pages are made here; those of Quarto, which few machines have, are looked at where _site/ exists.
"""
import json
import re

import pytest
import yaml
from browser import CHROMIUM, Browser
from test_house import notebooks

import nbdev_filter
import preview

VIEWS = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]  # pixels, the system's colours
LOADS = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
                   r"""|<link\b(?![^>]*\brel=["']?(?:canonical|next|prev))[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
                   r"""|@import\s+(?:url\()?["']?(?:https?:)?//[^"')\s;]+|url\(["']?(?:https?:)?//[^"')\s]+""")


def made(root):
    """The pages and style sheets that Quarto has made here; none where it has not run."""
    return sorted([*(root / "_site").rglob("*.html"), *(root / "_site").rglob("*.css")])


@pytest.fixture(scope="module")
def pages(root, tmp_path_factory):
    return preview.render(tmp_path_factory.mktemp("preview"), root)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


# ---------------------------------------------------------------- self-contained

@pytest.mark.xdist_group("site")
def test_preview_shows_every_page_without_a_network(root, pages):
    assert {page.stem for page in pages} == {path.stem for path in notebooks(root)}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<script\b|<link (?!rel="icon" href="data:)|(?:src|url\()=?["']?https?:""", text), page.name
        assert not LOADS.search(text), page.name
        assert not re.search(r"\$\$|\\begin\{", re.sub(r"(?s)<pre.*?</pre>|<code.*?</code>", "", text)), page.name
        lost = [link for link in re.findall(r'href="(?!data:)([^"#:]+)(?:#[^"]*)?"', text)
                if not (page.parent / link).is_file()]
        assert not lost, (page.name, lost)
        assert not re.search(r'<img (?![^>]*\balt="[^"]+")', text), page.name
        assert text.count("<h2 ") < 2 or '<details class="contents">' in text, page.name
        assert re.search(r'<meta name="description" content="[^"]{10,}">', text), page.name


@pytest.mark.xdist_group("site")
def test_links_within_the_site_meet_a_heading(pages):
    ids = {page.resolve(): set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))) for page in pages}
    found = [(page, *link) for page in pages
             for link in re.findall(r'href="(?!https?:|data:)([^"#]*)#([^"]+)"', page.read_text(encoding="utf-8"))]
    assert len(found) > 1000
    lost = [f"{page.name}: {path}#{place}" for page, path, place in found
            if place not in ids[(page.parent / path).resolve() if path else page.resolve()]]
    assert not lost, lost


def test_site_of_quarto_loads_nothing_from_elsewhere(root):
    if not made(root):
        pytest.skip("no _site/: `make site` needs Quarto")
    found = {page.name: LOADS.findall(page.read_text(encoding="utf-8")) for page in made(root)}
    assert not any(found.values()), {name: loads for name, loads in found.items() if loads}


@pytest.mark.parametrize("text", [
    '<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" integrity="x"></script>',
    '<link href="//cdn.example.org/a.css" rel="stylesheet">', '<img alt="a" src=http://example.org/a.png>',
    '@import "https://fonts.googleapis.com/css2?family=Lato";', "@font-face{src:url(https://fonts.gstatic.com/a)}"])
def test_loads_from_elsewhere_are_seen(text):
    assert LOADS.search(text)


@pytest.mark.parametrize("text", ['<a href="https://github.com">', '<link rel="icon" href="data:image/svg+xml;base64,QQ">',
                                  '<link rel="canonical" href="https://autodim.github.io/">', '<script src="a.js">'])
def test_loads_from_here_and_links_are_no_loads(text):
    assert not LOADS.search(text)


def test_themes_load_no_web_fonts(root):
    page = yaml.safe_load((root / "_quarto.yml").read_text())["format"]["html"]
    for layers in page["theme"].values():
        defaults = (root / layers[-1]).read_text().split("/*-- scss:rules --*/")[0]
        assert re.search(r"^\$web-font-path: false;$", defaults, re.MULTILINE)
    assert page["html-math-method"] == "mathml" and page["respect-user-color-scheme"]


# ---------------------------------------------------------------- the filter

def notebook(*cells):
    return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def cell(kind, source, **more):
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": "a1b2c3d4", "metadata": {}, "source": source} | code | more


def for_quarto(*cells):
    return json.loads(nbdev_filter.for_quarto(nbdev_filter.filter_notebook(notebook(*cells))))["cells"]


def test_quarto_gets_html_as_markdown():
    table = "<table><tr><td>`1`</td></tr></table>"
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [table], "text/plain": ["1"]}}
    [_, made] = for_quarto(cell("markdown", "text"), cell("code", "1", outputs=[shown]))
    assert made["outputs"][0]["data"] == {"text/markdown": f"``````{{=html}}\n{table}\n``````\n", "text/plain": ["1"]}


def test_quarto_gets_the_purpose_as_description():
    description, first = for_quarto(cell("markdown", '# search\n\n> Finds "dims",\n> in `f` steps.\n\nMore.'))
    assert description["cell_type"] == "raw"
    assert yaml.safe_load(description["source"].strip("-\n")) == {"description": 'Finds "dims", in `f` steps.'}
    assert "".join(first["source"]).split() == ["#", "search", "More."]
    assert len(for_quarto(cell("markdown", "# no purpose"))) == 1


def test_quarto_gets_a_pictures_own_words():
    picture = {"output_type": "display_data", "data": {"image/png": "QQ=="},
               "metadata": {"image/png": {"alt": 'a "line"'}}}
    [_, made] = for_quarto(cell("markdown", "text"), cell("code", "draw()", outputs=[picture]))
    assert "".join(made["source"]).splitlines()[0] == r'#| fig-alt: "a \"line\""'


def test_names_are_linked_to_their_definitions():
    text = ("# `auc()`\n\n`auc_error` and `auc()`, not `auc`, `auc(x)`, `no_such_name` or [`auc()`](x.html)\n\n"
            "```python\n`auc()`\n```\n")
    [made] = for_quarto(cell("markdown", text))
    page = "/nbs/method/05_metrics.ipynb"
    linked = text.replace("`auc_error` and `auc()`", f"[`auc_error`]({page}#auc_error) and [`auc()`]({page}#auc)")
    assert "".join(made["source"]) == linked


def test_definitions_keep_their_name_as_id():
    made = for_quarto(cell("markdown", "text"), cell("code", '#| export\nclass Two:\n    "A thing."'))
    assert "".join(made[1]["source"]).splitlines()[0] == "### `Two` {#Two}"


def test_terms_are_explained_where_first_used(monkeypatch):
    monkeypatch.setattr(nbdev_filter, "terms", lambda: {"MaD": 'the "widest"', "AutoDim-1": "one table", "Space": "share"})
    text = "# MaD\n\n> MaD\n\n`MaD` [MaD](x.html) $MaD$ <b title='MaD'>x</b>, MaDs, MaD's, MaD; AutoDim-1, AutoDim-12"
    folded, shown = ({"output_type": "display_data", "metadata": {}, "data": {"text/markdown": [words]}}
                     for words in ("<details>Space</details>", "MaD, Space"))
    page = notebook(cell("markdown", text), cell("code", "1", outputs=[folded, shown]))
    made = json.loads(nbdev_filter.filter_notebook(page))
    explained = text.replace(", MaD's", ', <abbr title="the &quot;widest&quot;">MaD</abbr>\'s').replace(
        "; AutoDim-1,", '; <abbr title="one table">AutoDim-1</abbr>,')
    assert "".join(made["cells"][0]["source"]) == explained
    assert "".join(made["cells"][1]["outputs"][1]["data"]["text/markdown"]) == 'MaD, <abbr title="share">Space</abbr>'


@pytest.mark.xdist_group("site")
def test_terms_stand_within_their_explanation(pages):
    terms = nbdev_filter.terms()
    found = [re.findall(r'<abbr title="([^"]+)">([^<]*)</abbr>', page.read_text(encoding="utf-8")) for page in pages]
    assert len(terms) > 5 and len(sum(found, [])) > 50
    for page, explained in zip(pages, found):
        assert len(dict(explained)) == len(explained), page.name
        assert all(nbdev_filter.html.unescape(title) == terms[term] for title, term in explained), page.name


def test_callouts_become_folds():
    text = ('::: {.callout-note title="Caveats" collapse="true"}\nOne **word**.\n:::\n\n'
            "::: {.callout-tip}\n## Try\nit\n:::\n\n::: {.wide .box}\n```\n::: no div\n```\n:::")
    made = preview.callouts(text)
    assert re.findall(r"</?(?:details|div)[^>]*>", made) == [
        '<details class="callout">', "</details>", '<details class="callout" open>', "</details>",
        '<div class="wide box">', "</div>"]
    assert re.findall("<summary>(.*)</summary>", made) == ["Caveats", "Try"] and "\n::: no div\n" in made
    assert preview.callouts("plain\n\ntext") == "plain\n\ntext"


# ---------------------------------------------------------------- in a browser

@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_pages_in_a_browser(pages, browser):
    found = {page.stem: complaints for page in pages if (complaints := browser.complaints(page.as_uri(), VIEWS))}
    assert not found, json.dumps(found, indent=1)


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_pages_of_quarto_in_a_browser(root, browser):
    pages = sorted((root / "_site").rglob("*.html"))
    if not pages:
        pytest.skip("no _site/: `make site` needs Quarto")
    found = {page.stem: complaints for page in pages if (complaints := browser.complaints(page.as_uri(), VIEWS))}
    assert not found, json.dumps(found, indent=1)


FAULTS = {
    "scrolls sideways": '<div style="width: 900px">wide</div>',
    "image not loaded": '<img alt="none" src="none.png">',
    "image without alternative text": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">',
    "pale": '<p><code style="color: #ddd; background: #eee">code</code></p>',
    "asks for https://example.org/a.js": '<script src="https://example.org/a.js"></script>',
    "error: ": "<script>throw Error('no')</script>",
    "console.error": "<script>console.error('no')</script>"}


@pytest.mark.slow
@pytest.mark.xdist_group("site")
@pytest.mark.parametrize("words", FAULTS)
def test_browser_sees(words, browser, tmp_path):
    for name, part in (("good", "<p>Words.</p>"), ("bad", FAULTS[words])):
        page = tmp_path / f"{name}.html"
        page.write_text(f'<!DOCTYPE html><meta name="viewport" content="width=device-width"><main>{part}</main>')
        found = browser.complaints(page.as_uri(), VIEWS)
        assert any(words in text for text in found) if name == "bad" else not found, found
