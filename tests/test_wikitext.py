from __future__ import annotations

import bz2
import io
import re
import sys
from importlib import metadata
from xml.etree.ElementTree import ParseError

import pytest

from lvmlib.corpus.text import chunk, read_articles
from lvmlib.corpus.wikitext import prose, read_dump

DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@pytest.fixture(scope="module")
def dump():
    """Return the shortened English Wikipedia dump that the gensim wheel ships."""
    try:
        files = metadata.files("gensim")
    except metadata.PackageNotFoundError:
        if sys.version_info < (3, 14):
            raise
        pytest.skip("gensim has no wheel for this Python yet")
    return next(file.locate() for file in files if file.name == DUMP)


@pytest.fixture(scope="module")
def articles(dump):
    return list(read_articles(dump))


def page(title, text, number=1, inside=""):
    return (
        f"<page><title>{title}</title><id>{number}</id>{inside}<revision><id>9</id>"
        f"<text>{text}</text></revision></page>"
    )


def pages_of(*pages, head=""):
    xml = f'<mediawiki xmlns="http://x/">{head}{"".join(pages)}</mediawiki>'
    return list(read_dump(io.BytesIO(xml.encode())))


def test_real_dump_has_its_articles_and_only_those(articles):
    titles = {article.document_id: article.title for article in articles}
    assert len(articles) == len(titles) == 106
    assert titles["12"] == "Anarchism"
    assert titles["25"] == "Autism"
    assert "AccessibleComputing" not in titles.values()  # a redirect
    assert not [title for title in titles.values() if title.startswith("Wikipedia:")]


def test_real_dump_leaves_prose_without_markup(articles):
    markup = re.compile(
        r"\[\[|\]\]|\{\{|\}\}|</?(ref|div|span|br|math)|''|\{\||^[*#|=]|={3}|https?://"
        r"|\b(File|Image|Category):|&[a-z]+;|__|thumb\||\x00"
    )
    paragraphs = [(a.title, p) for a in articles for p in a.paragraphs]
    assert [p for p in paragraphs if markup.search(p[1])] == []
    assert [p for p in paragraphs if "\n" in p[1] or "  " in p[1]] == []
    autism = next(a for a in articles if a.title == "Autism")
    assert autism.paragraphs[0].startswith(
        "Autism is a neurodevelopmental disorder characterized by impaired social "
        "interaction, verbal and non-verbal communication, and restricted and "
    )
    headings = {"Characteristics", "Social development", "References"}
    assert not headings & set(autism.paragraphs)


def test_real_dump_gives_chunks_of_210_characters_on_average(articles):
    lengths = [len(text) for a in articles for text in chunk(a.paragraphs)]
    assert 0.95 * 210 < sum(lengths) / len(lengths) < 1.05 * 210
    assert 11_500 < len(lengths) < 12_700


def test_redirects_and_other_namespaces_are_passed_over():
    found = pages_of(
        page("Kept", "Some words.", 1, "<ns>0</ns>"),
        page("Old schema", "Others.", 2),
        page("Moved", "#REDIRECT [[Kept]]", 3, '<ns>0</ns><redirect title="Kept"/>'),
        page("Talk:Kept", "A remark.", 4, "<ns>1</ns>"),
    )
    assert found == [("1", "Kept", "Some words."), ("2", "Old schema", "Others.")]


def test_last_revision_counts_and_a_page_may_be_without_text():
    twice = (
        "<page><title>T</title><id>7</id><revision><text>Old.</text></revision>"
        "<revision><text>New.</text></revision></page>"
    )
    bare = "<page><title>Bare</title><id>8</id><revision><text/></revision></page>"
    lost = "<page><title>Lost</title><id>9</id></page>"
    assert pages_of(twice, bare, lost) == [
        ("7", "T", "New."),
        ("8", "Bare", ""),
        ("9", "Lost", ""),
    ]


def test_names_of_namespaces_are_the_dumps_own():
    text = "Vor [[Datei:Bild.jpg|mini|Ein Bild]] dem Satz. [[Kategorie:Dinge]]"
    head = (
        '<siteinfo><namespaces><namespace key="6">Datei</namespace>'
        '<namespace key="14">Kategorie</namespace></namespaces></siteinfo>'
    )
    assert pages_of(page("T", text), head=head) == [("1", "T", "Vor dem Satz.")]
    assert "Ein Bild" in pages_of(page("T", text))[0][2]


def test_xml_that_is_cut_or_broken_raises():
    with pytest.raises(ParseError):
        list(read_dump(io.BytesIO(b"<mediawiki><page><title>Half")))
    with pytest.raises(ParseError):
        list(read_dump(io.BytesIO(b"<mediawiki><page></title></mediawiki>")))
    with pytest.raises(ParseError):
        list(read_dump(io.BytesIO(b"")))


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''slanted'' [[link|words]].", "Bold and slanted words."),
        ("A [[plain]] link, [[:Category:Things]].", "A plain link, Category:Things."),
        ("See [http://x.org the site] or [http://y.org].", "See the site or."),
        ("One&nbsp;&mdash; two &amp; three.", "One — two & three."),
        ("A fact.<ref name=x>Page {{p|3}}</ref> Next.<ref name=x />", "A fact. Next."),
        ("Before {{cite|a=[[b]]|c={{d}}}} after<!-- not this -->.", "Before after."),
        ("H<sub>2</sub>O and <nowiki>[[this]]</nowiki>", "H2O and this"),
        ("Born (from {{lang|el|x}}; in 1880) or {{x}}, late ({{y}}).",
         "Born (from; in 1880) or, late."),
        ("The area ({{convert|3|km}}, say) is <math>x^2</math> wide.",
         "The area (say) is wide."),
        ("First line\nwrapped.\n\nSecond.", "First line wrapped.\nSecond."),
        ("One.\n== Heading ==\nTwo.\n=== Deeper ===\nThree.", "One.\nTwo.\nThree."),
        ("Lead:\n* [[item]] one\n** deep\n# two\n; term : is\nEnd.", "Lead:\nEnd."),
        ("Top.\n{| class=x\n! head\n|-\n| cell || [[cell]]\n|}\nEnd.", "Top.\nEnd."),
        ("[[File:a.jpg|thumb|A [[nested]] caption]]\nText. [[Category:X|y]]", "Text."),
        ("Text.<gallery>\nFile:a.jpg|b\n</gallery>", "Text."),
        ("<blockquote>Said.</blockquote>Then.", "Said.\nThen."),
        ("Line<br />break. __NOTOC__ [[de:Wort]]", "Line break."),
        ("{{Infobox\n| a = ''unbalanced\n| b = c\n}}\nProse.", "Prose."),
    ],
)  # fmt: skip
def test_prose(wikitext, expected):
    assert prose(wikitext).strip() == expected


def test_truncated_dump_names_the_file(dump, tmp_path):
    cut = tmp_path / "cut.xml.bz2"
    cut.write_bytes(dump.read_bytes()[:600_000])
    read = read_articles(cut)
    assert next(read).title == "Anarchism"  # what is whole comes first
    with pytest.raises(ValueError, match=r"cut\.xml\.bz2 is truncated.*fetch it again"):
        list(read)


def test_dump_is_known_by_its_beginning(tmp_path):
    part = tmp_path / "wiki.xml-p1p2.bz2"
    xml = f"<mediawiki>{page('T', 'A sentence.')}</mediawiki>"
    part.write_bytes(bz2.compress(xml.encode()))
    assert [a.paragraphs for a in read_articles(part)] == [("A sentence.",)]
