"""Documentation and code use the field's words: the phrases below stay out of them.

The list holds phrases that are wrong wherever they appear; a word that is sometimes right does not belong in it. The
tests scan pages with their fenced blocks, recipes, build and cluster files, and the comments, docstrings and messages
of the source.
"""

import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Phrase(NamedTuple):
    """A phrase to avoid.

    Attributes:
        pattern: regular expression, case-insensitive; a space matches any white space, line breaks included.
        instead: what to write.
        example: a text that the pattern finds.
    """

    pattern: str
    instead: str
    example: str


PHRASES = (
    Phrase(r"\b(go|goes|going|went|gone) on\b", "resume, continue", "a killed run goes on"),
    Phrase(r"\basked (for|of)\b", "requested, required", "what is asked for"),
    Phrase(r"\bbeside\b", "next to, in addition to, while … runs", "beside other work"),
    Phrase(r"\b(lies?|lay|lying) (in|on|at|under|together)\b", "is in, is stored in", "it lies in a folder"),
    Phrase(r"\b(stands?|stood|standing) in\b", "is in", "it stands in the table's name"),
    Phrase(r"\banew\b", "again", "writes it anew"),
    Phrase(r"\b(no|some)body\b", "no process, the user, any caller", "nobody waits for it"),
    Phrase(r"\bthose who\b", "users, callers, processes", "those who come later"),
    Phrase(r"\bmend(s|ed|ing)?\b", "fix", "an error that a user can mend"),
    Phrase(r"\bdrawn (pedestrian|people|person|crop|source)", "synthetic", "trains on drawn pedestrians"),
    Phrase(r"\b(a|one) sentence\b", "a one-line error message", "ends with one sentence"),
    Phrase(r"\b(tells|told) (of|how|that|what|which|whether|apart|by|to)\b", "reports, shows", "the log tells how"),
    Phrase(r"\bhouse rules?\b", "project, package", "House rules"),
    Phrase(r"\b(in|the) lanes?\b", "test group", "tests come in lanes"),
    Phrase(r"\bwho (wants|asks|reaches|gives)\b", "users who …, to …", "who wants to export it"),
    Phrase(r"\bmakers\b", "authors, developers", "tells its makers"),
    Phrase(r"\b(gives?|gave|given|giving) out\b", "fails, is full, runs out", "where the storage gives out"),
    Phrase(r"\b(is|are|was|were) passed over\b", "skipped", "it is passed over for the one before"),
    Phrase(r"\bseen to\b|\bsees to\b", "handled, removed", "a process sees to the files"),
    Phrase(r"\bjanitor\b", "cleanup process", "a janitor process"),
    Phrase(r"\bspeaks its language\b", "S3-compatible, compatible", "what speaks its language"),
    Phrase(r"\bneeds? (it|them) not\b|\bneed no more\b", "does not need", "a single run needs it not"),
    Phrase(r"\"{3}Of\b", "name the thing first: Seconds between …", '""\"Of a growing file'),
    Phrase(r"\bpatience\b", "leave it out", "patience ended there"),
)  # fmt: skip

FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "Makefile")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "reid_ray" / "recipes").glob("*.yaml")),
    *sorted(file for file in (ROOT / "cluster").rglob("*") if file.suffix != ".pyc" and file.is_file()),
]

SOURCES = [file for folder in ("reid_ray", "benchmarks", "docs") for file in sorted((ROOT / folder).rglob("*.py"))]

PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
"""Token types with prose; from Python 3.12 on, the text of an f-string is a token of its own."""


def prose_of(source: str) -> str:
    """Comments and string literals of Python source, each on its line; everything else is blank."""
    lines = [""] * (source.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in PROSE:
            for number, line in enumerate(token.string.split("\n"), start=token.start[0] - 1):
                lines[number] += f" {line}"
    return "\n".join(lines)


def found_in(text: str) -> list[str]:
    """`LINE: 'phrase'; write …` for every phrase of the list in a text."""
    found = []
    for phrase in PHRASES:
        for match in re.finditer(phrase.pattern.replace(" ", r"[\s#]+"), text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: '{match.group()}'; write: {phrase.instead}")
    return found


def test_documentation_uses_the_words_of_the_field():
    assert {file: found for file in FILES if (found := found_in(file.read_text(encoding="utf-8")))} == {}


def test_code_uses_the_words_of_the_field():
    assert {file: found for file in SOURCES if (found := found_in(prose_of(file.read_text(encoding="utf-8"))))} == {}


def test_prose_is_comments_and_strings():
    source = 'anew = 1  # comment\nbeside(anew, """first\nsecond""", f"{anew} message")\n'
    assert prose_of(source).split("\n")[0].strip() == "# comment"
    assert {"first", "second", "message"} <= set(re.findall(r"\w+", prose_of(source)))
    assert "beside" not in prose_of(source)
    assert found_in(prose_of("def wait():\n    # Nobody\n    return 1\n")) == [
        "line 2: 'Nobody'; write: no process, the user, any caller"
    ]


@pytest.mark.parametrize("phrase", PHRASES, ids=lambda phrase: phrase.example)
def test_every_phrase_is_found(phrase):
    assert re.search(phrase.pattern, phrase.example, re.IGNORECASE)
    assert found_in(phrase.example.upper().replace(" ", "\n# "))


def test_the_usual_words_are_not():
    assert not found_in("Besides, it stands out, lies between two images, and shows which sentences were passed to it.")
