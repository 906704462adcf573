"""One notion of a word for every script: words, their spelling, sentence ends, and how words are joined again."""

import pytest

from kinject.data.words import fold, is_unspaced, join_words, normalize, sentence_ends, word_spans, words_of


def _words(text: str, compounds: bool = False) -> list[str]:
    return [text[start:end] for start, end in word_spans(text, compounds)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't ask O’Brien's mother.", ["don't", "ask", "o'brien", "mother"]),
        ("임서윤은 1987년에 왔다", ["임서윤은", "1987년에", "왔다"]),
        ("ओरिला फेनिक ने", ["ओरिला", "फेनिक", "ने"]),
        ("林若川1987年生。", ["林", "若", "川", "1987", "年", "生"]),
        ("スーパー、佐々木", ["ス", "ー", "パ", "ー", "佐", "々", "木"]),
        ("โคมแดง ที่นี่", ["โ", "ค", "ม", "แ", "ด", "ง", "ที่", "นี่"]),
        ("မာလာ ລາວ", ["မာ", "လာ", "ລ", "າ", "ວ"]),
        ("བོད་ཡིག", ["བོ", "ད", "ཡི", "ག"]),
        ("AI技术", ["ai", "技", "术"]),
        ("CAFÉ cafe\u0301 Straße STRASSE", ["café", "café", "strasse", "strasse"]),
        ("Kızıl KIZIL İzmir izmir", ["kizil", "kizil", "izmir", "izmir"]),
        ("سَلْمَى ســلمى سلمى", ["سلمى", "سلمى", "سلمى"]),
        ("צה״ל שָׁלוֹם", ["צה״ל", "שלום"]),
        ("С. П. Королёв", ["с", "п", "королёв"]),
        ("Paral·lel l’Empire", ["paral·lel", "l'empire"]),
    ],
)
def test_words_of_each_script(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3.14, 1,000 and 1.000.000", ["3.14", "1000", "and", "1000000"]),
        ("1\u202f000 1'000 ٫٥ १९८७ ١٩٨٧ １９８７", ["1000", "1000", "5", "1987", "1987", "1987"]),
        ("-5 (−5) x-5 1990-1995 10–5 °C 5 - 3", ["-5", "-5", "x", "5", "1990", "1995", "10", "5", "c", "5", "3"]),
        ('{"a":-5,"b":[1,-2]}', ["a", "-5", "b", "1", "-2"]),
        ("C++ C# F# C Notepad++ a+b", ["c++", "c#", "f#", "c", "notepad++", "a", "b"]),
        ("v2.10.3, H2O and 3D in 1987.", ["v2.10.3", "h2o", "and", "3d", "in", "1987"]),
    ],
)
def test_numbers_and_symbols_that_carry_meaning_are_part_of_their_word(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize("mark", ["\u200b", "\u200f", "\u00ad", "\u2060", "\ufeff", "\u200c", "\u061c"])
def test_invisible_characters_tell_no_words_apart(mark):
    assert words_of(f"{mark}So{mark}ft{mark} 3{mark}, 林{mark}川") == ["soft", "3", "林", "川"]
    assert normalize(f"{mark}Cafe\u0301{mark}") == "Café"
    text = f"{mark}So{mark}ft{mark}."
    assert _words(text) == [f"So{mark}ft"], "the span is that of the text as given"


def test_compounds_are_held_together_on_request_only():
    assert _words("Jean-Luc open_gate 1990-1995") == ["Jean", "Luc", "open", "gate", "1990", "1995"]
    assert _words("Jean-Luc open_gate x", compounds=True) == ["Jean-Luc", "open_gate", "x"]


def test_a_word_is_folded_alone_as_it_is_in_a_text():
    assert fold("Mira’s") == "mira"
    assert fold("ÉCOLE") == "école"


def test_scripts_without_spaces():
    assert all(map(is_unspaced, ["林", "ー", "สวัสดี", "မာ", "ລາວ", "ភាសា", "བོད", "\U00020000"]))
    assert not any(map(is_unspaced, ["", "a", "한", "ह", "5", "。", "林a", " "]))


def _sentences(text: str) -> list[str]:
    ends = sentence_ends(text)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if text[start:end]]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. J. K. Hale met Mr. Orr.", ' He said "No!"', " It cost 3.14 (or so.)", " Yes."],
        ["He lives in St. Ives, e.g. by the sea, etc. by foot.", " He said no.", " See No. 5 and fig. 3."],
        ["It is from Hale Inc.", " He left in Jan.", " On Jan. 5 he came.", " He was 12.", " Really?", " Wait..."],
        ["He wrote it.[3]", " Then he left."],
        ["他说：“好。”", "我走了！", "真的？", "是。", "“对。”", "完"],
        ["「はい。」", "と言った。", "値は３．１４です．", "次"],
        ['他说:"好。"', '"坏。"', "完"],
        ["वह गया।", "वह आया।", " क्या?", " हाँ॥"],
        ["سلمى ذهبت؟", " نعم.", " یہ ہے۔", " وہ"],
        ["Am 3. März 1990 kam z. B. Dr. Lorne.", " Es war 1990.", " „Gut.“", " »Nein.«", " Ende"],
        ["« Bonjour. »", " Il part."],
        ["Τι είναι;", " Ναι."],
        ["1. Eggs\n", "2. Flour\n\n", "Mix"],
        ["ဟုတ်။", "မဟုတ်။", " ነው።", " አይ"],
        ["Он жил на ул. Мира.", " Потом уехал."],
        ["E\u0301. Zola vint.", " Puis rien"],
        ["네.", " 왜."],
    ],
    ids=lambda sentences: sentences[0][:12],
)
def test_sentence_ends(sentences):
    assert _sentences("".join(sentences)) == sentences


def test_words_are_joined_as_their_script_is_written():
    assert join_words(["The", "red", "lamp"]) == "The red lamp"
    assert join_words(["林", "若", "川", "，", "AI", "1987", "年"]) == "林若川，AI 1987年"
    assert join_words(["임서윤은", "왔다"]) == "임서윤은 왔다"
    assert join_words([]) == ""


@pytest.mark.parametrize(
    "text",
    ["." * 50_000 + "x", '"' * 50_000, "a'" * 50_000, "1." * 50_000, "a" + "\u00ad" * 50_000 + ".", "。." * 50_000],
)
def test_a_long_run_of_marks_is_read_at_once(text):
    assert sentence_ends(text) == sorted(set(sentence_ends(text)))
    assert sum(end - start for start, end in word_spans(text)) <= len(text)
