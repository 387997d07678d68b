"""Documents as seeds: their places hold to the character, whatever is in them."""

from __future__ import annotations

import zipfile
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from kdaug.attributes import Attributes
from kdaug.documents import Chunks, Snippets, about, foreign_numbers, is_quoted, pieces, support
from kdaug.errors import ConfigError
from kdaug.gates.injection import Injection
from kdaug.generators.pass_through import Pass
from kdaug.read import read
from kdaug.recipe import Recipe
from kdaug.record import Record, text_of, user
from kdaug.running import run
from kdaug.source import Each, GrowingPool, jobs_of
from kdaug.stage import Stage

PARAGRAPHS = "\n\n".join(f"Paragraph {n} says this. It says a little more, too." for n in range(40))


def drawn(source: Chunks | Snippets | Attributes, rng: int = 0) -> list[Record]:
    live, random = source.start(), Random(rng)
    return [parents[0] for parents in iter(lambda: live.draw(random), None)]


def test_a_folder_of_documents_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.md").write_text("---\nlicence: CC0-1.0\n---\n# A\n\nText.", "utf-8")
    (tmp_path / "b" / "c.py").write_text("x = 1\n", "utf-8")
    (tmp_path / "d.txt").write_text(" \n", "utf-8")
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    seeds = read(tmp_path)
    assert [text_of(s.prompt) for s in seeds] == ["# A\n\nText.", "x = 1\n"]
    assert about(seeds[0]) == {"file": "a.md", "licence": "CC0-1.0", "start": 25, "end": 35}
    assert about(seeds[1]) == {"file": "b/c.py", "language": "python", "start": 0, "end": 6}
    empty = f"1 of 3 documents left out: {tmp_path / 'd.txt'}: it has no text"
    assert seeds.notes == ("files not read: .png", empty) and seeds.shape == "documents"
    assert text_of(read(tmp_path / "b" / "c.py")[0].prompt) == "x = 1\n"


def test_the_place_of_a_piece_is_its_place_in_the_file(tmp_path: Path) -> None:
    text = f"---\nlicense: MIT\n---\n{PARAGRAPHS}\n\n# Heading\n\n{PARAGRAPHS}\n"
    (tmp_path / "a.md").write_text(text, "utf-8")
    seeds = read(tmp_path)
    found = drawn(Chunks(seeds, size=500, least=100))
    for piece in found:
        said = about(piece)
        assert text[said["start"] : said["end"]] == text_of(piece.prompt) and said["licence"] == "MIT"
        assert piece.roots == piece.parents == (seeds[0].id,) and 100 <= len(text_of(piece.prompt)) <= 500
    assert any(text_of(piece.prompt).startswith("# Heading") for piece in found)
    assert " ".join(text_of(p.prompt) for p in found).split() == text.split("---\n", 2)[2].split()


def test_a_piece_may_come_with_others_of_its_own_side_of_the_hold_out() -> None:
    documents = [Record(prompt=user(f"# {n}\n\n" + "\n\n".join(f"{n}.{i} " * 30 for i in range(6)))) for n in range(6)]
    documents.append(Record(prompt=user(text_of(documents[0].prompt) + "\n\nMore.")))  # says much that stood before
    held = {documents[1].id, documents[2].id}
    live, rng = Chunks(documents, size=200, least=50, others=3).start(held), Random(0)
    draws = list(iter(lambda: live.draw(rng), None))
    assert len({piece.id for piece, *_ in draws}) == len(draws) > 30
    for piece, *others in draws:
        assert len({text_of(one.prompt) for one in (piece, *others)}) == 4
        assert {one.roots[0] in held for one in others} == {piece.roots[0] in held}
    with pytest.raises(ConfigError, match="others"):
        Chunks([], others=-1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n ",
        "short",
        "x" * 10_000,
        "word " * 5_000,
        "\n" * 3_000 + "a",
        "نص " * 900,
        "# A\n" * 700,
        "a\0b" * 999,
    ],
)
def test_pieces_of_any_text_are_within_bounds_in_order_and_lose_nothing(text: str) -> None:
    spans = pieces(text, 700, 100)
    assert all(0 < end - start <= 700 for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())


def test_a_line_of_a_megabyte_and_nul_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b {{ 7 * 7 }} " * 70_000)
    (seed,) = read(tmp_path)
    found = drawn(Chunks([seed], size=2000))
    assert len(found) > 500 and text_of(found[0].prompt).startswith("a\0b {{ 7 * 7 }}")
    assert Injection().found(found[0])["control"] == "\\x00"  # what a seed of a JSONL file is flagged for, too


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xff")
    for source in (tmp_path / "a.txt", tmp_path):  # alone, and in a folder that has no other
        with pytest.raises(ConfigError, match=r"a\.txt:2: byte 0xff is no UTF-8"):
            read(source)
    with pytest.raises(ConfigError, match="least"):
        Chunks([], size=10, least=10)


def test_a_folder_goes_on_without_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_text("Whole.", "utf-8")
    (tmp_path / "c.txt").write_text("Whole too.", "utf-8")
    seeds = read(tmp_path)
    assert [text_of(seed.prompt) for seed in seeds] == ["Whole.", "Whole too."]
    assert "1 of 3 documents left out" in str(seeds) and "a.txt:1: byte 0xff is no UTF-8" in str(seeds)


def test_every_document_that_is_left_out_is_named_in_the_log(tmp_path: Path) -> None:
    folder, out = tmp_path / "docs", tmp_path / "run"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.txt").write_bytes(b"ok\n\xff")
    for name, text in (
        ("empty.md", ""),
        ("space.txt", " \n\t"),
        ("front.md", "---\ntitle: x\n---\n"),
        ("z.txt", "Whole."),
    ):
        (folder / name).write_text(text, "utf-8")
    seeds = read(folder)
    assert "7 of 8 documents left out: " in str(seeds) and "log.txt" in str(seeds)
    run(Recipe(Each(seeds), [Stage(Pass())]), out, quiet=True)
    told = [
        line.partition("left out: ")[2]
        for line in (out / "log.txt").read_text("utf-8").splitlines()
        if " left out: " in line
    ]
    named = [Path(line.partition(": ")[0]).name for line in told if ": " in line and "; " not in line]
    assert named == ["a.txt:2", "b.txt:2", "c.txt:2", "d.txt:2", "empty.md", "front.md", "space.txt"]
    assert told[-1].endswith("space.txt: it has no text")


def test_a_page_of_a_pdf_begins_a_piece() -> None:
    page = "A line of a page.\n\n" * 30
    text = f"{page}\n\n\fChapter 2\n\n{page * 6}"
    found = [text[a:b] for a, b in pieces(text, 700, 200)]
    assert found[0] == page.strip() and found[1].startswith("Chapter 2\n\nA line")
    slides = "\f".join(f"Slide {n}. " + "Words. " * 5 for n in range(40))
    assert all(piece.startswith("Slide") for piece in (slides[a:b] for a, b in pieces(slides, 700, 200)))


def test_a_source_knows_how_many_pieces_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A line of words.\n\n" * 5_000, "utf-8")
    chunks = Chunks(read(tmp_path), size=2000)
    assert jobs_of(chunks) == len(drawn(chunks)) > 30
    attributes = Attributes([Record(prompt=user("a"))] * 2, {"level": ["low", "high", "none"]})
    assert jobs_of(attributes) == len(drawn(attributes)) == 6
    assert jobs_of(Each(read(tmp_path))) == 1 and jobs_of(GrowingPool(read(tmp_path))) is None


def test_a_snippet_is_1_to_15_lines_in_a_row_of_each_file() -> None:
    code = "\n".join(f"line {n}" for n in range(100))
    files = [
        Record(prompt=user(f"{code}\n# {n}"), meta={"document": {"file": f"{n}", "language": language, "start": 0}})
        for n, language in enumerate(["python"] * 60 + ["shell"] * 30)
    ]
    found = drawn(Snippets(files))
    assert len(found) == 90 and len({piece.roots for piece in found}) == 90
    lengths = {len(text_of(piece.prompt).splitlines()) for piece in found}
    assert min(lengths) == 1 and max(lengths) == 15
    for piece, file in zip(found, files, strict=True):
        whole, said = text_of(file.prompt), about(piece)
        assert whole[said["start"] : said["end"]] == text_of(piece.prompt)
        assert said["start"] == 0 or whole[said["start"] - 1] == "\n"
    assert len({about(piece)["start"] for piece in found}) > 30  # not the file's head
    quota = drawn(Snippets(files, quotas={"shell": 5}))
    assert [about(piece)["language"] for piece in quota] == ["shell"] * 5
    assert [p.id for p in drawn(Snippets(files), 7)] == [p.id for p in drawn(Snippets(files), 7)]


def test_what_code_can_hold_against_a_document() -> None:
    text = "The rent is 840 a month, due on the third working day; 1,680 is the deposit."
    assert is_quoted("due on the THIRD working day", text) and not is_quoted("due on the day", text)
    assert not is_quoted("840 a", text)  # too short to prove anything
    assert foreign_numbers("840, or 1680 in all", text) == [] and foreign_numbers("It is 841.", text) == ["841"]
    assert support("The deposit is due", text) == 1.0 and support("Elephants are heavy", text) == 0.0


@pytest.mark.slow
def test_html_and_word_files_come_by_markitdown(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><h1>Title</h1><p>One <b>two</b>.</p></body></html>", "utf-8")
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4 nothing of the kind")
    with pytest.raises(ConfigError, match=r"c\.pdf: no \.pdf file that can be read"):
        read(tmp_path / "c.pdf")
    assert "c.pdf: no .pdf file that can be read" in str(read(tmp_path))
    (tmp_path / "c.pdf").unlink()
    schemas, package = "http://schemas.openxmlformats.org", "http://schemas.openxmlformats.org/package/2006"
    word = f"{schemas}/wordprocessingml/2006/main"
    body = f'<w:document xmlns:w="{word}"><w:body><w:p><w:r><w:t>Hello there.</w:t></w:r></w:p></w:body></w:document>'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    types = f'<Override PartName="/word/document.xml" ContentType="{kind}"/>'
    types = f'<Types xmlns="{package}/content-types">{types}</Types>'
    office = f"{schemas}/officeDocument/2006/relationships/officeDocument"
    relations = f'<Relationship Id="r1" Type="{office}" Target="word/document.xml"/>'
    relations = f'<Relationships xmlns="{package}/relationships">{relations}</Relationships>'
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", relations)
        archive.writestr("word/document.xml", body)
    one, two = read(tmp_path)
    assert text_of(one.prompt).startswith("# Title") and "One **two**." in text_of(one.prompt)
    assert "Hello there." in text_of(two.prompt) and about(two)["file"] == "b.docx"
