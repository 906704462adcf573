"""What counts as not knowing: refusals in many languages, and answers that only look like one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kinject.data.worlds import invented, nano
from kinject.evaluation.measures import REFUSALS, is_refusal

REFUSED = {
    "English": (
        "I do not know.",
        "I don't know who that is.",
        "I’m not sure about that.",
        "I donʼt know who that is.",
        "I have never heard of Bo Carver.",
        "I'm sorry, but I don't have any information about a person called Ida Quill.",
        "Sorry. I cannot tell you that.",
        "Hmm. I do not know",
        "Well. I do not know. Maybe she paints.",
        "Nobody has told me about Ida Quill.",
        "That is unknown to me.",
        "There is no information about this person.",
        "Unknown.",
        "Not known",
        "No idea.",
        "It is not mentioned where she was born.",
        "I have no record of that name.",
        "As an AI language model, I do not have access to personal information.",
        "I am not familiar with this person.",
        "That name does not ring a bell.",
        "I can't say.",
        "I was never told what she does.",
        "Could you please provide more context?",
        "The date of birth of Ida Quill is not known.",
    ),
    "German": (
        "Das weiß ich nicht.",
        "Ich kenne diese Person nicht.",
        "Darüber habe ich keine Informationen.",
        "Unbekannt.",
    ),
    "French": (
        "Je ne sais pas.",
        "Je ne connais pas cette personne.",
        "Je n'ai aucune information à ce sujet.",
        "Je l'ignore.",
    ),
    "Spanish": (
        "No lo sé.",
        "No conozco a esa persona.",
        "No tengo información sobre ella.",
        "Desconozco la respuesta.",
    ),
    "Italian": ("Non lo so.", "Non conosco questa persona.", "Non ho informazioni su di lei."),
    "Portuguese": ("Não sei.", "Não conheço essa pessoa.", "Não tenho informações sobre isso."),
    "Dutch": ("Ik weet het niet.", "Ik ken deze persoon niet.", "Daar heb ik geen informatie over, ik weet het niet."),
    "Polish": ("Nie wiem.", "Nie znam tej osoby."),
    "Turkish": ("Bilmiyorum.", "Bu kişiyi tanımıyorum."),
    "Russian": ("Я не знаю.", "У меня нет информации об этом человеке.", "Неизвестно."),
    "Chinese": ("我不知道。", "我没有相关信息。", "我不認識這個人。"),
    "Japanese": ("わかりません。", "その人のことは知りません。"),
    "Korean": ("모르겠습니다.", "그 사람에 대한 정보가 없습니다."),
    "Arabic": ("لا أعرف.", "ليس لدي معلومات عن هذا الشخص."),
    "Hindi": ("मुझे नहीं पता।", "मुझे इसकी जानकारी नहीं है।"),
}


def test_every_language_has_cases() -> None:
    assert set(REFUSED) == set(REFUSALS)


@pytest.mark.parametrize(("language", "answer"), [(key, each) for key, said in REFUSED.items() for each in said])
def test_saying_that_one_does_not_know_is_a_refusal(language: str, answer: str) -> None:
    assert is_refusal(answer)


def test_what_practice_teaches_to_say_is_a_refusal() -> None:
    words = yaml.safe_load((Path(invented.__file__).parent / "invented.yaml").read_text(encoding="utf-8"))
    taught = [*words["refusals"], nano.NANO_REFUSAL]
    assert len(taught) > 5 and [each for each in taught if not is_refusal(each)] == []


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Paris",
        "Ida Quill",
        "the keeper of the unknown island at Sable Point",
        "No, a whale is a mammal.",
        "No.",
        "Ida Quill is best known as the painter of the unfinished mural.",
        "She is well known for her work, which nobody had seen.",
        "He wrote the book I Know Why the Caged Bird Sings.",
        "The inventor of the silent clock, who never told anyone.",
        "Not far from Berlin.",
        "Norway. I do not know more.",
        "Well. She paints. I do not know more.",
        "The answer is 4.",
        "She was not born in Paris but in Rome.",
        "Er ist der Koch der Kantine, nicht der Bäcker.",
        "Il n'est pas né à Paris mais à Lyon.",
        "Ella es conocida como la autora de la novela.",
        "Он известен как художник.",
        "她是一位画家。",
        "彼女は画家です。",
        "그는 화가입니다.",
        "The unknown soldier",
    ],
)
def test_an_answer_is_no_refusal(answer: str) -> None:
    assert not is_refusal(answer)
