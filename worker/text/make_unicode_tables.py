#!/usr/bin/env python3
"""Writes unicode_tables.inc: the character classes and canonical mappings that the tokenizers need.

The version must be the one of the reference's regular expressions (Oniguruma 6.9.10: Unicode 16.0), which is newer than
Python's own tables:  pip install unicodedata2==16.0.0 && worker/text/make_unicode_tables.py > worker/text/unicode_tables.inc
"""
import unicodedata2 as unicode

VERSION = "16.0.0"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# Other_Alphabetic outside the categories L, M and Nl (PropList.txt).
ALPHABETIC_SYMBOLS = [(0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)]


def ranges(pairs):
    """[(code point, value)] ordered -> [(first, last, value)] of neighbours with equal values."""
    out = []
    for c, value in pairs:
        if out and out[-1][1] == c - 1 and out[-1][2] == value:
            out[-1][1] = c
        else:
            out.append([c, c, value])
    return out


def emit(text, items):
    print(text + " = {")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 120:
            print(line)
            line = "   "
        line += " " + item + ","
    print(line + "\n};")


def is_word(c):
    category = unicode.category(chr(c))
    return (category[0] in "LM" or category in ("Nd", "Nl", "Pc") or c in (0x200C, 0x200D)
            or any(a <= c <= b for a, b in ALPHABETIC_SYMBOLS))


def emit_class(name, member):
    emit("constexpr Range %s[]" % name, ["{0x%X, 0x%X}" % (a, b) for a, b, _ in ranges([(c, 1) for c in CODE_POINTS if member(c)])])


def main():
    assert unicode.unidata_version == VERSION, unicode.unidata_version
    print("// Unicode %s, written by make_unicode_tables.py. Do not edit." % VERSION)
    emit_class("kLetters", lambda c: unicode.category(chr(c))[0] == "L")
    emit_class("kNumbers", lambda c: unicode.category(chr(c))[0] == "N")
    emit_class("kWordCharacters", is_word)
    emit("constexpr ClassRange kCombiningClasses[]",
         ["{0x%X, 0x%X, %d}" % tuple(r) for r in ranges([(c, unicode.combining(chr(c))) for c in CODE_POINTS if unicode.combining(chr(c))])])
    # One step of canonical decomposition; the third member tells whether the pair composes again.
    items = []
    for c in CODE_POINTS:
        mapping = unicode.decomposition(chr(c))
        if not mapping or mapping.startswith("<"):
            continue
        parts = [int(part, 16) for part in mapping.split()] + [0]
        composes = unicode.normalize("NFC", chr(c)) == chr(c) and parts[1] != 0
        items.append("{0x%X, 0x%X, 0x%X, %d}" % (c, parts[0], parts[1], composes))
    emit("constexpr Decomposition kDecompositions[]", items)


main()
