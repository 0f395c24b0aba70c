"""Bytes, characters and subwords: text to tokens and back."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from neuromix.data.text.tokeniser import open_tokeniser
from tests.data.text.subwords import write_bpe, write_word_level

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def characters(text):
    return open_tokeniser(Spec("characters")).fitted(lambda: [text])


@given(TEXT)
def test_bytes_come_back(text):
    tokeniser = open_tokeniser(Spec("bytes"))
    ids = tokeniser.encode(text)
    assert ids.tolist() == list(text.encode()) and tokeniser.decode(ids.tolist()) == text


@given(TEXT.filter(bool))
def test_characters_come_back(text):
    tokeniser = characters(text)
    ids = tokeniser.encode(text).tolist()
    assert tokeniser.decode(ids) == text
    assert tokeniser.vocab_size == 1 + len(set(text)) and min(ids) > 0 and max(ids) < tokeniser.vocab_size


def test_an_alphabet_is_in_order_and_kept():
    tokeniser = characters("bcab")
    assert tokeniser.encode("abc").tolist() == [1, 2, 3]
    again = open_tokeniser(Spec.of(json.loads(json.dumps(list(tokeniser.spec)))))
    assert again.fitted(lambda: ["other text"]).encode("cab").tolist() == [3, 1, 2]


def test_an_unknown_character_is_token_0():
    tokeniser = characters("abc")
    ids = tokeniser.encode("aéb✓")
    assert ids.tolist() == [1, 0, 2, 0] and tokeniser.count_unknown(ids) == 2
    assert tokeniser.decode([1, 0]) == "a\ufffd"
    with pytest.raises(DataError, match="character 'é' of the prompt, at position 1, is not one of the 3"):
        tokeniser.encode_prompt("aéb")


def test_an_alphabet_needs_text():
    with pytest.raises(DataError, match="training part, which is empty"):
        open_tokeniser(Spec("characters")).fitted(list)
    with pytest.raises(ConfigError, match="ascend"):
        open_tokeniser(Spec("characters", {"alphabet": "ba"}))


def test_bytes_of_a_character_are_told_together():
    push = open_tokeniser(Spec("bytes")).decoder()
    assert [push(byte) for byte in "é✓".encode()] == ["", "é", "", "", "✓"]
    assert push(0xC3) == "" and push(None) == "\ufffd"


def test_an_argument_that_is_no_utf8_is_its_bytes():
    assert open_tokeniser(Spec("bytes")).encode_prompt("a\udcff") == [97, 255]


@pytest.mark.parametrize("name", ["bytes", "characters"])
def test_an_empty_prompt_is_refused(name):
    with pytest.raises(DataError, match="the prompt is empty"):
        open_tokeniser(Spec(name)).encode_prompt("")


def test_an_unknown_tokeniser_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean bytes"):
        open_tokeniser(Spec("byte"))


def test_subwords_are_kept_without_their_file(tmp_path):
    file = write_bpe(tmp_path)
    tokeniser = open_tokeniser(Spec(str(file)))
    text = "the cat sat, thé ✓"
    ids = tokeniser.encode(text).tolist()
    assert len(ids) < len(text.encode()) and tokeniser.decode(ids) == text
    spec = Spec.of(json.loads(json.dumps(list(tokeniser.spec))))
    file.unlink()
    assert open_tokeniser(spec).encode(text).tolist() == ids


@given(TEXT)
def test_subwords_are_told_as_they_come(tmp_path_factory, text):
    tokeniser = open_tokeniser(Spec(str(write_bpe(tmp_path_factory.mktemp("bpe")))))
    ids, push = tokeniser.encode(text).tolist(), tokeniser.decoder()
    assert "".join([*map(push, ids), push(None)]) == text == tokeniser.decode(ids)


def test_an_unknown_word_of_a_prompt_is_named(tmp_path):
    tokeniser = open_tokeniser(Spec(str(write_word_level(tmp_path))))
    assert tokeniser.vocab_size == 8  # numbers that are left out count
    assert tokeniser.count_unknown(tokeniser.encode("the dog")) == 1
    with pytest.raises(DataError, match=r"'dog' of the prompt, at position 4, is not in the vocabulary"):
        tokeniser.encode_prompt("the dog")
    with pytest.raises(DataError, match="has no tokens"):
        tokeniser.encode_prompt(" ")


def test_a_file_that_is_no_tokeniser_is_refused(tmp_path):
    with pytest.raises(DataError, match="no tokeniser file at"):
        open_tokeniser(Spec(str(tmp_path / "none.json")))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="holds no tokeniser"):
        open_tokeniser(Spec(str(tmp_path / "bad.json")))
    with pytest.raises(ConfigError, match="needs a file"):
        open_tokeniser(Spec("tokenizers"))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    file = write_bpe(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"neuromix\[text\]"):
        open_tokeniser(Spec(str(file)))
