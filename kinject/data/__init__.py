"""Documents and questions: reading them, inventing them, and working out in which direction a question asks.

Knows nothing of tokens or models.
"""

from kinject.data.direction import FactIndex, text_direction
from kinject.data.knowledge import (
    DIRECTIONS,
    PARAPHRASES,
    UNKNOWN,
    Direction,
    Document,
    KnowledgeSet,
    Question,
    format_facts,
    parse_facts,
)
from kinject.data.readers import load_knowledge, load_questions
from kinject.data.words import find_entities, reverse_text
from kinject.data.worlds.paper import biography, name_description

__all__ = [
    "DIRECTIONS",
    "PARAPHRASES",
    "UNKNOWN",
    "Direction",
    "Document",
    "FactIndex",
    "KnowledgeSet",
    "Question",
    "biography",
    "find_entities",
    "format_facts",
    "load_knowledge",
    "load_questions",
    "name_description",
    "parse_facts",
    "reverse_text",
    "text_direction",
]
