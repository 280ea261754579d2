"""Valid, nearly valid and mutated lines, with quotes, backslashes and delimiters in odd places."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.fuzz import seeds_of

NAMES = [
    *rb"m cpu run rank 0 loss train/loss - ' acc@1 acc@5 a.b step \nx \,".split(),
    *rb"a\b a\\b x\,y x\\\y".split(),
    b'q"',
    rb"x\ y",
    rb"a\ \,",
    rb"\ a",
    "é".encode(),
    "€".encode(),
    "😀".encode(),
]
ODD_NAMES = [
    *rb"a=b x\=y _x C:\x $ # time #!~# a\\ a\\\, \" \\=".split(),
    b'"',
    rb"a\\\ b",
]
VALUES = [
    *rb"1 1.5 -1 1i -5i 1u t true FALSE F True T .5 5. 1e5 1E-3 -.5 -0 007".split(),
    *rb'"" "s" "\"" "\\"'.split(),
    *b"18446744073709551615u 9223372036854775807i 1795277400000000000".split(),
    b"0" * 25 + b"1i",
    b'"a b,c=d"',
    b'"a\nb"',
    rb'"a\nb"',
    b'"a\x00\r"',
]
ODD_VALUES = [
    *b"NaN inf abc 0x1 1_0 1e400 9223372036854775808i 18446744073709551616u 1e --1 1.2.3".split(),
    *b"1i2 tr - -i . 1e5i 1.5i -1u + 1e+-5 nan".split(),
    *rb'" "\" "x\\'.split(),
    b"",
    b"1" * 30,
    b"1" * 400,
]
TIMES = [b"1795277400000000000"] * 6 + b"0 -1 007 -9223372036854775806".split()
ODD_TIMES = b"9223372036854775807 99999999999999999999 1.5 - 1-2 +5 -0 x".split()
PIECES = [
    *rb"a 0 1 \ \\ \, \= \" , = # _ #!~# time step - . 1i 1u t NaN ' / : { \n".split(),
    *(b'"', b'""', b"\\ ", b" ", b"  ", b"\t", b"\x00", b"\r", b"\n", b"\x7f", b"\xff"),
    *(b"\xc3\xa9", b"\xe2\x82", b"\x80"),
]


def seed_lines() -> Iterator[bytes]:
    """The fuzzer's seeds, each as a whole and line by line."""
    for seed in seeds_of("lines"):
        text = seed.read_bytes()
        yield text
        yield from text.split(b"\n")


def odd_lines(seed: int, number: int) -> Iterator[bytes]:
    """The same lines for the same seed; a quarter to a third of them are good."""
    chance = random.Random(seed)
    for _ in range(number):
        if chance.random() < 0.1:
            yield b"".join(chance.choices(PIECES, k=chance.randrange(1, 12)))
        else:
            yield _mutated(chance, _line(chance))


def _line(chance: random.Random) -> bytes:
    def name() -> bytes:
        text = chance.choice(NAMES if chance.random() < 0.95 else ODD_NAMES)
        return text + chance.choice(PIECES) if chance.random() < 0.04 else text

    def field() -> bytes:
        return name() + b"=" + chance.choice(VALUES if chance.random() < 0.92 else ODD_VALUES)

    text = b" " * chance.choice([0, 0, 0, 0, 0, 1, 2]) + name()
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        text += b"," + name() + b"=" + name()
    text += b" " * chance.choice([1] * 18 + [2, 0])
    text += b",".join(field() for _ in range(chance.choice([1, 1, 2, 3])))
    if chance.random() < 0.7:
        time = chance.choice(TIMES if chance.random() < 0.93 else ODD_TIMES)
        text += b" " * chance.choice([1] * 9 + [2]) + time
    return text + chance.choice([b""] * 8 + [b" ", b"  ", b"\r", b"\t"])


def _mutated(chance: random.Random, text: bytes) -> bytes:
    for _ in range(chance.choice([0, 0, 0, 0, 1, 1, 2])):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(4):
            case 0 | 1:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 2:
                text = text[:at] + text[at + chance.randrange(1, 4) :]
            case 3:
                other = chance.randrange(len(text) + 1)
                text = text[:at] + text[min(at, other) : max(at, other)] + text[at:]
    return text
