"""How the report writes names and numbers: short, rounded, with a true minus sign.

It knows no page and no plot. What has no value is a dash, never a zero.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.verdict.summary import ArmScore, Interval

MINUS, TIMES, NOTHING, NEVER = "\u2212", "\u00d7", "\u2013", "never"


def short(name: str, length: int) -> str:
    """At most `length` characters; an ellipsis stands for what is cut."""
    return name if len(name) <= length else name[: length - 1] + "…"


def bits(value: float | None, sign: bool = False) -> str:
    """Four decimals: arms differ by hundredths, seeds by thousandths of a bit per byte."""
    if value is None:
        return NOTHING
    return f"{value:{'+' if sign else ''}.4f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """A difference [bits per byte], with its sign even where it is positive."""
    return bits(value, sign=True)


def bracketed(found: Interval, show: Callable[[float], str]) -> str:
    """The interval from `low` to `high`, or nothing where one run gave none."""
    if found.low is None or found.high is None:
        return ""
    return f"[{show(found.low)}, {show(found.high)}]".replace("-", MINUS)


def speed_up(found: ArmScore) -> str:
    """An arm's speed-up [times]; 0 says that it never reached the reference's final loss."""
    middle = found.speed_up.centre
    if middle is None:
        return NOTHING
    return f"{middle:.2f}{TIMES}" if middle > 0 else NEVER


def amount(tokens: float) -> str:
    """Tokens in thousands, millions or billions, to four digits."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(tokens) >= size:
            return f"{tokens / size:.4g}{unit}"
    return f"{tokens:.4g}"
