"""Measures and their differences as pages write them: units, signs, intervals."""

from __future__ import annotations

from collections.abc import Mapping

from llava_moe.grid.measured import Compared, Kind

MINUS = "\N{MINUS SIGN}"
UNITS: Mapping[Kind, str] = {
    **{"accuracy": "points", "loss": "nats a token"},
    **{"negative": "points", "surely negative": "points"},
}
MEASURES: Mapping[Kind, str] = {
    **{"accuracy": "accuracy", "loss": "held-out loss"},
    **{"negative": "cells below 0", "surely negative": "cells surely below 0"},
}


def shown(kind: Kind, number: float, has_sign: bool = False) -> str:
    """``51.3`` points or ``2.135`` nats; with a sign, of a difference."""
    text = f"{number:+.3f}" if kind == "loss" else f"{100 * number:+.1f}"
    return (text if has_sign else text.lstrip("+")).replace("-", MINUS)


def interval(compared: Compared, has_sign: bool = True) -> str:
    """``+1.2 (-0.3 to +2.7)``; the number alone where there is no interval."""
    kind, effect = compared.kind, compared.effect
    if effect is None:
        return shown(kind, compared.after - compared.before, has_sign)
    ends = [shown(kind, end, has_sign) for end in (effect.low, effect.high)]
    return f"{shown(kind, effect.value, has_sign)} ({ends[0]} to {ends[1]})"


def share(number: float | None) -> str:
    """``+116.5 %``; a dash where it is not known."""
    return "\N{EN DASH}" if number is None else f"{100 * number:+.1f} %".replace("-", MINUS)
