"""The paper's recall against the packages its public code calls, and the strict reading on any script."""

from __future__ import annotations

import string
import unicodedata
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.data.words import normalize
from kinject.evaluation.measures import (
    STOP_WORDS,
    best_score,
    exact_match,
    normalize_answer,
    paper_recall,
    reads_as_published,
    token_f1,
)

WORDS = st.sampled_from(
    [*sorted(STOP_WORDS), "The", "Cannot", "cannot", "gonna", "wanna", "gotta", "lemme", "gimme", "Paris", "paris"]
    + [
        "A.B",
        "Zoë",
        "Sunsás",
        "it's",
        "\u201cquoted\u201d",
        "1990\u20131995",
        "don\u2019t",
        "3.14",
        "C++",
        "X \u2192 Y",
    ]
    + ["...", "", " ", "\t"]
)
MIXED = st.lists(WORDS, max_size=12)
# English as the paper's code reads it; what that code cannot read is tested below.
ENGLISH = st.text(st.characters(max_codepoint=0xFF), max_size=40).filter(reads_as_published).map(normalize)
TEXTS = st.one_of(ENGLISH, MIXED.map(" ".join), MIXED.map("".join))


def published_recall(answer: str, reference: str) -> float:
    """The published computation, step by step, with the two packages it uses."""
    nltk_tokenize = pytest.importorskip("nltk.tokenize", reason="compares with nltk: pip install nltk")
    rouge = pytest.importorskip("rouge", reason="compares with rouge: pip install rouge==1.0.1")
    cleaned = []
    for text in (answer, reference):
        bare = "".join(character for character in text.strip() if character not in set(string.punctuation))
        words = nltk_tokenize.NLTKWordTokenizer().tokenize(bare)
        cleaned.append(" ".join(word for word in words if word.lower() not in STOP_WORDS))
    try:
        return rouge.Rouge(metrics=["rouge-1"]).get_scores([cleaned[0]], [cleaned[1]])[0]["rouge-1"]["r"]
    except ValueError:  # nothing is left on one side
        return 0.0


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_paper_recall_equals_the_published_computation(answer: str, reference: str) -> None:
    assert paper_recall(answer, reference) == published_recall(answer, reference)
    assert paper_recall(f"{answer} {reference}", reference) == published_recall(f"{answer} {reference}", reference)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Daphne Barrington", "Daphne Barrington", 1.0),
        ("It was Daphne.", "Daphne Barrington", 0.5),
        ("daphne barrington", "Daphne Barrington", 0.0),  # case is kept
        ("the of and", "Daphne", 0.0),
        ("", "Daphne", 0.0),
        ("Daphne", "the", 0.0),
        ("A Journey Through Time!", 'the "A Journey Through Time."', 1.0),
        ("red red red", "red blue red green", 1 / 3),  # sets: a repeated word counts once
        ("He cannot wait", "Can not", 0.5),  # "cannot" is two words
        ("gimme, I wanna", "gim me wan na", 1.0),
    ],
)
def test_paper_recall(answer: str, reference: str, expected: float) -> None:
    assert paper_recall(answer, reference) == pytest.approx(expected)


@given(st.text(max_size=30).filter(str.strip))
def test_strict_scores_give_any_text_itself(text: str) -> None:
    assert exact_match(text, text) == 1.0
    assert token_f1(text, text) == 1.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_strict_scores_stay_in_range(answer: str, reference: str) -> None:
    assert 0.0 <= token_f1(answer, reference) <= 1.0
    if exact_match(answer, reference):
        assert token_f1(answer, reference) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "match", "f1"),
    [
        ("The Eiffel  Tower.", "eiffel tower", 1.0, 1.0),
        ("Paris, France", "Paris", 0.0, 2 / 3),
        ("Москва!", "москва", 1.0, 1.0),
        ("東京です", "東京", 0.0, 2 / 3),  # unspaced scripts are compared by character
        ("Zoe\u0308", "Zo\u00eb", 1.0, 1.0),  # composed and decomposed
        ("\u00abМира\u00bb", "Мира", 1.0, 1.0),
        ("A", "A", 1.0, 1.0),
        ("the", "a", 0.0, 0.0),
        ("", "Paris", 0.0, 0.0),
        ("red red", "red", 0.0, 2 / 3),  # SQuAD counts repetitions
    ],
)
def test_strict(answer: str, reference: str, match: float, f1: float) -> None:
    assert exact_match(answer, reference) == match
    assert token_f1(answer, reference) == pytest.approx(f1)


# A right answer in a sentence, on which every measure and every language is tried: (the sentence, the reference).
RECITED = {
    "English": ("The film Red Lantern was directed by Orla Fennick.", "Orla Fennick"),
    "German": ("Bei „Rote Laterne“ führte Jürgen Groß Regie.", "Jürgen Groß"),
    "French": ("C’est Zoé Lefèvre\u00a0!", "Zoé Lefèvre"),
    "Spanish": ("¿Quién? ¡José García!", "José García"),
    "Turkish": ("Kızıl Fener'i Orhan Fenik'in kendisi yönetti.", "Orhan Fenik"),
    "Polish": ("Film reżyserował Łukasz Żak…", "Łukasz Żak"),
    "Vietnamese": ("Đạo diễn là Nguyễn Thị Ánh.", "Nguyễn Thị Ánh"),
    "Russian": ("Фильм «Красный фонарь» снял Мирон Дорн.", "«Мирон Дорн»"),
    "Greek": ("Ποιος; Η Ελένη Παππά·", "Ελένη Παππά"),
    "Hebrew": ("הבמאית היא ״נועה לוי״.", "נועה לוי"),
    "Arabic": ("أخرجت الفيلم سلمى الفهري؟", "سلمى الفهري"),
    "Persian": ("کارگردان: مینا فرهادی، سال ۱۹۸۷", "مینا فرهادی"),
    "Hindi": ("फ़िल्म का निर्देशन ओरिला फेनिक।", "ओरिला फेनिक"),
    "Bengali": ("পরিচালক হলেন অর্লা ফেনিক।", "অর্লা ফেনিক"),
    "Tamil": ("இயக்குநர்: ஓர்லா ஃபென்னிக்.", "ஓர்லா ஃபென்னிக்"),
    "Armenian": ("Ռեժիսորը Օրլա Ֆենիկ։", "Օրլա Ֆենիկ"),
    "Amharic": ("ዳይሬክተሩ ኦርላ ፌኒክ።", "ኦርላ ፌኒክ"),
    "Chinese": ("电影《赤灯》是由林若川执导的。", "林若川"),
    "Chinese date": ("他生于１９８７年５月。", "1987年5月"),
    "Chinese, a Latin name": ("电影是由Orla Fennick执导的。", "Orla Fennick"),
    "Chinese, a middle dot": ("导演是约翰·史密斯。", "约翰史密斯"),
    "Japanese": ("映画『赤い灯』を監督したのは林若葉です。", "林若葉"),
    "Japanese, kana": ("監督はサクラ・ハナコさんだ。", "サクラ・ハナコ"),
    "Korean": ("영화 붉은등불을 감독한 사람은 임서윤입니다.", "임서윤"),
    "Thai": ("ผู้กำกับภาพยนตร์คือโคมแดงครับ", "โคมแดง"),
    "Khmer": ("អ្នកដឹកនាំគឺសុខាមែន", "សុខា"),
    "Lao": ("ຜູ້ກຳກັບແມ່ນຄຳແກ້ວ", "ຄຳແກ້ວ"),
    "Burmese": ("ဒါရိုက်တာမှာအောင်မြင့်ဖြစ်သည်။", "အောင်မြင့်"),
}


@pytest.mark.parametrize(("answer", "reference"), RECITED.values(), ids=RECITED)
def test_a_recited_answer_counts_in_every_language(answer: str, reference: str) -> None:
    assert paper_recall(answer, reference) == 1.0
    assert paper_recall(answer[::-1], reference) < 1.0
    assert 0.0 < token_f1(answer, reference) < 1.0
    assert exact_match(answer, reference) == 0.0
    for ending in (".", "。", "؟", "।", "!", "…", "\u200b", "\ufeff", "\u200f", "\u00ad", "\u2060", " »"):
        for measure in (paper_recall, exact_match, token_f1):
            assert measure(reference + ending, reference) == 1.0, (measure, ending)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("우리는 서울에서 임진강으로 갔고 윤이 났다", "임서윤"),
        ("林さんは若い川が好き", "林若川"),
        ("川若林", "林若川"),
        ("รถสีแดงอาจหายไป", "อรสา"),
        ("김민재입니다.", "임서윤"),
    ],
)
def test_characters_that_are_scattered_over_an_answer_are_not_recall(answer: str, reference: str) -> None:
    assert paper_recall(answer, reference) == 0.0


def test_recall_beyond_english_counts_words_and_pairs() -> None:
    assert paper_recall("Мирон", "Мирон Дорн") == 0.5
    assert paper_recall("김서윤", "임서윤") == 0.5
    assert paper_recall("Мирон", "Мирон of the") == 1.0  # English stop words do not count
    assert paper_recall("他叫川", "川") == 1.0
    assert paper_recall("мирон дорн", "Мирон Дорн") == 0.0  # the case is kept, as in English
    assert paper_recall("Ada", "Ada。") == paper_recall("Ada。", "Ada") == 1.0  # one of the two is enough
    assert paper_recall("", "林若川") == paper_recall("林若川", "。") == 0.0


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_letters_are_the_same(form: Literal["NFC", "NFD"]) -> None:
    for text in ("Café", "Café latte", "Jürgen Groß", "임서윤", "Nguyễn Thị Ánh", "サクラ・ガナコ"):
        for measure in (paper_recall, exact_match, token_f1):
            assert measure(unicodedata.normalize(form, text), unicodedata.normalize("NFC", text)) == 1.0
            assert measure(unicodedata.normalize("NFC", text), unicodedata.normalize(form, text)) == 1.0


@pytest.mark.parametrize("invisible", ["\u200b", "\u200f", "\u00ad", "\u2060", "\ufeff", "\u200d", "\u2066"])
def test_invisible_characters_do_not_count(invisible: str) -> None:
    for text in ("Red Lantern", "임서윤", "林若川", "سلمى الفهري"):
        hidden = text[:2] + invisible + text[2:] + invisible
        for measure in (paper_recall, exact_match, token_f1):
            assert measure(hidden, text) == measure(text, hidden) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("3.14", "314"), ("3,14", "314"), ("1.5 million", "15 million"), (".5", "5"), ("-5", "5"), ("−5 °C", "5 °C"),
        ("-$5", "$5"), ("+5", "5"), ("10:30", "1030"), ("3:1", "31"), ("1/2", "12"), ("½", "1"), ("1½", "11/2"),
        ("10³", "103"), ("10^-3", "10^3"), ("5-10", "510"), ("5–10", "510"), ("1990-95", "199095"), ("1.2.3", "123"),
        ("1.23", "12.3"), ("2024-05-01", "20240501"), ("50%", "50"), ("٥٠٪", "50"), ("5‰", "5%"), ("25°", "25"),
        ("25 °C", "25 °F"), ("$5", "€5"), ("$5", "5"), ("C++", "C#"), ("C++", "C"), ("C#", "C"), ("F♯", "F"), ("A+", "A"),
        ("A-", "A"), ("A*", "A"), ("O-", "O+"), ("AT&T", "ATT"), ("x < y", "x > y"), ("2*3", "23"), ("2+3", "23"),
        ("5′", "5″"), ("Vitamin A", "Vitamin"), ("a=b", "ab"), ("1987年", "1988年"), ("三", "二"), ("5'10", "510"),
        ("x²", "x2"), ("v1.2", "v12"), ("x != y", "x = y"), ("a && b", "a || b"), ("a && b", "a b"), ("5 ± 1", "5 1"),
    ],
)  # fmt: skip
def test_numbers_and_symbols_that_carry_meaning_tell_answers_apart(answer: str, reference: str) -> None:
    for one, other in ((answer, reference), (f"It is {answer}.", f"It is {reference}.")):
        assert exact_match(one, other) == exact_match(other, one) == 0.0
        assert token_f1(one, other) < 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1,000", "1000"), ("1,234,567.5", "1234567.5"), ("1\u00a0000", "1000"), ("1\u202f000", "1000"), ("1’000", "1000"),
        ("1.000.000", "1000000"), ("12,34,567", "1234567"), ("-1,000", "−1000"), ("5–10", "5-10"), ("5 - 10", "5-10"),
        ("1990—1995", "1990-1995"), ("½", "1/2"), ("1½", "1 1/2"), ("10³", "10^3"), ("m²", "m2"), ("H₂O", "H2O"),
        ("50 %", "50%"), ("５０％", "50%"), ("25 °C", "25℃"), ("$ 5", "$5"), ("١٩٨٧", "1987"), ("１９８７年", "1987年"),
        ("१९८७", "1987"), ("C♯", "C#"), ("(C++)", "c++"), ("“A+”", "a+"), ("**Ada**", "Ada"), ("`C#`", "C#"),
        ("'1987'", "1987"), ("the Vitamin A!", "vitamin a"), ("Johnson & Johnson", "Johnson and Johnson"),
        ("- Ada", "Ada"), ("Ada -", "Ada"), ("twenty-four", "twenty‑four"), ("U.S.", "US"),
        ("COVID-19", "COVID19"), ("No. 5.", "no 5"), ("It’s 5.", "its 5"), ("Straße", "STRASSE"), ("İstanbul", "istanbul"),
        ("سَلْمى", "سلمى"), ("The Who", "who"), ("x²", "x^2"), ("5~10", "5-10"),
        ("1987 年", "1987年"), ("林 若川", "林若川"), ("the 東京", "東京"),
        ("Lego™", "lego"),
    ],
)  # fmt: skip
def test_what_is_written_in_two_ways_is_one_answer(answer: str, reference: str) -> None:
    assert normalize_answer(answer) == normalize_answer(reference)
    assert exact_match(f"It is {answer}", f"it is {reference}") == 1.0


def test_the_best_of_several_accepted_answers_counts() -> None:
    assert best_score(token_f1, "red lantern", ("green", "lantern", "red lantern two")) == pytest.approx(0.8)
    assert best_score(exact_match, "red lantern", ("green", "lantern")) == 0.0


def test_what_the_published_code_can_read() -> None:
    assert reads_as_published("", "It's “Zoë” — 7–6, X → Y, 5 °C, £5", "Cafe\u0301")
    for text in ("Łukasz", "Ada…", "¿Ada?", "Мирон", "林", "임", "سلمى"):
        assert not reads_as_published("Ada", text)


def test_normalization_keeps_what_distinguishes_an_answer() -> None:
    assert normalize_answer("An  Apple, the 2nd!") == "apple 2nd"
    assert normalize_answer("?") == "?"
