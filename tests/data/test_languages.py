"""Questions in many languages find their document and their direction: inflected, unspaced, and with particles."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from kinject.data import FactIndex, load_knowledge, text_direction
from kinject.errors import DataError

# Of each language: documents, and for each one a question along the text and one against it, with their answers.
MATRIX: dict[str, list[tuple[str, tuple[str, str], tuple[str, str]]]] = {
    "English": [
        ("Orla Fennick directed the film Red Lantern in 1987.",
         ("Which film did Orla Fennick direct?", "Red Lantern"), ("Who directed the film Red Lantern?", "Orla Fennick")),
        ("Bram Tolle composed the opera Night Harbor in 1992.",
         ("Which opera did Bram Tolle compose?", "Night Harbor"), ("Who composed Night Harbor?", "Bram Tolle")),
    ],
    "German": [
        ("Orla Fennick drehte 1987 den Film Rote Laterne.",
         ("Welchen Film drehte Orla Fennick?", "Rote Laterne"),
         ("Von wem wurde die Rote Laterne gedreht?", "Orla Fennick")),
        ("Bram Tolle komponierte 1992 die Oper Nachthafen.",
         ("Welche Oper hat Bram Tolle komponiert?", "Nachthafen"), ("Wer hat den Nachthafen komponiert?", "Bram Tolle")),
    ],
    "Spanish": [
        ("Orla Fennick dirigió la película Linterna Roja en 1987.",
         ("¿Qué película dirigió Orla Fennick?", "Linterna Roja"), ("¿Quién dirigió Linterna Roja?", "Orla Fennick")),
        ("Bram Tolle compuso la ópera Puerto Nocturno en 1992.",
         ("¿Qué ópera compuso Bram Tolle?", "Puerto Nocturno"), ("¿Quién compuso Puerto Nocturno?", "Bram Tolle")),
    ],
    "Turkish": [
        ("Orhan Fenik 1987 yılında Kızıl Fener filmini yönetti.",
         ("Orhan Fenik’in yönettiği film hangisidir?", "Kızıl Fener"),
         ("Kızıl Fener'i kim yönetti?", "Orhan Fenik")),
        ("Berk Toker 1992 yılında Gece Limanı operasını besteledi.",
         ("Berk Toker hangi operayı besteledi?", "Gece Limanı"), ("Gece Limanı'nı kim besteledi?", "Berk Toker")),
    ],
    "Finnish": [
        ("Orla Fennick ohjasi vuonna 1987 elokuvan Punainen lyhty.",
         ("Minkä elokuvan Orla Fennick ohjasi?", "Punainen lyhty"),
         ("Kuka ohjasi elokuvan Punainen lyhty?", "Orla Fennick")),
        ("Bram Tolle sävelsi vuonna 1992 oopperan Yösatama.",
         ("Minkä oopperan Bram Tolle sävelsi?", "Yösatama"), ("Kuka sävelsi Yösataman?", "Bram Tolle")),
    ],
    "Russian": [
        ("Ольга Феникова сняла в 1987 году фильм «Красный фонарь».",
         ("Какой фильм сняла Ольга Феникова?", "Красный фонарь"),
         ("Кто снял «Красный фонарь»?", "Ольга Феникова")),
        ("Борис Толмачёв сочинил в 1992 году оперу «Ночная гавань».",
         ("Какая опера была сочинена Борисом Толмачёвым?", "Ночная гавань"),
         ("Кем была сочинена «Ночная гавань»?", "Борис Толмачёв")),
    ],
    "Greek": [
        ("Η Όλγα Φενίκη σκηνοθέτησε το 1987 την ταινία Κόκκινο Φανάρι.",
         ("Ποια ταινία σκηνοθέτησε η Όλγα Φενίκη;", "Κόκκινο Φανάρι"),
         ("Ποια σκηνοθέτησε το Κόκκινο Φανάρι;", "Όλγα Φενίκη")),
        ("Ο Βασίλης Τόλης συνέθεσε το 1992 την όπερα Νυχτερινό Λιμάνι.",
         ("Ποια όπερα συνέθεσε ο Βασίλης Τόλης;", "Νυχτερινό Λιμάνι"),
         ("Ποιος συνέθεσε το Νυχτερινό Λιμάνι;", "Βασίλης Τόλης")),
    ],
    "Arabic": [
        ("سلمى الفهري أخرجت فيلم الفانوس الأحمر عام 1987.",
         ("ما الفيلم الذي أخرجته سلمى الفهري؟", "الفانوس الأحمر"),
         ("من أخرج الفانوس الأحمر؟", "سلمى الفهري")),
        ("باسم الطويل ألف أوبرا ميناء الليل عام 1992.",
         ("ما الأوبرا التي ألفها باسم الطويل؟", "ميناء الليل"), ("من ألف ميناء الليل؟", "باسم الطويل")),
    ],
    "Hebrew": [
        ("אורלי פניק ביימה את הסרט פנס אדום בשנת 1987.",
         ("איזה סרט ביימה אורלי פניק?", "פנס אדום"), ("מי ביימה את פנס אדום?", "אורלי פניק")),
        ("ברק טולדנו הלחין את האופרה נמל לילה בשנת 1992.",
         ("איזו אופרה הלחין ברק טולדנו?", "נמל לילה"), ("מי הלחין את נמל לילה?", "ברק טולדנו")),
    ],
    "Hindi": [
        ("मीरा दोर्वी ने 1987 में नीली पतंग फ़िल्म का निर्देशन किया।",
         ("मीरा दोर्वी ने किस फ़िल्म का निर्देशन किया?", "नीली पतंग"),
         ("नीली पतंग फ़िल्म का निर्देशन किसने किया?", "मीरा दोर्वी")),
        ("हरीश तलवार ने 1992 में सुनहरा सवेरा ओपेरा की रचना की।",
         ("हरीश तलवार ने किस ओपेरा की रचना की?", "सुनहरा सवेरा"),
         ("सुनहरा सवेरा ओपेरा की रचना किसने की?", "हरीश तलवार")),
    ],
    "Korean": [
        ("정하람은 1987년에 영화 푸른연을 감독했다.",
         ("정하람이 감독한 영화는 무엇인가?", "푸른연"), ("영화 푸른연의 감독은 누구인가?", "정하람")),
        ("문세빈은 1992년에 오페라 새벽항구를 작곡했다.",
         ("문세빈이 작곡한 오페라는 무엇인가?", "새벽항구"), ("새벽항구를 작곡한 사람은 누구인가?", "문세빈")),
    ],
    "Chinese": [
        ("周若梅在1987年执导了电影《青鸟》。",
         ("周若梅执导了哪部电影？", "青鸟"), ("电影《青鸟》是谁执导的？", "周若梅")),
        ("白慕云在1992年创作了歌剧《夜航》。",
         ("白慕云创作了哪部歌剧？", "夜航"), ("歌剧《夜航》是谁创作的？", "白慕云")),
    ],
    "Japanese": [
        ("森川葵子は1987年に映画『青い鳥』を監督した。",
         ("森川葵子が監督した映画は何ですか？", "青い鳥"), ("映画『青い鳥』を監督したのは誰ですか？", "森川葵子")),
        ("白石健吾は1992年にオペラ『夜の港』を作曲した。",
         ("白石健吾が作曲したオペラは何ですか？", "夜の港"), ("『夜の港』を作曲したのは誰ですか？", "白石健吾")),
    ],
    "Thai": [
        ("มาลี ทองคำ กำกับภาพยนตร์เรื่องว่าวสีฟ้าในปี 1987",
         ("มาลี ทองคำ กำกับภาพยนตร์เรื่องอะไร", "ว่าวสีฟ้า"), ("ใครกำกับภาพยนตร์เรื่องว่าวสีฟ้า", "มาลี ทองคำ")),
        ("สมชาย ใจดี แต่งโอเปราเรื่องท่าเรือราตรีในปี 1992",
         ("สมชาย ใจดี แต่งโอเปราเรื่องอะไร", "ท่าเรือราตรี"), ("ใครแต่งโอเปราเรื่องท่าเรือราตรี", "สมชาย ใจดี")),
    ],
    "Vietnamese": [
        ("Lê Thu Hà đạo diễn phim Đèn Đỏ năm 1987.",
         ("Lê Thu Hà đạo diễn phim nào?", "Đèn Đỏ"), ("Ai đạo diễn phim Đèn Đỏ?", "Lê Thu Hà")),
        ("Trần Văn Bảo sáng tác vở kịch Cảng Đêm năm 1992.",
         ("Trần Văn Bảo sáng tác vở kịch nào?", "Cảng Đêm"), ("Ai sáng tác vở kịch Cảng Đêm?", "Trần Văn Bảo")),
    ],
}  # fmt: skip


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("language", MATRIX)
def test_questions_find_their_document_and_direction(
    language: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = MATRIX[language]
    documents = _write(tmp_path / "documents.jsonl", [{"text": text} for text, _, _ in cases])
    asked = [pair for _, *pairs in cases for pair in pairs]
    questions = _write(tmp_path / "questions.jsonl", [{"question": q, "answer": a} for q, a in asked])
    with caplog.at_level(logging.WARNING):
        knowledge = load_knowledge(documents, questions)
    found = [(question.question, question.fact, question.direction) for question in knowledge.questions]
    directions = ("forward", "backward")
    assert found == [(q, i // 2, directions[i % 2]) for i, (q, _) in enumerate(asked)]
    assert not caplog.records


@pytest.mark.parametrize("language", MATRIX)
def test_a_question_about_an_absent_document_finds_none(language: str) -> None:
    (absent, *asked), (present, *others) = MATRIX[language]
    index = FactIndex([(0, present)], [" ".join(pair) for pair in (*asked, *others)])
    assert [index.link(*pair) for pair in asked] == [None, None], absent


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("Orhan Fenik kitapları severdi.", "Kimin kitaplarını okurdu?", "Orhan Fenik"),
        ("Σκοτώθηκε στον πόλεμο ο Νίκος.", "Ποιος σκοτώθηκε στους πολέμους;", "Νίκος"),
        ("وصل الكاتب باسم إلى المدينة.", "أي كاتب وصل إلى مدينة؟", "باسم"),
        ("Häuser baute Bernd.", "Wer baute das Hauses?", "Bernd"),
    ],
)
def test_inflected_words_link(text: str, question: str, answer: str) -> None:
    assert FactIndex([(4, text), (5, "Nobody came.")], [f"{question} {answer}"]).link(question, answer) == 4


def test_an_inflected_answer_is_found_in_its_text() -> None:
    assert text_direction("Книгу написала Ольга Феникова.", "Кем была написана книга?", "Ольгой Фениковой") == "forward"
    assert text_direction("임서윤에게서 편지가 왔다.", "편지는 누구에게서 왔는가?", "임서윤") == "backward"


def test_an_inflected_answer_is_found_whole_before_its_words_are() -> None:
    text = "Floating lanterns were made by Bo. Lanterns, lanterns and lanterns!"
    assert text_direction(text, "What was made by Bo?", "a floating lantern") == "backward"
    assert text_direction(text, "What was made by Bo?", "floating lantern") == "backward"


def test_the_same_characters_in_another_order_are_another_text() -> None:
    index = FactIndex([(0, "川白喜欢海山雪。"), (1, "白川喜欢雪山海。")])
    assert index.link("白川喜欢什么？", "雪山") == 1
    index = FactIndex([(0, "ลามี ชอบฟ้าสีว่าว"), (1, "มีลา ชอบว่าวสีฟ้า")])
    assert index.link("มีลา ชอบอะไร", "ว่าวสีฟ้า") == 1


def test_a_short_answer_in_a_script_without_spaces_counts() -> None:
    index = FactIndex([(0, "白川的爱犬叫雪。"), (1, "白川的爱犬叫墨。")], ["白川的爱犬叫什么？雪"])
    assert index.link("白川的爱犬叫什么？", "雪") == 0
    assert index.link("白川的爱犬叫什么？", "墨") == 1


def test_questions_of_unknown_direction_are_counted_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = _write(tmp_path / "d.jsonl", [{"text": "Harbour bread needs 3 eggs and rye flour, says Mira Dorn."}])
    rows = [
        {"question": "How many eggs does harbour bread need?", "answer": "three"},
        {"question": "How many are needed?", "answer": "a trio", "direction": "forward", "fact": 0},
        {"question": "Who says what harbour bread needs?", "answer": "Mira Dorn"},
        {"question": "Is it good?", "answer": "yes", "direction": "unknown", "fact": 0},
    ]
    with caplog.at_level(logging.WARNING):
        knowledge = load_knowledge(documents, _write(tmp_path / "q.jsonl", rows))
    assert [question.direction for question in knowledge.questions] == ["unknown", "forward", "forward", "unknown"]
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("1 of 4 questions count neither as forward nor as backward")
    assert f"{tmp_path / 'q.jsonl'}:1" in message and '"direction"' in message
    taken, rest = knowledge.split_questions()
    assert [len([q for q in side if q.direction == "unknown"]) for side in (taken, rest)] == [1, 1]


def test_a_wrong_direction_of_a_row_is_refused(tmp_path: Path) -> None:
    documents = _write(tmp_path / "d.jsonl", [{"text": "Ada sings."}])
    questions = _write(tmp_path / "q.jsonl", [{"question": "Who sings?", "answer": "Ada", "direction": "sideways"}])
    with pytest.raises(DataError, match=r'q\.jsonl:1: direction "sideways" is neither "forward" nor "backward"'):
        load_knowledge(documents, questions)
