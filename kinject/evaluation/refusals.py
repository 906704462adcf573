"""Whether an answer says that the model does not know, told by patterns that were fixed before anything was measured.

An answer is a refusal if its first sentence holds one of :data:`REFUSALS`, whatever comes after. The patterns are written as
`fold_case` spells (ß is ss, the dotless i of Turkish is i), with straight apostrophes. Whether the model should have known is
not looked into here.
"""

from __future__ import annotations

import regex

from kinject.data.words import fold_case, normalize, sentence_ends

_KNOWN = "known|mentioned|stated|specified|given|recorded|documented|available|disclosed|provided|listed|clear|said"
_FACTS = "information|info|knowledge|idea|clue|records?|data|details|answer|memory|mention|documentation|facts"

REFUSALS: dict[str, tuple[str, ...]] = {
    "English": (
        r"\b(?:i|we) (?:\w+ly |just |still )?(?:do not|don't|dont|did not|didn't|cannot|can't|can not|could not|"
        r"couldn't|would "
        r"not|wouldn't|never) (?:\w+ly )?(?:know|knew|say|tell|answer|help|find|recall|remember|identify|"
        r"provide|determine|"
        r"recognize|recognise|confirm|be (?:sure|certain)|learned|heard)\b",
        r"\b(?:i am|i'm|im|we are|we're) (?:\w+ly )?(?:not|un)[ -]?(?:\w+ly )?(?:sure|certain|aware|familiar|able)\b",
        r"\b(?:i have|i've|we have|we've|i had) (?:never|not|n't) (?:\w+ly )?(?:heard|met|read|seen|learn\w+|"
        r"been told|been taught|"
        r"come across|encountered|got)\b",
        r"\bi haven't (?:\w+ly )?(?:heard|met|read|seen|learn\w+|been told|come across|encountered|got)\b",
        rf"\b(?:i|we) (?:have|had|hold|possess|lack|find|found|(?:do not|don't|did not|"
        rf"didn't) (?:\w+ly )?(?:have|hold|possess|see))"
        rf"(?: (?:no|any|enough|much|the|that|such|sufficient|specific|further|other|access to|reliable|"
        rf"personal|\w+ly))* "
        rf"(?:{_FACTS}|way (?:of|to))\b",
        rf"\b(?:there is|there's|there are|there was|there were|we have|sorry,) (?:no|not enough|"
        rf"insufficient) (?:\w+ ){{0,2}}"
        rf"(?:{_FACTS}|such (?:person|place|thing|name|one|work))\b",
        rf"^(?:sorry, )?no (?:\w+ ){{0,2}}(?:{_FACTS})\b",
        rf"\b(?:is|are|was|were|has|have|remains?|'s)(?: been)? (?:not|never|un|nowhere)[ -]?(?:\w+ly |yet |"
        rf"been )*(?:{_KNOWN})\b",
        rf"\b(?:isn't|aren't|wasn't|weren't|hasn't been) (?:\w+ly |yet )?(?:{_KNOWN})\b",
        r"\b(?:does not|doesn't|did not|didn't) (?:ring a bell|say|mention|state|tell|specify)\b",
        rf"^(?:sorry, )?(?:(?:it is|it's|that is|that's|this is|he is|she is) )?(?:un|not )(?:{_KNOWN})\b",
        r"^(?:sorry, )?(?:not sure|no idea|unclear|n/?a\b|cannot say|can't say|hard to say|cannot tell|"
        r"can't tell|never heard)",
        r"\b(?:nobody|no one|no-one) (?:knows|has (?:ever )?(?:told|said)|told me|ever told|can say)\b",
        r"\b(?:unknown|unfamiliar|new|not known) to (?:me|us)\b",
        r"\b(?:beyond|outside|outside of|not in|not part of) (?:my|our|what i) (?:knowledge|memory|records|"
        r"training|data|know)\b",
        r"\bi (?:was|am|have been) (?:not|never) (?:told|taught|given|informed|trained)\b|\bi wasn't (?:told|"
        r"taught|given)\b",
        r"^(?:i am|i'm) (?:very |so )?sorry[.!]?$|^sorry[.!]?$|\bnot that i (?:know|am aware|have heard)\b",
        r"\b(?:could|can) you (?:please )?(?:provide|give me|clarify|specify|tell me)\b|^please (?:provide|"
        r"clarify|specify)\b",
    ),
    "German": (
        r"\b(?:ich|wir) (?:weiss|wissen|kenne|kennen|finde|habe|haben|kann|können|bin|erinnere|möchte) (?:\w+ ){0,6}?"
        r"(?:nicht|nichts|kein|keine|keinen|keinerlei|überfragt)\b",
        r"\bweiss ich (?:leider )?nicht\b|\bkenne ich (?:leider )?nicht\b|\b(?:mir|"
        r"uns) (?:leider )?(?:nicht bekannt|unbekannt)\b",
        r"\b(?:ist|sind|wird|wurde|bleibt) (?:\w+ ){0,4}?(?:nicht (?:bekannt|erwähnt|angegeben|genannt)|"
        r"unbekannt|unklar)\b",
        r"\b(?:es gibt|dazu gibt es|dazu habe ich|darüber habe ich) (?:leider )?(?:keine|keinerlei)\b|"
        r"^(?:leider )?keine (?:ahnung|"
        r"information\w*|angabe\w*)\b|^(?:unbekannt|nicht bekannt)\b",
    ),
    "French": (
        r"\bje (?:ne|n')\s?(?:le |la |les |l'|peux |peux pas |suis |me |m')*\s?(?:sais|connais|dispose|trouve|"
        r"ai|peux|souviens|"
        r"sûr|certain|répondre|dire)?\b.{0,20}\b(?:pas|aucun|aucune|jamais|rien)\b",
        r"\bj'ignore\b|\bje l'ignore\b|\baucune (?:idée|information|donnée)\b|\bj'en sais rien\b|"
        r"\b(?:je )?sais pas\b",
        r"\b(?:n'est|ne sont|n'a|n'ont) pas (?:été )?(?:connu|mentionn|précis|indiqu|disponible)\w*|"
        r"^inconnue?s?\b|\best inconnue?s?\b",
    ),
    "Spanish": (
        r"\bno (?:lo |la |le |te |se |me )*(?:s[eé]|sabemos|conozco|conocemos|puedo|podemos|tengo|tenemos|"
        r"recuerdo|encuentro|dispongo|"
        r"estoy segur[oa]|hay (?:informaci|datos)|se (?:sabe|conoce|menciona))",
        r"\b(?:desconozco|lo ignoro|nadie sabe|nunca he o[ií]do)\b|^desconocid[oa]s?\b|\bes desconocid[oa]\b|"
        r"\bni idea\b",
    ),
    "Italian": (
        r"\bnon (?:lo |la |li |ne |mi |ti )*(?:so|sappiamo|conosco|conosciamo|posso|ho|abbiamo|ricordo|trovo|"
        r"sono sicur[oa]|"
        r"ci sono (?:informazioni|dati)|è (?:noto|nota|menzionat[oa]|specificat[oa]|disponibile)|si sa)\b",
        r"\bnessuna (?:idea|informazione)\b|^sconosciut[oa]\b|\bè sconosciut[oa]\b|\bmai sentit[oa]\b|\blo ignoro\b",
    ),
    "Portuguese": (
        r"\b(?:não|nao) (?:o |a |te |me |lhe )*(?:sei|sabemos|conheço|conheco|posso|tenho|temos|lembro|encontro|"
        r"estou certo|há (?:"
        r"informa|dados)|se sabe|é (?:conhecid|mencionad)|fui informad)",
        r"\b(?:desconheço|ninguém sabe|nunca ouvi|nenhuma (?:ideia|informação))\b|^desconhecid[oa]\b|"
        r"\bé desconhecid[oa]\b",
    ),
    "Dutch": (
        r"\b(?:ik|wij|we) (?:weet|weten|ken|kennen|heb|hebben|kan|kunnen|ben|herinner) (?:\w+ ){0,5}?(?:niet|"
        r"niets|geen|nooit)\b",
        r"\b(?:is|zijn|blijft) (?:\w+ ){0,4}?(?:niet bekend|onbekend|niet vermeld)\b|^onbekend\b|^geen (?:idee|"
        r"informatie)\b",
    ),
    "Polish": (
        r"\bnie (?:wiem|znam|mam|mogę|moge|pamiętam|jestem pew\w+|wiadomo|podano|ma informacji|słyszał\w+)\b|"
        r"\bnieznan[eya]\b",
    ),
    "Turkish": (
        r"\b(?:bilmiyorum|bilmiyoruz|bilgim yok|bilgi yok|bilgiye sahip değilim|emin değilim|hatirlamiyorum|"
        r"tanimiyorum|bilinmiyor"
        r"|cevaplayamam|duymadım)\b",
    ),
    "Russian": (
        r"(?:не (?:знаю|знаем|могу|можем|помню|уверен\w*|слышал\w*|нашел|нашла|располага\w+|знаком\w*|указан\w*|"
        r"известн\w*|"
        r"упомина\w+)|нет (?:информации|данных|сведений)|неизвестн\w+|понятия не имею)",
    ),
    "Chinese": (
        r"不知道|不清楚|不了解|不认识|不認識|不确定|不確定|无法(?:回答|确定|提供|得知)|無法(?:回答|確定|提供|得知)|没有(?:相关|任何|这方面|该)?(?:的)?"
        r"(?:信息|资料|记录)|沒有(?:相關|任何|這方面)?(?:的)?(?:資訊|資料|記錄)|没听说过|沒聽說過|未知|不详|不詳|未提及",
    ),
    "Japanese": (
        r"(?:知り|分かり|わかり|存じ|覚えてい)ません|知らない|分からない|わからない|(?:情報|記録|データ)(?:が|は)(?:ありません|ない)|"
        r"不明|お答えできません|聞いたことが(?:ありません|ない)|答えられません",
    ),
    "Korean": (
        r"모르겠|모릅니다|몰라요|몰라|알지 못|알 수 없|알려지지 않|정보가 없|들어 ?본 적이? ?없|"
        r"답할 수 없|답변할 수 없|확실하지 않",
    ),
    "Arabic": (
        r"لا (?:أعرف|اعرف|أعلم|اعلم|نعرف|أدري|ادري|أستطيع|استطيع|يمكنني|أملك|املك|توجد معلومات|أتذكر)|ليس لدي|"
        r"ليست لدي|لم أسمع|"
        r"غير (?:معروف|معلوم|مذكور|متأكد)",
    ),
    "Hindi": (r"नहीं (?:पता|जानता|जानती|मालूम|है कोई)|पता नहीं|मालूम नहीं|(?:जानकारी|सूचना) नहीं|अज्ञात|नहीं जान|उत्तर नहीं दे",),
}
"""Patterns of refusals by language (regular expressions over folded text), all of which are tried on every answer."""

_ANY = regex.compile("|".join(f"(?:{pattern})" for patterns in REFUSALS.values() for pattern in patterns))


def is_refusal(answer: str) -> bool:
    """Whether ``answer`` says in its first sentence that the model does not know, in any language of :data:`REFUSALS`."""
    text = fold_case(normalize(answer)).replace("’", "'").replace("ʼ", "'").strip()
    end = next(iter(sentence_ends(text)), len(text))
    if end < 12 and regex.match(r"(?:(?:i am|i'm) (?:so )?)?sorry|hm+|well|oh|no\b", text):  # "Sorry. I do not know."
        end = next((each for each in sentence_ends(text) if each > end), len(text))
    return _ANY.search(" ".join(text[:end].split())) is not None
