"""One setting: its declaration, and how its text is read, checked and shown.

A variable is a line of the class Settings in fields.py, made by one of these functions.
"""

import re
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin


class Setting(NamedTuple):
    """What one variable may say. Bounds are inclusive; pattern must match the whole text."""

    default: Any
    meaning: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    pattern: str = ".*"
    valid: str = ""  # what the pattern asks for, in words
    unset: str = ""  # what holds without a value, where the default is None
    secret: bool = False  # may hold a credential: never shown with it


def a_setting(default: Any, meaning: str, **rest: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(default, meaning, **rest)})


def a_size(default: int, meaning: str, at_least: int = 1_048_576, at_most: int = 2**40) -> Any:
    return a_setting(default, meaning, unit="bytes", at_least=at_least, at_most=at_most)


def a_port(default: int, meaning: str, at_least: int = 0) -> Any:
    return a_setting(default, meaning, unit="port", at_least=at_least, at_most=65_535)


def a_host(default: str, meaning: str) -> Any:
    valid = "must be an address or host name such as 127.0.0.1, 0.0.0.0 or ::1"
    return a_setting(default, meaning, pattern=r"[A-Za-z0-9.:_-]+", valid=valid)


def a_server(meaning: str, port: str) -> Any:
    pattern = r"[A-Za-z0-9._-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*|\[[0-9A-Fa-f:.]+\]"
    valid = f"must be one host name or address such as db1, 10.0.0.5 or ::1, without its port: that is {port}"
    return a_setting(None, meaning, unset="none", pattern=pattern, valid=valid)


def a_name(default: str, meaning: str) -> Any:
    return a_setting(default, meaning, pattern=r"[A-Za-z0-9_-]{1,64}", valid="must be 1 to 64 letters, digits, _ or -")


def an_address(default: str, whose: str) -> Any:
    valid = "must be like https://host:443, without a path"
    return a_setting(default, f"Address of {whose}, without a path.", pattern=r"https?://[^\s/?#]+/?", valid=valid)


def a_login(meaning: str, secret: bool = False) -> Any:
    return a_setting(None, meaning, unset="none", secret=secret)


def a_file(meaning: str, unset: str = "none") -> Any:
    return a_setting(None, meaning, unset=unset, valid="must be a file")


NATS_SERVER = r"(nats|tls|ws|wss)://[^\s/,]+"
"""How the address of a NATS server reads."""


def parsed(setting: Setting, kind: Any, text: str) -> object:
    """The value text stands for; ValueError saying what would be valid."""
    choices = _choices(kind)
    if choices:
        if text.casefold() not in choices:
            raise ValueError(valid_text(setting, kind))
        return choices[text.casefold()]
    number = _number_kind(kind)
    if number is not None:
        return _number(setting, number, text)
    if re.fullmatch(setting.pattern, text) is None:
        raise ValueError(valid_text(setting, kind))
    return _path(text, setting.valid) if kind in (Path, Path | None) else text


def _path(text: str, valid: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{valid}: there is no user {text.partition('/')[0]}") from None


def _choices(kind: Any) -> dict[str, object]:
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return {choice.casefold(): choice for choice in get_args(kind)} if get_origin(kind) is Literal else {}


def _number_kind(kind: Any) -> type[int] | type[float] | None:
    """int or float, also where the setting may be unset; None for all else."""
    return next((one for one in (int, float) if kind in (one, one | None)), None)


def _number(setting: Setting, kind: type[int] | type[float], text: str) -> float:
    assert setting.at_least is not None
    assert setting.at_most is not None
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(valid_text(setting, kind)) from None
    if not setting.at_least <= value <= setting.at_most:  # a NaN lies nowhere
        raise ValueError(valid_text(setting, kind))
    return value


def valid_text(setting: Setting, kind: Any) -> str:
    """What would be valid, as the end of a sentence that begins with the variable."""
    number = _number_kind(kind)
    if number is not None:
        what = "a whole number" if number is int else "a number"
        unit = f" {setting.unit}" if setting.unit not in ("", "port") else ""
        return f"must be {what} from {setting.at_least:.16g} to {setting.at_most:.16g}{unit}"
    choices = _choices(kind)
    return f"must be one of {' '.join(choices if kind is bool else get_args(kind))}" if choices else setting.valid


def shown(setting: Setting, value: object) -> str:
    """value as text: a flag as true or false, an absent value as what holds then, a secret without its credential."""
    if value is None:
        return f"(unset: {setting.unset})"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return _redacted(text) if setting.secret else text


def _redacted(text: str) -> str:
    """A URL without what stands before its @ and without its query, where drivers take passwords; *** otherwise.

    Of any address but that of a database or a bus only the host is left: its path may be all that keeps others out.
    """
    if "://" not in text:
        return "***"
    if not re.match(r"(sqlite|mysql|mariadb|mongodb|nats|tls|wss?)\b", text):
        return re.sub(r"://(?:[^/?#]*@)?([^/?#]*).*", r"://\1/***", text, flags=re.DOTALL)
    parts = re.split(r",(?=\s*[a-z+]+://)", text)
    return ",".join(re.sub(r"\?.*$", "?***", re.sub(r"://.*@", "://***@", part)) for part in parts)
