"""Inputs that were damaged or forged: mutations of bytes and of JSON values, deterministic for a generator."""

import copy
import gzip
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

EDGES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), float("-inf"))
FORMS = ("<B", "<h", ">h", "<H", ">H", "<i", ">i", "<I", ">I", "<q", ">q", "<f", ">f", "<d", ">d")


def mutate(content: bytes, chance: random.Random, head: int = 1024) -> bytes:
    """Change a few bytes, mostly near the beginning, where headers are."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        content = _mutate_once(content, chance, head)
    return content


def _mutate_once(content: bytes, chance: random.Random, head: int) -> bytes:
    if not content:
        return bytes([chance.randrange(256)])
    place = chance.randrange(min(len(content), head) if chance.random() < 0.8 else len(content))
    way = chance.randrange(9)
    if way == 0:
        return content[:place]
    if way == 1:
        return content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
    if way == 2:
        return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
    if way == 3:
        return content[:place] + chance.randbytes(chance.choice((1, 4, 64))) + content[place:]
    if way == 4:
        return content[:place] + content[place + chance.choice((1, 4, 64)) :]
    if way == 5:
        piece = content[place : place + chance.choice((4, 32, 256))]
        return content[:place] + piece * chance.choice((2, 3, 50)) + content[place:]
    number = _packed(chance)
    if way == 6:
        place -= place % len(number)
    return content[:place] + number + content[place + len(number) :]


def _packed(chance: random.Random) -> bytes:
    form = chance.choice(FORMS)
    if form[1] in "fd":
        return struct.pack(form, chance.choice(FLOATS[:7] + FLOATS[8:] if form[1] == "f" else FLOATS))
    size = 8 * struct.calcsize(form)
    value = chance.choice(EDGES) & (2**size - 1)
    return struct.pack(form.replace(form[1], form[1].upper()), value)


def repacked(content: bytes, chance: random.Random) -> bytes:
    """Mutate what is inside a gzip file, or the file itself."""
    if chance.random() < 0.25:
        return mutate(content, chance, head=64)
    return gzip.compress(mutate(gzip.decompress(content), chance, head=400), compresslevel=1, mtime=0)


STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**30, -(10**30), 0.5, 1e308, -1e-320, float("nan"), float("inf"), "", "a",
    "../../outside", "/etc/passwd", "nul\0nul", "x" * 5000, "\ud800", "é漢\u202e", "line\nline", "1e999", [], {}, [[]],
    [None], {"": None}, [0] * 2000,
)  # fmt: skip


def mutate_json(content: bytes, chance: random.Random) -> bytes:
    """Change values, keys or the shape of a JSON text; now and then its letters."""
    way = chance.random()
    if way < 0.2:
        return mutate(content, chance, head=len(content))
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _mutate_value(value, chance)
    text = json.dumps(value)
    if way < 0.25:
        text = _doubled_key(text, chance)
    elif way < 0.28:
        text = text.replace(": 1", ": " + chance.choice(("1" * 4000, "1" * 10000, "1e400", "NaN", "-Infinity")), 1)
    elif way < 0.32:
        deep = chance.choice((100, 900, 1100, 5000, 200_000))
        text = chance.choice(("[" * deep, "[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep))
    elif way < 0.34:
        return text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")))
    return text.encode("utf-8", "surrogatepass")


def _doubled_key(text: str, chance: random.Random) -> str:
    keys = [place for place in range(len(text) - 1) if text[place] in "{," and text[place + 1 :].lstrip()[:1] == '"']
    place = chance.choice(keys) if keys else 0
    ends = text.find(":", place)
    return text if ends < 0 else f"{text[: place + 1]}{text[place + 1 : ends]}: null, {text[place + 1 :]}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _mutate_value(value: Any, chance: random.Random) -> Any:
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return copy.deepcopy(chance.choice(STRANGE))
    holder, key = chance.choice(places)
    way = chance.randrange(6)
    if way <= 2:
        holder[key] = copy.deepcopy(chance.choice(STRANGE))
    elif way == 3:
        del holder[key]
    elif way == 4:
        other_holder, other_key = chance.choice(places)
        holder[key] = copy.deepcopy(other_holder[other_key])
    elif isinstance(holder, dict):
        holder[chance.choice(("../x", "", "a\0", "x" * 3000, "9" * 30, "Ⅷ", "²", "inherits"))] = holder[key]
    else:
        holder.insert(key, copy.deepcopy(holder[key]))
    return value
