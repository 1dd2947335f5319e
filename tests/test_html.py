"""The report page: what a reader finds in it, and what it must not load."""

import base64
import html
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageChops

from lvmlib.show.html import NUMBER, ReportExporter, to_mathml

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WIDE = "".join(f"<td>{i}.25</td>" for i in range(40))


def display(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def notebook(*cells):
    return new_notebook(
        cells=list(cells), metadata={"language_info": {"name": "python"}}
    )


def export(nb, **resources):
    return BeautifulSoup(
        ReportExporter().from_notebook_node(nb, **resources)[0], "html.parser"
    )


def export_output(*outputs):
    return export(notebook(new_code_cell("1", outputs=list(outputs))))


def export_markdown(text):
    return export(notebook(new_markdown_cell(text)))


@pytest.fixture(scope="module")
def report():
    """Return a notebook with one of everything that the study's notebooks hold."""
    return notebook(
        new_markdown_cell(
            "# One run &lt;of&gt; the study\n\nCompute costs $5 and $6; $d = 768$ "
            "dimensions. See the [summary](index.html#The-answer)."
        ),
        new_code_cell("size = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("size = 2", metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell(
            "## Architecture & formula\n\n"
            "$$\n\\begin{aligned}\nz &= \\frac{x}{y} \\\\\n"
            "h &= \\sqrt{z}\n\\end{aligned}\n$$\n\n"
            "### Detail\n\n## Result\n\n## Result"
        ),
        new_code_cell(
            "print('epoch 1')",
            outputs=[
                new_output("stream", name="stdout", text="epoch 1 <b>\n"),
                new_output("stream", name="stderr", text="UserWarning: beware\n"),
                display(
                    {"image/png": PNG, "text/plain": "<Figure>"},
                    **{"image/png": {"alt": 'A "curve" falls', "width": 320}},
                ),
                display(
                    {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>"},
                    **{"image/svg+xml": {"alt": "A drawing"}},
                ),
                new_output(
                    "execute_result",
                    data={"text/html": f"<table><tr>{WIDE}</tr></table>"},
                ),
                display({"text/markdown": "### The answer\n\n$\\Delta = 0.01$"}),
            ],
        ),
        new_code_cell(
            "fail()",
            outputs=[
                new_output(
                    "error",
                    ename="ValueError",
                    evalue="size \x1b[31m9\x1b[0m <is> larger",
                    traceback=["\x1b[31mValueError\x1b[39m: here", "\x1b[38;5;1mx = 1"],
                )
            ],
        ),
    )


@pytest.fixture(scope="module")
def page(report):
    return export(report)


def test_loads_nothing(page):
    assert not page.select("link, iframe, object, embed, script[src], [srcset]")
    assert page.find_all("img")
    assert all(tag["src"].startswith("data:") for tag in page.select("[src]"))
    inside = "".join(tag.get_text() for tag in page.find_all(["style", "script"]))
    assert not re.search(r"url\(|@import|//\w|import\(|fetch", inside)


def test_head(page):
    assert page.html["lang"] == "en"
    assert page.title.get_text() == "One run <of> the study"
    about = page.find("meta", attrs={"name": "description"})["content"]
    assert about.startswith("Compute costs $5 and $6; d=768 dimensions.")
    viewport = page.find("meta", attrs={"name": "viewport"})["content"]
    assert "width=device-width" in viewport


def test_title_without_heading():
    nb = notebook(new_markdown_cell("Text"))
    assert export(nb, resources={"metadata": {"name": "gru"}}).title.string == "gru"
    nb.metadata["title"] = "The GRU"
    assert export(nb).title.string == "The GRU"


def test_formulas(page):
    inline, block, answer = page.main.find_all("math")
    assert inline["display"] == answer["display"] == "inline"
    assert block["display"] == "block"
    assert len(block.find_all("mtr")) == 2
    assert block.mfrac
    assert "$" not in page.main.get_text().replace("$5", "").replace("$6", "")


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("costs $5 and $6", 0),
        ("costs $5-$6", 0),
        (r"costs \$5, $x$ and \$6", 1),
        ("between $a$ and $b_1 + b_2$, $10$ as well", 3),
        (r"a price of $p = \$5$", 1),
    ],
)
def test_prices_are_not_formulas(text, formulas):
    main = export_markdown(text).main
    assert len(main.find_all("math")) == formulas
    assert main.get_text().count("$") == text.count("$") - 2 * formulas


def test_math_environment_and_latex_output():
    main = export_markdown("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}").main
    assert [row.get_text() for row in main.find_all("mtr")] == ["a=b", "c=d"]
    main = export_output(display({"text/latex": r"$\displaystyle \theta$"})).main
    assert main.math.get_text() == "θ"


@pytest.mark.parametrize(
    "latex", [r"\nosuchcommand{x} < 1", r"\left( x", "a & b", r"\operatorname*{a\,b}"]
)
def test_unconvertible_formula_stays_readable(latex):
    tag = BeautifulSoup(to_mathml(latex), "html.parser")
    assert tag.code.get_text() == latex
    assert not tag.math


def test_code_is_folded_and_results_are_not(page):
    for code in page.select(".highlight"):
        fold = code.find_parent("details")
        assert not fold.has_attr("open")
    labels = [fold.summary.get_text() for fold in page.select("details.code")]
    defaults, injected, *others = labels
    assert defaults == "Parameters and their defaults"
    assert injected == "Parameters of this run"
    assert others == ["Code", "Code"]
    results = page.select("figure, table, .error, pre.stream, .output")
    assert len(results) == 7
    assert not any(result.find_parent("details") for result in results)


def test_what_only_sets_up_is_folded_with_its_cells():
    setup = {"tags": ["setup"]}
    page = export(
        notebook(
            new_markdown_cell("# Title\n\nWhat this is."),
            new_markdown_cell("Parameters.", metadata=setup),
            new_code_cell("size = 1", metadata={"tags": ["parameters"]}),
            new_markdown_cell("Reading.", metadata=setup),
            new_code_cell("1", outputs=[new_output("stream", text="read")]),
            new_markdown_cell("## The answer"),
            new_code_cell("2", outputs=[new_output("stream", text="found")]),
        )
    )
    folds = page.find_all("summary", string="How this page is made")
    assert len(folds) == 1
    inside = folds[0].parent.get_text()
    assert all(text in inside for text in ("Parameters.", "size = 1", "read"))
    assert not any(text in inside for text in ("What this is", "The answer", "found"))


def test_streams(page):
    assert page.select_one("pre.stream").string == "epoch 1 <b>\n"
    assert page.select_one("details.messages pre").string == "UserWarning: beware\n"


def test_progress_bar_shows_its_last_state():
    stderr = [
        new_output("stream", name="stderr", text=text)
        for text in ("\r 0%", "\r 50%", "\r100%", "\n")
    ]
    messages = export_output(*stderr).select(".messages pre")
    assert [message.string for message in messages] == ["100%\n"]


def test_error_is_shown_without_escape_codes(page):
    error = page.select_one(".error")
    assert error.p.get_text() == "Stopped here: ValueError size 9 <is> larger"
    assert error.pre.get_text() == "ValueError: here\nx = 1"
    assert "\x1b" not in str(page)


def test_papermill_error_marker_keeps_its_target():
    marker = (
        '<span id="papermill-error-cell" style="color:red;">It stopped *here*</span>'
    )
    assert export_markdown(marker).find(id="papermill-error-cell").get_text() == (
        "It stopped here"
    )


def test_image_metadata(page):
    png, svg = page.find_all("img")
    assert (png["alt"], png["width"]) == ('A "curve" falls', "320")
    assert svg["alt"] == "A drawing"
    assert base64.b64decode(png["src"].split(",")[1]).startswith(b"\x89PNG")


def test_inline_drawing_has_a_name():
    drawing = "<svg viewBox='0 0 1 1'><title>Five boxes</title></svg>"
    svg = export_output(display({"text/html": drawing})).svg
    assert (svg["role"], svg["aria-label"]) == ("img", "Five boxes")


def test_markdown_image_is_embedded(tmp_path):
    (tmp_path / "dot.png").write_bytes(base64.b64decode(PNG))
    nb = notebook(new_markdown_cell("![A dot](dot.png)"))
    image = export(nb, resources={"metadata": {"path": str(tmp_path)}}).img
    assert image["alt"] == "A dot"
    assert image["src"] == f"data:image/png;base64,{PNG}"


def as_colours(src):
    data = base64.b64decode(src.removeprefix("data:image/png;base64,"))
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_figures_get_smaller_and_keep_their_colours():
    figure, axes = plt.subplots(figsize=(7, 6))
    for n in range(10):  # some of them only just to be seen
        axes.plot([n, 0], [0, n], color=f"C{n}", lw=1 / (n + 1))
    figure.savefig(out := io.BytesIO(), format="png")
    plt.close(figure)
    png = base64.b64encode(out.getvalue()).decode()
    src = export_output(display({"image/png": png})).img["src"]
    assert len(src) < 0.5 * len(png)
    off = ImageChops.difference(as_colours(src), as_colours(png)).getextrema()
    assert max(most for _, most in off) <= 16


def test_a_picture_of_too_many_colours_stays_as_it_is():
    picture = Image.effect_noise((64, 64), 80)
    picture = Image.merge("RGB", [picture, picture.rotate(90), picture.rotate(180)])
    picture.save(out := io.BytesIO(), "PNG")
    png = base64.b64encode(out.getvalue()).decode()
    src = export_output(display({"image/png": png})).img["src"]
    assert src == f"data:image/png;base64,{png}"


def test_contents(page):
    links = page.nav.find_all("a")
    assert [link.string for link in links] == [
        "Architecture & formula",
        "Detail",
        "Result",
        "Result",
        "The answer",
    ]
    targets = [page.find(id=unquote(link["href"][1:])) for link in links]
    assert [target.name for target in targets] == ["h2", "h3", "h2", "h2", "h3"]
    assert len({id(target) for target in targets}) == 5
    for link, target in zip(links, targets, strict=True):
        assert target.select_one("a.permalink")["href"] == link["href"]
    assert page.select_one("a.skip")["href"] == "#" + page.main["id"]


def test_no_contents_without_sections():
    assert export_markdown("# Title\n\nText").nav is None


def test_links_stay_relative(page):
    assert page.main.find("a", string="summary")["href"] == "index.html#The-answer"


def test_tables():
    table = export_output(
        display(
            {
                "text/html": "<style scoped>th {text-align: right}</style><table>"
                "<thead><tr><th></th><th>name</th><th>cosine</th></tr></thead>"
                "<tr><th rowspan=2>a</th><td>gru</td><td>0.41 [0.40, 0.42]</td></tr>"
                "<tr><td>lstm of 2 layers</td><td>—</td></tr></table>"
            }
        )
    ).table
    assert [head.get("scope") for head in table.find_all("th")] == [*["col"] * 3, "row"]
    numbers = [cell.get_text() for cell in table.select(".number")]
    assert numbers == ["cosine", "0.41 [0.40, 0.42]", "—"]
    assert "table" in table.parent["class"]
    assert not table.find_parent("div", class_="output").style


def test_what_counts_as_a_number():
    for text in ("0.5", "−0.01", "12,345", "1.2e-05", "8.4 M", "3 ms", "0.5 ± 0.1"):
        assert NUMBER.fullmatch(text), text
    for text in ("gru", "seed 1", "3 of the runs", "", "—"):
        assert not NUMBER.fullmatch(text), text


@pytest.mark.filterwarnings("ignore:Your element with mimetype")
def test_widgets_and_scripts_leave_no_trace():
    main = export_output(
        display(
            {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%| |"}
        ),
        display({"application/javascript": "alert(1)"}),
    ).main
    assert main.find_all(recursive=False)[-1].name == "details"
    assert "0%" not in main.get_text()
    assert "alert" not in main.get_text()


def test_command_line(report, tmp_path):
    nbformat.write(report, tmp_path / "run.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--log-level=WARN"]
    command += ["--to", "lvmlib.show.html.ReportExporter", tmp_path / "run.ipynb"]
    command += ["--output", "index.html", "--output-dir", tmp_path / "reports"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = list((tmp_path / "reports").iterdir())
    assert [file.name for file in written] == ["index.html"]
    assert "<title>One run &lt;of&gt; the study</title>" in written[0].read_text(
        "utf-8"
    )


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to look at the page with")
def test_fits_a_phone(page, tmp_path):
    """Chromium's window has a least width, so the phone is a frame of 390 px."""
    (tmp_path / "phone.html").write_text(
        f'<iframe width="390" height="800" srcdoc="{html.escape(str(page))}" onload="'
        "const root = this.contentDocument.documentElement;"
        "const box = this.contentDocument.querySelector('.table');"
        'document.title = [root.scrollWidth, box.scrollWidth].join()"></iframe>',
        encoding="utf-8",
    )
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync "
    flags += "disable-background-networking disable-component-update dump-dom"
    command = [CHROMIUM, *(f"--{flag}" for flag in flags.split())]
    command += [f"--user-data-dir={tmp_path / 'profile'}"]
    command += [(tmp_path / "phone.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    page_width, table_width = re.search(r"<title>(\d+),(\d+)", dom).groups()
    assert int(page_width) <= 390
    assert int(table_width) > 390


def test_details_are_folded_under_their_first_line():
    page = export(
        notebook(
            new_markdown_cell("# Title\n\nText."),
            new_markdown_cell(
                "All of it\n\nMore text.", metadata={"tags": ["details"]}
            ),
            new_code_cell("1"),
            new_markdown_cell("Also this", metadata={"tags": ["details"]}),
            new_code_cell("2"),
            new_markdown_cell("After."),
        )
    )
    first, second = page.find_all("details", class_="details")
    assert first.summary.text == "All of it"
    assert "More text." in first.text
    assert second.summary.text == "Also this"
    assert "More text." not in second.text
    assert not page.find(string="After.").find_parent("details")


def test_pages_are_named_and_the_one_at_hand_is_marked():
    exporter = ReportExporter(pages=[["index.html", "Answer"], ["a.html", "A"]])
    exporter.here = "a.html"
    nb = notebook(new_markdown_cell("# Title"))
    page = BeautifulSoup(exporter.from_notebook_node(nb)[0], "html.parser")
    links = page.find("nav", class_="pages").find_all("a")
    assert [link["href"] for link in links] == ["index.html", "a.html"]
    assert [link.get("aria-current") for link in links] == [None, "page"]


def test_cells_of_wide_tables_know_their_heading():
    head = "".join(f"<th>h{n}</th>" for n in range(5))
    row = "<th>r</th>" + "<td>1</td>" * 4
    html = f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"
    page = export_output(display({"text/html": html}))
    box = page.find("div", class_="stacked")
    assert box["tabindex"] == "0"
    assert [c["data-label"] for c in box.tbody.find_all(["th", "td"])] == [
        f"h{n}" for n in range(5)
    ]
    assert box.tbody.th["scope"] == "row"


def test_a_page_names_what_the_notebook_was_given_without_its_place():
    source = """# Parameters
dataset = "/big/disk/wikipedia"
run_dir = "/big/disk/wikipedia/runs/amn/seed0/"
output = "reports/out.json"
root = "/"
"""
    said = "`-p dataset /big/disk/wikipedia` of /big/disk/wikipedia-2, a/b, /, {}"
    said = said.format("http://host/big/disk/wikipedia")
    nb = notebook(
        new_code_cell(source, metadata={"tags": ["injected-parameters"]}),
        new_code_cell("1", outputs=[display({"text/markdown": said})]),
    )
    given = dict(re.findall('^(.+) = "(.+)"$', source, flags=re.MULTILINE))
    nb.metadata["papermill"] = {"parameters": given}  # as papermill leaves it
    page = export(nb)
    cell, output = page.main.pre.get_text(), page.select_one(".output").get_text()
    assert '"wikipedia"' in cell
    assert '"seed0/"' in cell
    assert '"reports/out.json"' in cell
    assert "/big" not in cell
    told = said.replace("`", "").replace("dataset /big/disk/", "dataset ")
    assert output.strip() == told  # other paths, and parts of longer ones, stay


def test_no_committed_page_or_table_names_a_folder_of_one_machine():
    reports = Path(__file__).parents[1] / "reports"
    files = [*reports.rglob("*.html"), *reports.glob("*/results.csv")]
    assert len(files) > 150
    # Not in an image's base64, where a letter, a slash or "+" stands before it.
    place = re.compile(r"(?<![\w./+])/(work|tmp|home|Users)/")
    found = [file for file in files if place.search(file.read_text("utf-8"))]
    assert not [str(file.relative_to(reports)) for file in found]
