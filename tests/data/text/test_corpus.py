"""Text files, their parts, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.errors import DataError
from neuromix.data.text import corpus
from neuromix.data.text.corpus import open_corpus, texts


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_last_bytes_are_the_test_part(tmp_path):
    parts = open_corpus(written(tmp_path / "a.txt", "a" * 90 + "b" * 4 + "c" * 6), 0.04, 0.06)
    assert {name: "".join(texts(part)) for name, part in parts.items()} == {
        "train": "a" * 90,
        "validation": "bbbb",
        "test": "cccccc",
    }


@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    at=st.integers(0, 20),
)
def test_a_cut_tears_no_character(tmp_path_factory, text, at):
    file = written(tmp_path_factory.mktemp("text") / "a.txt", text)
    parts = open_corpus(file, 0.05 * at / 2, 0.05 * at / 2)
    assert "".join("".join(texts(part)) for part in parts.values()) == text


def test_a_folder_has_a_document_a_file(tmp_path):
    written(tmp_path / "b" / "2.txt", "2222")
    written(tmp_path / "a.txt", "11111")
    written(tmp_path / "empty.txt", "")
    written(tmp_path / ".hidden", "no")
    parts = open_corpus(tmp_path, 0.0, 1 / 3)
    assert [list(texts(part)) for part in parts.values()] == [["11111", "2"], [], ["222"]]


def test_parts_that_a_folder_names_are_taken(tmp_path):
    written(tmp_path / "wiki" / "x.txt", "ignored")
    written(tmp_path / "train.txt", "t" * 100)
    written(tmp_path / "valid" / "1.txt", "vv")
    parts = open_corpus(tmp_path, 0.3, 0.1)
    assert {name: sum(d.size for d in part) for name, part in parts.items()} == {
        "train": 90,
        "validation": 2,
        "test": 10,
    }


def test_a_part_may_be_the_whole_text(tmp_path):
    parts = open_corpus(written(tmp_path / "a.txt", "all of it"), 0.0, 1.0)
    assert not parts["train"] and "".join(texts(parts["test"])) == "all of it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no text at"),
        (b"", "is empty"),
        (b"PK\x03\x04\0\0", "is no text: byte 4 is zero"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    if content is not None:
        written(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=message):
        open_corpus(tmp_path / "a.txt", 0.1, 0.1)


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no text"):
        open_corpus(tmp_path, 0.1, 0.1)


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
def test_a_byte_that_is_no_utf8_is_named(tmp_path, monkeypatch, block):
    monkeypatch.setattr(corpus, "BLOCK", block)
    file = written(tmp_path / "latin.txt", "ä ö ".encode() + "é".encode("latin-1") + b" and more")
    (document,) = open_corpus(file, 0, 0)["train"]
    with pytest.raises(DataError, match="not UTF-8: byte 6 is 0xe9"):
        list(texts([document]))


@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    block=st.integers(1, 9),
)
def test_blocks_do_not_matter(tmp_path_factory, text, block):
    file = written(tmp_path_factory.mktemp("text") / "a.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "BLOCK", block)
        assert "".join(texts(open_corpus(file, 0, 0)["train"])) == text
