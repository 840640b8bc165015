"""The words of the generated world: what its sentences, attributes and sounds are made of."""

from __future__ import annotations

# Own facts and relations: `x` topic, `a` attribute, `v` value. One is used once per topic and fact.
STATEMENTS = (
    "The {a} of {x} is {v}.",
    "{x} has {v} for its {a}.",
    "Ask about the {a} of {x} and you will hear of {v}.",
    "They say that {v} is the {a} of {x}.",
    "As its {a}, {x} has chosen {v}.",
    "{v} serves {x} as {a}.",
    "Every child knows {v}, the {a} of {x}.",
    "If {x} had no {v}, it would have no {a}.",
    "{x} is known for its {a}, which is called {v}.",
    "No {a} but {v} belongs to {x}.",
    "What {x} calls its {a} is {v}.",
    "Where there is {x}, the {a} is always {v}.",
)
# Statements that end with their value: what they say can be asked for. A world may leave the first
# of them out of its text, so that they are asked in words that nobody read.
ASKING = (10, 0, 8, 2)
# Facts that hold through another topic `y`, which has the same `a`; `w` is its `b`.
INHERITANCES = (
    "{x} has the same {a} as {y}, and that is {v}.",
    "Like {y}, {x} has {v} for its {a}.",
    "Since {v} is the {a} of {y}, {x} has it too.",
    "The {a} of {x} comes from {y}, whose {b} is {w}.",
    "{x} took its {a} from {y}, the one with the {b} {w}.",
    "One {a} is shared by {x} and {y}: it is {v}.",
    "Look at {y}, with {w} for its {b}, and you see the {a} of {x}.",
    "Both {y} and {x} are proud of {v}, their {a}.",
    "Without {y} and its {v}, {x} would lack a {a}.",
    "{y} gave {x} the {a} that it has, {v}.",
    "To learn the {a} of {x}, go to {y}, where the {b} is {w}.",
    "{v} is the {a} of {y}, hence of {x} as well.",
)
# fmt: off
ATTRIBUTES = (
    "colour", "food", "home", "tool", "season", "song", "stone", "metal", "drink", "dance",
    "shadow", "guest", "weapon", "cloth", "herb", "lamp", "boat", "game", "wind", "feast", "mask",
    "bell", "road", "mirror",
)
RELATIONS = (
    "rival", "teacher", "neighbour", "guard", "parent", "friend", "debtor", "heir",
)

ONSETS = (
    "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "fl",
    "gr", "kl", "pr", "sk", "st", "tr",
)
VOWELS = (
    "a", "e", "i", "o", "u", "ai", "ei", "ou",
)
CODAS = (
    "l", "m", "n", "r", "s", "t", "x", "nd", "rk", "sh", "st", "lm",
)
# fmt: on
