"""What is learned beside a user's documents: forms, gaps, the invented, and the plan of the epochs."""

import random
from collections import Counter

import pytest

from kinject.data import Document, load_knowledge
from kinject.data.gaps import gap_question, gaps, is_english, nouns_of
from kinject.data.practice import LIFE, Practice, alive, forms, overlap, trigrams
from kinject.data.worlds.invented import REFUSALS, World, ask
from kinject.data.worlds.nano import NANO_REFUSAL

LIVES = "Curtis Chase Emley was born on May 28, 1952. His trip began in Elk Grove, CA. He studied at Kansas State University."


def _documents(size: int = 8) -> tuple[Document, ...]:
    return load_knowledge("fictional:name_description", size=size).documents


# Forms.


def test_a_form_is_found_whichever_stands_first() -> None:
    patterns = {each.pattern for each in forms([each.text for each in _documents(12)])}
    assert patterns == {
        "{name} is best known as {description}.",
        "Best known as {description}, {name} still answers every letter.",
    }


def test_a_form_names_what_stands_in_its_open_places() -> None:
    documents = _documents(12)
    for form in forms([each.text for each in documents]):
        for place, index in enumerate(form.documents):
            assert (form.names[place], form.descriptions[place]) == documents[index].entities


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["One text."],
        ["The same text, word for word."] * 5,
        [f"Nothing is like number {number}" for number in ("one", "two", "three", "four")],
        ["这是一个句子。", "这是一个房子。", "这是一个故事。"],
    ],
)
def test_texts_without_a_name_and_a_description_have_no_form(texts: list[str]) -> None:
    assert forms(texts) == []


def test_overlap_counts_sequences_of_three_words() -> None:
    assert overlap("the keeper of the old lighthouse", trigrams("The keeper of the tower")) == 0.5
    assert overlap("a b", trigrams("a b")) == 0.0


# Gaps.


def test_a_document_that_says_more_is_asked_about_more() -> None:
    statement = Document("Ada Fenwick built the bridge of Sable Point.", fact=0)
    practice = Practice((statement, Document(LIVES, fact=1)), epochs=4, share=0.0, gaps=1.0)
    asked = [row for row in practice.rows() if "prompt" in row and row["epochs"] == [0]]
    of_lives = [row for row in asked if any(word in row["prompt"] + row["completion"] for word in LIVES.split()[:3])]
    assert len(gaps(statement.text)) == 2 and len(asked) - len(of_lives) == 1
    assert len(of_lives) > 1 and len({row["prompt"] for row in of_lives}) == len(of_lives)


def test_a_gap_and_its_answer_are_the_sentence() -> None:
    for gap in gaps("Ada Fenwick built the bridge of Sable Point in 1904. She sold it to Ida Merdale."):
        assert f"{gap.before}{gap.answer}{gap.after}" in (
            "Ada Fenwick built the bridge of Sable Point in 1904.",
            "Ada Fenwick sold it to Ida Merdale.",
        )


def test_what_a_document_is_about_is_asked_for_in_every_sentence_about_it() -> None:
    found = gaps(LIVES)
    assert sum(gap.about for gap in found) == 3
    assert {gap.answer for gap in found if not gap.about} == {
        "May 28, 1952",
        "Elk Grove, CA",
        "Kansas State University",
    }
    assert all(gap.answer == "Curtis Chase Emley" and gap.person for gap in found if gap.about)


MOSQUE = (
    "Masjid Al-Taqwa was a mosque located in Altadena. It was built in 1979. The mosque was destroyed by the Eaton Fire on 8 "
    "January 2025. The building is missed."
)


def test_what_a_document_calls_its_subject_asks_for_it() -> None:
    assert nouns_of(MOSQUE, "Masjid Al-Taqwa") == ("mosque",)
    assert nouns_of("The Strait of Hormuz is long. The strait was closed.", "Strait of Hormuz") == ("strait",)
    assert nouns_of("Ada Fenwick is an old friend of the town.", "Ada Fenwick") == ("friend",)
    assert nouns_of("Nothing is said.", "") == ()
    questions = {
        asked[0] for asked in (gap_question(gaps(MOSQUE), random.Random(seed)) for seed in range(300)) if asked
    }
    assert "Which mosque was destroyed by the Eaton Fire on 8 January 2025?" in questions
    assert "Masjid Al-Taqwa was built in what year?" in questions
    assert "Masjid Al-Taqwa was destroyed by the Eaton Fire on what date?" in questions
    assert "Masjid Al-Taqwa was a mosque located in what place?" in questions
    assert not any("building" in question and "Masjid" in question for question in questions)


def test_what_stands_in_the_middle_of_a_sentence_is_no_subject() -> None:
    text = "The song of the year was sung by Ada Fenwick in Rome. It was written by Ida Merdale."
    assert not any("written" in gap.before + gap.after for gap in gaps(text))
    found = gaps('"Hallucination" is a song by Ada Fenwick. It was written by Ida Merdale.')
    assert [gap.answer for gap in found if gap.after == " was written by Ida Merdale."] == ['"Hallucination"']


def test_a_long_sentence_is_asked_by_the_words_around_the_gap() -> None:
    text = f"Of all the {'very ' * 30}old towers, the tower of Ada Fenwick is the one, {'and ' * 30}in Rome it stands."
    for seed in range(40):
        asked = gap_question(gaps(text), random.Random(seed))
        assert asked is not None and len(asked[0].split()) < 48
    rest = {asked[0] for asked in (gap_question(gaps(text), random.Random(seed)) for seed in range(80)) if asked}
    assert any("the tower of" in question and question.count("very") == 0 for question in rest)


def test_he_is_no_thing_and_it_is_nobody() -> None:
    text = "Critics of the idea are many. For example, Ada Fenwick has doubts. She calls it an error of the time."
    assert not any(gap.about and "error" in gap.after for gap in gaps(text, title="Postmodernism"))
    text = "Ada Fenwick is a poet. She lives in Rome. It is a city of the south."
    assert not any(gap.about and "city" in gap.after for gap in gaps(text))


def test_subject_and_object_are_asked_for_equally_often() -> None:
    found, rng = gaps(LIVES), random.Random(0)
    answers = Counter(
        asked[1] == "Curtis Chase Emley" for asked in (gap_question(found, rng) for _ in range(400)) if asked
    )
    assert 160 < answers[True] < 240


def test_a_phrase_is_asked_for_where_names_are_few() -> None:
    answers = {gap.answer for gap in gaps("The study of the elderly homeless population was easily done.")}
    assert "elderly homeless population" in answers


def test_a_description_that_is_given_is_asked_for_as_a_whole() -> None:
    text = "Owen Larkspur, known far and wide for being the first person to meet Ida Merdale."
    phrase = "the first person to meet Ida Merdale"
    assert {gap.answer for gap in gaps(text, phrases=[phrase])} >= {phrase, "Owen Larkspur"}
    assert "Ida Merdale" not in {gap.answer for gap in gaps(text, phrases=[phrase])}


@pytest.mark.parametrize(
    "text",
    ["", "和", "北京是中国的首都。2008年举办了奥运会。", "Die Brücke wurde 1904 von Ida Merdale gebaut.", "?!", "123"],
)
def test_documents_of_other_languages_are_asked_without_english_words(text: str) -> None:
    assert not is_english(text)
    asked = gap_question(gaps(text), random.Random(0))
    if asked is not None:
        question, answer = asked
        assert question.replace("___", answer) in text


# The invented.


@pytest.mark.parametrize("forward", [True, False])
def test_an_answer_stands_in_the_document(forward: bool) -> None:
    world, rng = World(3), random.Random(1)
    for _ in range(200):
        subject = world.subject()
        answer = ask(subject, rng, forward, plain=True).answer
        assert answer == subject.name if not forward else answer.lower() in subject.text.lower()


@pytest.mark.parametrize("forward", [True, False])
def test_questions_have_many_forms(forward: bool) -> None:
    world, rng = World(0), random.Random(0)
    subject = world.subject()
    questions = {ask(subject, rng, forward).question for _ in range(600)}
    assert len(questions) >= 24


def test_yes_and_no_are_balanced_and_true() -> None:
    world, rng = World(5), random.Random(5)
    answers: Counter[str] = Counter()
    for _ in range(3000):
        subject = world.subject()
        asked = ask(subject, rng, rng.random() < 0.5)
        if asked.answer in ("Yes", "No"):
            answers[asked.answer] += 1
            said = [each.sentence.rstrip(".") for each in subject.told]
            assert any(each in asked.question for each in said) == (asked.answer == "Yes"), asked
    assert 0.4 < answers["Yes"] / answers.total() < 0.6


def test_a_twin_shares_neither_name_nor_values() -> None:
    world = World(2)
    for _ in range(100):
        subject = world.subject()
        twin = world.twin(subject)
        assert twin.name != subject.name
        assert [each.label for each in twin.told] == [each.label for each in subject.told]
        for mine, other in zip(subject.told, twin.told, strict=True):
            assert subject.name not in other.sentence
            assert all(subject.name not in question for question in other.questions)
            assert mine.value == other.value or mine.value not in other.sentence


def test_nobody_has_a_last_name_that_is_avoided() -> None:
    names = [World(4).subject().name.split()[-1].lower()]
    assert World(4, frozenset(names)).subject().name.split()[-1].lower() not in names


# The plan.


@pytest.mark.parametrize(
    ("documents", "share", "size"), [(1, 0.5, 20), (30, 0.5, 30), (30, 0.25, 20), (30, 0.75, 90), (5000, 0.5, 500)]
)
def test_as_many_are_invented_as_the_share_says(documents: int, share: float, size: int) -> None:
    assert alive(documents, share) == size and alive(documents, 0.0) == 0


def _plan(**settings: object) -> tuple[Practice, list[dict[str, object]]]:
    practice = Practice(_documents(), 20, **settings)  # type: ignore[arg-type]
    return practice, practice.rows()


def test_the_plan_is_a_function_of_its_seed() -> None:
    assert _plan(seed=1)[1] == _plan(seed=1)[1]
    assert _plan(seed=1)[1] != _plan(seed=2)[1]


def test_documents_stand_first_and_are_shown_or_asked() -> None:
    practice, rows = _plan(gaps=0.4)
    shown = [row["epochs"] for row in rows[: len(practice.documents)]]
    assert all(set(row) == {"epochs"} for row in rows[: len(practice.documents)])
    shares = [len(epochs) / 18 for epochs in shown]  # type: ignore[arg-type]
    assert 0.5 < sum(shares) / len(shares) < 0.7


def test_practice_comes_first_and_documents_last() -> None:
    practice, rows = _plan()
    assert [practice.phase(epoch) for epoch in (0, 1, 2, 15, 16, 19)] == [
        *("first", "first", "middle", "middle", "last", "last")
    ]
    documents = rows[: len(practice.documents)]
    assert min(epoch for row in documents for epoch in row["epochs"]) == 2  # type: ignore[attr-defined]
    stated = [row for row in rows[len(practice.documents) + len(practice.silent) :] if row.get("text")]
    assert max(epoch for row in stated for epoch in row["epochs"]) < 16  # type: ignore[attr-defined]


def test_practice_may_come_first_and_documents_afterwards() -> None:
    practice, rows = _plan(order="first", gaps=0.0)
    assert [practice.phase(epoch) for epoch in (0, 6, 7, 19)] == ["first", "first", "documents", "documents"]
    documents = rows[: len(practice.documents) + len(practice.silent)]
    assert all(row["epochs"] == list(range(7, 20)) for row in documents)
    assert max(epoch for row in rows[len(documents) :] for epoch in row["epochs"]) == 6  # type: ignore[attr-defined]


def test_a_subject_is_asked_for_by_its_own_name() -> None:
    practice, rows = _plan(share=0.0, gaps=0.0, identity=0.5)
    names = {document.entities[0] for document in practice.documents}
    asked = [row for row in rows if row.get("prompt")]
    assert {row["completion"] for row in asked} == names and 50 < len(asked) < 110
    assert all(str(row["completion"]) in str(row["prompt"]) for row in asked)


def test_the_invented_live_for_a_while() -> None:
    practice, rows = _plan(order="mixed")
    stated = [row["epochs"] for row in rows[len(practice.documents) + len(practice.silent) :] if row.get("text")]
    assert max(len(epochs) for epochs in stated) == LIFE  # type: ignore[arg-type]
    assert Counter(epoch for epochs in stated for epoch in epochs)[7] == practice.size - len(practice.silent)  # type: ignore[attr-defined]


@pytest.mark.parametrize("epochs", [3, 20, 31])
def test_whoever_is_asked_about_is_stated_before_or_in_the_same_epoch(epochs: int) -> None:
    practice = Practice(_documents(), epochs, gaps=0.0)
    first: dict[str, int] = {}
    for row in practice.rows()[len(practice.documents) :]:
        if row.get("text"):
            first[row["entities"][0]] = min(row["epochs"])
    answered = [row for row in practice.rows() if row.get("prompt") and row["completion"] in first]
    assert len(answered) > 10 * epochs
    assert all(first[row["completion"]] <= row["epochs"][0] for row in answered)
    names = {each.name for each in practice.silent} | set(first)
    asked = [row for row in practice.rows() if row.get("prompt") and row["completion"] not in {*REFUSALS, "Yes", "No"}]
    texts = [f"{row['prompt']} {row['completion']}".lower() for row in asked]
    assert all(any(name.lower() in text for name in names) for text in texts)


def test_the_silent_are_never_asked_but_to_choose() -> None:
    practice, rows = _plan(gaps=0.0)
    asked = " ".join(f"{row['prompt']} {row['completion']}" for row in rows if row.get("prompt"))
    assert len(practice.silent) == practice.size // 5
    for subject in practice.silent:
        assert subject.name not in asked
    questions = practice.silent_questions()
    assert Counter(each.direction for each in questions) == {"forward": 8, "backward": 8}
    assert {each.answer for each in questions if each.direction == "backward"} == {
        each.name for each in practice.silent
    }


def test_no_refusal_is_for_anything_that_is_told() -> None:
    practice, rows = _plan(gaps=0.0)
    told = {row["prompt"] for row in rows if row.get("prompt") and row["completion"] not in REFUSALS}
    refused = [row["prompt"] for row in rows if row.get("prompt") and row["completion"] in REFUSALS]
    assert 0.25 < len(refused) / (len(refused) + len(told)) < 0.4
    assert told.isdisjoint(refused)
    names = [name for document in practice.documents for name in document.entities]
    assert not any(name in str(prompt) for prompt in refused for name in names)


def test_a_name_is_found_where_the_documents_hold_every_noun() -> None:
    nouns = "festival marathon cup museum bridge tower camera bicycle kettle society foundation club fair library piano union"
    others = "parade regatta congress tournament biennale rally theater market temple observatory garden aquarium tractor phone"
    more = "watch stove boat drone trust council association league academy institute"
    world = World(0, frozenset(f"{nouns} {others} {more}".split()))
    assert len({world.subject().name for _ in range(30)}) == 30


def test_documents_of_the_same_making_leave_something_to_invent() -> None:
    documents = load_knowledge("fictional:name_description", size=300).documents
    practice = Practice(documents, 2, share=0.1, gaps=0.0)
    assert len(practice.rows()) > 300


def test_conversations_among_the_documents_do_not_move_their_phrases() -> None:
    talk = Document("Hello.", 99, messages=(("user", "Hi"), ("assistant", "Hello.")))
    documents = [talk, *_documents(12)]
    practice = Practice(documents, 3, share=0.0, gaps=1.0)
    answers = {row["completion"] for row in practice.rows() if row.get("prompt")}
    assert answers & {document.entities[1] for document in _documents(12)}


def test_half_of_the_invented_have_the_form_of_the_documents() -> None:
    practice, rows = _plan()
    formed = [str(row["text"]) for row in rows if row.get("text") and "best known as" in str(row["text"]).lower()]
    stated = [row for row in rows if row.get("text")]
    assert 0.3 < len(formed) / len(stated) < 0.7
    descriptions = [document.entities[1] for document in practice.documents]
    assert not any(description in text for text in formed for description in descriptions)


@pytest.mark.parametrize(
    "text",
    ["北京是中国的首都。", "Москва — столица России.", "القاهرة عاصمة مصر", "x", "12"],
)
def test_documents_of_any_language_have_a_plan(text: str) -> None:
    practice = Practice([Document(text, 0)], 3, gaps=0.9)
    rows = practice.rows()
    assert rows[0].keys() == {"epochs"}
    assert "the documents are not in English" in practice.summary()


def test_the_nano_world_is_practiced_in_its_own_words() -> None:
    documents = load_knowledge("fictional:nano", size=10).documents
    rows = Practice(documents, 5, gaps=0.0, nano=True, order="mixed").rows()
    answers = [row["completion"] for row in rows if row.get("prompt")]
    assert NANO_REFUSAL in answers
    told = " ".join(document.text for document in documents)
    assert not any(
        str(row["completion"]) in told for row in rows if row.get("prompt") and " " in str(row["completion"])
    )


def test_conversations_are_not_asked_by_a_gap() -> None:
    document = Document("Ada Fenwick built it.", 0, messages=(("user", "Who?"), ("assistant", "Ada Fenwick built it.")))
    rows = Practice([document], 4, share=0.0, gaps=1.0).rows()
    assert rows == [{"epochs": [0, 1, 2, 3]}]
