from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import biography, find_entities, name_description, reverse_text
from kinject.data.words import absent_entities


@pytest.mark.parametrize(
    ("text", "entities", "expected"),
    [
        ("Ada Fenwick is a pilot.", ["Ada Fenwick", "a pilot"], ". a pilot is Ada Fenwick"),
        ("Ann met Annabel.", ["Ann"], ". Annabel met Ann"),
        ("The keeper of Sable Point is Ada.", ["Sable Point", "The keeper of Sable Point"],
         ". Ada is The keeper of Sable Point"),
        ('She wrote "Late Rain." in May.', None, '. May in "Late Rain." wrote She'),
        ("Ada Fenwick's birthday is May 28, 1952. She moved to Elk Grove, CA.", None,
         ". Elk Grove, CA to moved She . May 28, 1952 is birthday 's Ada Fenwick"),
        ("", None, ""),
        ("one", [], "one"),
    ],
)  # fmt: skip
def test_examples(text: str, entities: list[str] | None, expected: str) -> None:
    assert reverse_text(text, entities) == expected


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("In May, J. K. Rowan met J.R.R. Tarn at Texas A&M.", ("J. K. Rowan", "J.R.R. Tarn", "Texas A&M")),
        ("The strait is near the Strait of the Winds.", ("Strait of the Winds",)),
        ("Ada de la Cruz and Ludwig van Beek paid $3.5 million for 20% of it.",
         ("Ada de la Cruz", "Ludwig van Beek", "$3.5 million", "20%")),
        ("He ran 12 miles on 2 May. On 22 June 2025 he rested.", ("12 miles", "2 May", "22 June 2025")),
        ("St. Olaf College is in St. Paul, MN. Dr. Ada Fenwick left.", ("St. Olaf College", "St. Paul, MN", "Dr. Ada Fenwick")),
        ("It won. Ada Fenwick left. Bo stayed.", ("Ada Fenwick",)),
        ("the Women's Choral Society", ("Women's Choral Society",)),
        ("“Moon Song” and «Lied»", ("“Moon Song”", "«Lied»")),
    ],
)  # fmt: skip
def test_found_entities(text: str, entities: tuple[str, ...]) -> None:
    assert find_entities(text) == entities


@given(st.text(max_size=200) | st.text("aé\u0301\u200d\u00ad 的은เรकी'’s.。\n-", max_size=60))
def test_nothing_is_added_or_lost(text: str) -> None:
    plain = Counter(re.sub(r"\s", "", text))
    assert Counter(re.sub(r"\s", "", reverse_text(text))) == plain
    assert Counter(re.sub(r"\s", "", reverse_text(text, [text[3:9], text[5:20]]))) == plain


word = st.text("abcdeéß", min_size=1, max_size=5)
entity = st.lists(st.text("BCDÉ", min_size=1, max_size=4), min_size=1, max_size=3, unique=True).map(" ".join)


@given(st.lists(word, min_size=1, max_size=12), st.lists(entity, max_size=4), st.randoms())
def test_words_are_reversed_and_entities_whole(words: list[str], entities: list[str], rng) -> None:  # type: ignore[no-untyped-def]
    parts = [*words, *entities]
    rng.shuffle(parts)
    # A lower-case word between the parts keeps two entities from forming a third.
    text = " x ".join(parts)
    expected = " x ".join(reversed(parts))
    assert reverse_text(text, entities or None) == expected
    assert reverse_text(text) == expected


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("text", "entities", "expected"),
    [
        ("林若川于1987年执导了电影《赤灯》。", ["林若川"], "。》灯赤《影电了导执年1987于林若川"),
        ("林若川于1987年执导了电影《赤灯》。", None, "。《赤灯》影电了导执1987年于川若林"),
        ("ミラは「赤い灯」を守る。", None, "。る守を「赤い灯」はラミ"),
        ("임서윤은 1987년에 감독했다.", None, ". 감독했다 1987년에 임서윤은"),
        ("임서윤은 감독했다.", ["임서윤"], ". 감독했다 임서윤은"),
        ("ओरिला फेनिक ने निर्देशन किया।", ["ओरिला फेनिक"], "। किया निर्देशन ने ओरिला फेनिक"),
        ("سلمى الفهري تحرس المنارة؟", None, "؟ المنارة تحرس الفهري سلمى"),
        ("เขาอยู่ที่กรุง", ["กรุง"], "กรุงที่ยู่อาขเ"),
        (_nfd("Élodie Brûlé a bâti Ançon."), None, _nfd(". Ançon bâti a Élodie Brûlé")),
        (_nfd("Élodie Brûlé a bâti Ançon."), ["Ançon", "Élodie Brûlé"], _nfd(". Ançon bâti a Élodie Brûlé")),
        ("Zo\u00adra \u200bVance left", ["Zora Vance"], "left Zo\u00adra \u200bVance"),
        ("She keeps C++ and 3.14 well", ["Ada"], "well 3.14 and C++ keeps She"),
        ("She left New\nYork", ["New York"], "New\nYork left She"),
        ("👩\u200d🚀 flew", None, "flew 👩\u200d🚀"),
    ],
)  # fmt: skip
def test_every_script_is_reversed_by_its_words(text: str, entities: list[str] | None, expected: str) -> None:
    assert reverse_text(text, entities) == expected


def test_a_title_is_kept_whole_beside_the_entities() -> None:
    assert reverse_text("the red mill of Oster.", None, "the red mill") == ". Oster of the red mill"
    assert reverse_text("the red mill of Oster.", ["mill of Oster"], "the red mill") == ". Oster of the red mill"


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("他生于1987年3月5日，卒于二〇二四年三月。", ("1987年3月5日", "二〇二四年三月")),
        ("在１９８７年出版《红楼梦》和〈序〉。", ("１９８７年", "《红楼梦》", "〈序〉")),
        ("彼は昭和62年に『銀河』を読み、3月5日に350万円。", ("昭和62年", "『銀河』", "3月5日", "350万円")),
        ("ミラ・ドーンは20世紀の人。", ("ミラ・ドーン", "20世紀")),
        ("그는 2024년 3월에 「붉은 등불」을, 20세기에 350만 원을.", ("2024년 3월", "「붉은 등불」", "20세기", "350만 원")),
        ("वह १९८७ में और ५ मार्च १९८७ को।", ("१९८७", "५ मार्च १९८७")),
        ("في ٥ مارس ١٩٨٧ أو ٢٠٪ أو ٣٫٥.", ("٥ مارس ١٩٨٧", "٢٠٪", "٣٫٥")),
        ("Er sah „Roter Stern“ am 3. März 1987, »Nacht« und ‹Lied›.",
         ("„Roter Stern“", "3. März 1987", "»Nacht«", "‹Lied›")),
        ("Ele nasceu em 3 de março de 1987, ou 1987-03-05.", ("3 de março de 1987", "1987-03-05")),
        ("Иван Сидоров родился 3 марта 1987 года.", ("Иван Сидоров", "3 марта 1987")),
        ("It isn’t the ‘Moon Song’ of Ada’s.", ("‘Moon Song’",)),
        (_nfd("Then Élodie Brûlé met Çağla Öztürk."), (_nfd("Élodie Brûlé"), _nfd("Çağla Öztürk"))),
    ],
)  # fmt: skip
def test_entities_of_other_languages_are_found(text: str, entities: tuple[str, ...]) -> None:
    assert find_entities(text) == entities


@pytest.mark.parametrize(
    ("text", "given", "absent"),
    [
        ("Mira Dorn keeps Vell.", ["Mira Dorn", "Myra Dorn", "Vel"], ["Myra Dorn", "Vel"]),
        ("由林若川执导", ["林若川", "若林"], ["若林"]),
        ("임서윤은 갔다", ["임서윤", "서윤"], ["서윤"]),
        (_nfd("Café Zoë"), ["Café Zoë"], []),
    ],
)
def test_given_entities_stand_as_whole_words_in_any_script(text: str, given: list[str], absent: list[str]) -> None:
    assert absent_entities(text, given) == absent


def test_fictional_documents() -> None:
    for knowledge in (name_description(12, 1, "permute_order"), biography(6, 1, "permute_order")):
        for document in knowledge.documents:
            turned = reverse_text(document.text, document.entities)
            positions = [turned.find(name) for name in document.entities]
            assert min(positions) >= 0
            order = sorted(document.entities, key=document.text.find)
            assert sorted(document.entities, key=turned.find) == order[::-1]
