"""What the text of one variable means. Blanks and line ends around it mean nothing: editors leave them there.

Every function here raises ValueError with what is wrong, and never with a secret in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def read_value(type_name: str, text: str) -> Any:
    """Read a value of the type that a setting has: int, bool, Path or str."""
    text = text.strip("\r\n") if type_name == "Path" else text.strip()
    match type_name:
        case "int":
            number = int(text)
            if number < 0:
                raise ValueError(f"{number} is negative")
            return number
        case "bool":
            return _read_switch(text)
        case "Path":
            return _read_path(text)
    return text


def _read_switch(text: str) -> bool:
    if text.lower() in {"on", "true", "yes", "1"}:
        return True
    if text.lower() in {"off", "false", "no", "0", ""}:
        return False
    raise ValueError(f"{text!r} is neither on nor off")


def _read_path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{text!r} begins with a home that nobody knows") from error


def read_host(text: str) -> str:
    """Read a host; an IPv6 address may stand in the brackets that it wears in an address."""
    return text.strip().removeprefix("[").removesuffix("]")


def read_link(text: str) -> str:
    """Read what becomes a link of a page: an address of a browser, or nothing."""
    text = text.strip()
    place = urlsplit(text)
    if text and (place.scheme not in ("http", "https") or not place.hostname or place.username is not None):
        raise ValueError("is not an address such as https://grafana.example without user and password")
    return text.rstrip("/")


def read_secret(text: str) -> str:
    """Read a secret: one line of text."""
    text = text.strip()
    if not text.isprintable():
        raise ValueError("is not one line of text: it has a line end, or another character that nobody sees, inside")
    return text


def read_passwords(text: str) -> str:
    """Read passwords as `NAME=PASSWORD,…`; each may stand on a line of its own."""
    return ",".join(read_secret(pair) for pair in text.split(","))


def read_header_secret(text: str) -> str:
    """Read a secret that is sent with every call, where only what can be seen of ASCII may stand."""
    text = read_secret(text)
    if not text.isascii() or " " in text:
        raise ValueError("has a character that cannot be sent with a call: letters, digits and signs of ASCII can")
    return text


def read_secret_file(path: str) -> str:
    """Read the file of a secret."""
    try:
        # With or without the mark that some editors begin a file with.
        text = Path(path.strip()).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text
