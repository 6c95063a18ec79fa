"""What both README files tell a newcomer to type, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A paragraph that is indented by four spaces or more, or any other.
PARAGRAPH = re.compile(
    r"(?P<block>(?:^ {4,}\S.*\n(?:\n+(?= {4}))?)+)|(?P<text>(?:^.*\S.*\n)+)", re.MULTILINE
)
# What a shell runs, in a block or within a sentence.
COMMAND = re.compile(
    r"(make [a-z]|uvx |eval |\.venv/bin/|python3 -m |curl |cd |rm |mkdir |export |[A-Z]+=)"
)
WITHIN_SENTENCE = re.compile(r"(\.venv/bin/|python3 -m )")
CODE = re.compile(r"(from|import) |\"\"\"")
CRONTAB = re.compile(r"(\*|\d+) \* ")
OUTPUT = re.compile(r"(\{|Setting up )")


@dataclass(frozen=True)
class Step:
    """Something to do: a line for the shell, or a module to write."""

    section: str
    kind: str
    text: str


def steps(readme: str) -> Iterator[Step]:
    """Yield each command and each module of a README. Raises ValueError for an unknown block."""
    section = ""
    for found in PARAGRAPH.finditer(readme):
        text = found["text"]
        if text is None:
            yield from _steps_of_block(section, found["block"])
        elif text.startswith("## "):
            section = text[3:].strip()
        else:
            for span in re.findall(r"`([^`\n]+)`", text):
                if WITHIN_SENTENCE.match(span):
                    yield Step(section, "command", span)


def _steps_of_block(section: str, block: str) -> Iterator[Step]:
    depth = min(len(line) - len(line.lstrip()) for line in block.splitlines() if line.strip())
    lines = [line[depth:] for line in block.splitlines()]
    if CODE.match(lines[0]):
        yield Step(section, "module", "\n".join(lines).strip() + "\n")
    elif CRONTAB.match(lines[0]):
        yield Step(section, "crontab", lines[0])
    elif OUTPUT.match(lines[0]):
        return
    else:
        for line in filter(str.strip, lines):
            if not COMMAND.match(line):
                if OUTPUT.match(line):
                    return
                raise ValueError(f"neither a command nor code, in {section}: {line}")
            yield Step(section, "command", line)
