"""Whatever params.yaml holds, it is taken or refused in one line, at once, and nothing else happens."""

import collections
import copy
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewlabel import params
from fewlabel.errors import UserError
from tests.conftest import ROOT
from tests.reliability.sizes import MUTANTS, SEED

# As it is, and with images of one's own.
TEXT = (
    (ROOT / "params.yaml")
    .read_text(encoding="utf-8")
    .replace("\nown_images: {}", "\nown_images:\n  flowers:\n    folder: a/b\n    test: [rose]\n    tasks: [5w1s5q]")
)
assert "flowers:" in TEXT
SCALARS = [
    *("null", "~", "true", "yes", "''", "[]", "{}", "-1", "0", "1", "1.5", "1e-3", "1e400", "-0.0", ".inf", ".nan"),
    *("9" * 25, "9" * 5000, "0x" + "f" * 5000, "1e-400", "010", "1_000", "1:30", "0b11", "2026-11-24"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!python/object/apply:os.system [echo]", "!!float x", "!unknown x", "!!int 0x"),
    *("!!bool x", '!!int ""', "!!int _", '!!float ""', "!!timestamp x", "!!null x", "1" + ":59" * 200 + ".5"),
    *("smoke", "embedded", "5w1s", "all-5s", "20-0", "20-٣", "５w1s", "lake", "maml", "../../etc/passwd", "~/x"),
    *('"\\ud800"', '"\\0"', '"a\\nb"', '"\\e[31mred"', "\u202etxt", "\u200b", "é", "e\u0301", "😀" * 50, "x" * 100_000),
    *("{smoke: 1}", "{smoke: 1, cpu: 2, gpu: 3}", "{smoke: {smoke: 1}, cpu: [], gpu: null}", "{cpu: 1, tpu: 2}"),
    *("&a [*a]", "&a {smoke: *a, cpu: *a}", "*nowhere", "[" * 50 + "]" * 50, "{a: " * 50 + "1" + "}" * 50, "[" * 3000),
    *("? [a]\n: b", "? {a: b}\n: c", "{[a]: b}", "{1: 2}", "{null: 1}", "{a: 1, a: 2}", "|\n  text", "@x", "`x`"),
    "!!binary aGk=",
]
ODD = "\x00\x07\x1b\x7f\x85\ud7ff\ufeff\u2028\u202e\u0000\t\r\n:#{}[]&*!|>'\"%@`-?, é漢😀"


RAW = yaml.safe_load(TEXT)


def sections(raw: Any) -> list[dict[Any, Any]]:
    """All mappings of a parsed file."""
    found = [raw] if isinstance(raw, dict) else []
    inner = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return found + [each for value in inner for each in sections(value)]


def value_replaced(draw: random.Random) -> str:
    lines = TEXT.splitlines()
    number = draw.choice([i for i, line in enumerate(lines) if re.match(r"\s*\w+:", line)])
    lines[number] = re.sub(r":.*", lambda _: ": " + draw.choice(SCALARS), lines[number], count=1)
    return "\n".join(lines)


def typed_value_replaced(draw: random.Random) -> str:
    """A number, text, list or mapping of any size in the place of any value."""
    raw = copy.deepcopy(RAW)
    section = draw.choice([each for each in sections(raw) if each])
    key = draw.choice(list(section))
    section[key] = draw.choice(
        [
            draw.randint(-(10 ** draw.randint(0, 40)), 10 ** draw.randint(0, 40)),
            draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300),
            "".join(draw.choice(ODD + "aZ09") for _ in range(draw.randint(0, 20))),
            [draw.choice([0, -1, "x", None, 1.5, []]) for _ in range(draw.randint(0, 4))],
            {
                draw.choice(["smoke", "cpu", "night", "gpu", "x", 1, None]): draw.choice([1, "x", None, {}])
                for _ in range(3)
            },
        ]
    )
    return yaml.safe_dump(raw, allow_unicode=draw.random() < 0.5)


def key_changed(draw: random.Random) -> str:
    raw = copy.deepcopy(RAW)
    section = draw.choice([each for each in sections(raw) if each])
    key = draw.choice(list(section))
    value = section.pop(key)
    other = draw.choice(
        [None, key[:-1], key + "s", key.upper(), key[::-1], draw.choice(ODD) + key, "", "a\nb", 7, "<<"]
    )
    if other is not None:
        section[other] = value
    return yaml.safe_dump(raw, allow_unicode=True)


def bytes_changed(draw: random.Random) -> bytes:
    content = bytearray(TEXT.encode())
    for _ in range(draw.choice([1, 1, 1, 2, 5, 50])):
        at = draw.randrange(len(content))
        change = draw.randrange(4)
        if change == 0:
            content[at] = draw.randrange(256)
        elif change == 1:
            del content[at : at + draw.choice([1, 10, 100])]
        elif change == 2:
            content[at:at] = draw.choice(ODD).encode()
        else:
            content[at:at] = content[at : at + draw.choice([1, 30, 300])]
    return bytes(content)


def lines_shuffled(draw: random.Random) -> str:
    lines = TEXT.splitlines()
    for _ in range(draw.choice([1, 2, 10])):
        one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[one], lines[other] = draw.choice(
            [(lines[other], lines[one]), (lines[other],) * 2, ("  " + lines[one], "")]
        )
    return "\n".join(lines)


def whole_file(draw: random.Random) -> bytes:
    deep, wide = draw.choice([10, 1000, 50_000]), draw.choice([1, 40])
    laughs = "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, wide))
    return draw.choice(
        [
            TEXT.encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"])),
            draw.randbytes(draw.randrange(2000)),
            b"[" * deep,
            b"{a: " * deep,
            b"- " * deep,
            ("budget: cpu\na0: &a0 {x: 1}\n" + laughs).encode(),
            TEXT.encode() * 2,
            TEXT.encode() + b"\n---\n" + TEXT.encode(),
            b"budget: [cpu]",
            b"budget: {cpu: cpu}",
            b"",
        ]
    )


MUTATORS: list[Callable[[random.Random], str | bytes]] = [
    value_replaced, value_replaced, typed_value_replaced, typed_value_replaced, key_changed, bytes_changed,
    lines_shuffled, whole_file,
]  # fmt: skip


@pytest.mark.parametrize("mutate", dict.fromkeys(MUTATORS), ids=lambda each: each.__name__)
def test_a_mutated_file_is_taken_or_refused_in_one_line(tmp_path: Path, mutate: Callable[..., str | bytes]) -> None:
    path = tmp_path / "params.yaml"
    ends: collections.Counter[str] = collections.Counter()
    for number in range(MUTANTS * MUTATORS.count(mutate) // len(MUTATORS)):
        content = mutate(random.Random(f"{SEED} {mutate.__name__} {number}"))
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        began, refusal = time.process_time(), ""
        try:
            params.load(path)
        except UserError as error:
            refusal = str(error)
        ends["refused" if refusal else "taken"] += 1
        assert refusal.isprintable(), number  # one line, and nothing in it that a terminal obeys
        assert len(refusal) < 1000, (number, refusal)
        assert not refusal or str(path) in refusal, (number, refusal)
        assert time.process_time() - began < 10, number
    assert list(tmp_path.iterdir()) == [path]
    print(f"{mutate.__name__}: {dict(ends)}")
    assert ends["refused"]
