"""What a language model is told about a walk, and how its answer is read.

A plain model sees text that goes on; a model with a chat template is asked. Titles are lines of
visible characters, so that none ends a line or turns it around. This file knows no weights and no
world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from train_lm.plain_text import visible


@dataclass(frozen=True)
class Prompt:
    """Text before the answer.

    Attributes:
        text: What is said; for a chat model the question, without the template around it.
        is_chat: Whether `text` is a question that belongs into a chat template.
    """

    text: str
    is_chat: bool


def plain_prompt(trail: Sequence[str], goal: str | None) -> Prompt:
    """A walk as text that asks for its next page: `… Ant > Bee >`."""
    purpose = f" in search of {visible(goal)}" if goal else ""
    return Prompt(f"From page to page{purpose}: {' > '.join(map(visible, trail))} >", False)


def chat_prompt(
    trail: Sequence[str], goal: str | None, offered: Sequence[str] | None = None
) -> Prompt:
    """The same as a question.

    Args:
        offered: Links of the page; None asks for any topic that comes to mind.
    """
    lines = ["You wander through an encyclopaedia, from page to page, out of curiosity."]
    if goal:
        lines = [f"You wander through an encyclopaedia, looking for the page {visible(goal)!r}."]
    lines.append("Pages so far: " + ", ".join(map(visible, trail)) + ".")
    if offered is None:
        lines.append("Which topic comes to your mind next? Answer with its name alone.")
    else:
        lines.append("The last page links to: " + "; ".join(map(visible, offered)) + ".")
        lines.append("Which link do you open next? Answer with its title alone.")
    return Prompt("\n".join(lines), True)


def read_answer(text: str) -> str:
    """The topic in a model's own words: up to an arrow or the end of the line, unquoted."""
    text = text.strip(" \n>")
    for end in ("\n", ">", "<"):
        text = text.split(end, 1)[0]
    return " ".join(text.split()).strip(" \t\"'“”.,:;*-")
