from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from artstore.catalog.words import MAX_WORD_CHARS, grams_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Договор_2024-05.v2.pdf", ["договор", "2024", "05", "v2", "pdf"]),
        ("№17 (копия)", ["17", "копия"]),
        ("Ёлка, ёж", ["елка", "еж"]),
        ("ЙОД и Май", ["йод", "и", "май"]),
        ("Café STRAßE", ["cafe", "strasse"]),
        ("테스트", ["테스트"]),
        ("a" * 100, ["a" * MAX_WORD_CHARS]),
        (" _-!\u202e\ufeff", []),
    ],
)
def test_text_is_split_into_folded_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=30))
def test_words_are_the_same_in_any_normal_form_and_only_letters_and_digits(text: str) -> None:
    words = words_of(text)
    assert all(word.isalnum() for word in words)
    assert words == words_of(unicodedata.normalize("NFC", text)) == words_of(unicodedata.normalize("NFD", text))


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=10))
def test_a_name_has_all_trigrams_of_its_parts_in_any_case(before: str, part: str, after: str) -> None:
    assume(not any(0xD800 <= ord(char) < 0xE000 for char in before + part + after))
    grams = grams_of(before + part + after)
    assert set(grams_of(part)) <= set(grams)
    assert all(-(2**31) <= gram < 2**31 for gram in grams)
    assert set(grams_of("Договор".upper())) == set(grams_of("договор"))
    assert set(grams_of("ΟΔΟΣ")) <= set(grams_of("ΟΔΟΣΑ"))  # a sigma in lower case depends on what follows it
    assert len(grams_of("İİİİ")) == 1  # its lower case has two characters
