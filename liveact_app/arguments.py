"""Argument types of the commands: what a text must be, in one sentence when it is not."""

import argparse
import math
import re
from collections.abc import Callable


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Argument type: a whole number in low..high."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text.strip()) or not low <= (value := int(text)) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return convert


def real_number(low: float, high: float) -> Callable[[str], float]:
    """Argument type: a finite number in low..high."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return value

    return convert


def picture_size(text: str) -> tuple[int, int]:
    """Argument type: W*H or WxH, width first, both multiples of 16 from 16 to 4096."""
    match = re.fullmatch(r"([0-9]{1,9})[*xX]([0-9]{1,9})", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"expected W*H in pixels, width first, such as 480*832, got {text!r}")
    w, h = int(match[1]), int(match[2])
    if any(side % 16 or not 16 <= side <= 4096 for side in (w, h)):
        raise argparse.ArgumentTypeError(
            f"expected both sides to be multiples of 16 from 16 to 4096 pixels, got {w}*{h}"
        )
    return w, h


def utf8_text(text: str) -> str:
    """Argument type: text that can be encoded, which a damaged terminal encoding does not give."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"expected valid UTF-8 text, got {text!r}") from None
    return text
