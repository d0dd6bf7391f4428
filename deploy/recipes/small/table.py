#!/usr/bin/env python3
"""Prints what `kvlink eval --json` measured of the small model, as tables in Markdown.

table.py FOLDER            what run.sh measured: a table for each set of questions
table.py --mixture FOLDER  what mixture.sh measured: before and after each training
"""
import json
import math
import os
import sys

SETS = [("seen", "Names and wordings as trained, other questions (`tune`)"), ("names", "Unseen names (`tune`, names of letters)"),
        ("long", "Documents twice as long (`tune`)"), ("unseen", "Unseen names, relations, wordings and templates (`test`)")]
MODELS = [("base", "base"), ("links-0", "tuned, N = 0"), ("links-1", "tuned, N = 1"), ("links-5", "tuned, N = 5")]
KINDS = [("lookup", 4), ("hops-across", 4), ("chain", 2), ("continued", 6)]
HARD = "continued"


def cells_of(folder, name):
    """By kind and linker; none of a file that is not there."""
    path = os.path.join(folder, name + ".json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return {(cell["kind"], cell["linker"]): cell for cell in json.load(file)["cells"]}


def percent(value):
    return "%.1f" % (100 * value)


def exact(cell):
    return percent(cell["exact"]["mean"]) if cell and "exact" in cell else ""


def recovery(cell):
    found = (cell or {}).get("exact_recovery")
    if found is None:
        return ""
    interval = found.get("interval")
    return percent(found["value"]) + (", " + "..".join(percent(bound) for bound in interval) if interval else "")


def row(*columns):
    print("| " + " | ".join(columns) + " |")


def head(*columns):
    row(*columns)
    print("|" + "---|" * len(columns))


def linkers_table(folder):
    for name, title in SETS:
        rows = []
        for model, shown in MODELS:
            cells = {}
            for documents in sorted({documents for _, documents in KINDS}):
                cells.update(cells_of(folder, "%s-%s-%d" % (name, model, documents)))
            linkers = []
            for _, linker in cells:
                if linker not in linkers and linker != "closed-book":
                    linkers.append(linker)
            for linker in linkers:
                hard = cells.get((HARD, linker))
                rows.append([shown, "`%s`" % linker] + [exact(cells.get((kind, linker))) for kind, _ in KINDS] +
                            [recovery(hard), "%.3f" % hard["divergence"]["mean"] if hard else "",
                             percent(hard["recomputed_share"]) + "%" if hard and "recomputed_share" in hard else ""])
        if not rows:
            continue
        print("%s. EM; recovery, KL and what is recomputed are of `%s`.\n" % (title, HARD))
        head("model", "linker", *["%s, %d documents" % kind for kind in KINDS], "recovery, 95%", "KL", "recomputed")
        for columns in rows:
            row(*columns)
        print()


def perplexity(cell):
    if not cell or "cross_entropy" not in cell:
        return ""
    low, high = cell["cross_entropy"]["interval"]
    return "%.2f, %.2f..%.2f" % (math.exp(cell["cross_entropy"]["mean"]), math.exp(low), math.exp(high))


def loss(cell):
    if not cell or "cross_entropy" not in cell:
        return ""
    return "%.3f, %.3f..%.3f" % (cell["cross_entropy"]["mean"], *cell["cross_entropy"]["interval"])


def mixture_table(folder):
    print("Held out, with 95%% intervals: plain text by perplexity, chats by cross-entropy in nats a token; EM of `%s`. Alone: documents and\n"
          "earlier turns are read alone, by `concat` in the base and by `links` after training.\n" % HARD)
    head("model", "text, full", "text, alone", "chats, full", "chats, alone", "EM, full", "EM, alone")
    trainings = [("base", "before", "concat"), ("links-5", "after questions alone", "links"), ("mixture", "after the mixture", "links")]
    for model, shown, alone in trainings:
        text, chats, asked = (cells_of(folder, "mixture-%s-%s" % (model, kind)) for kind in ("text", "chat", "questions"))
        row(shown, perplexity(text.get(("text", "full"))), perplexity(text.get(("text", alone))), loss(chats.get(("chat", "full"))),
            loss(chats.get(("chat", alone))), exact(asked.get((HARD, "full"))), exact(asked.get((HARD, alone))))


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--mixture":
        mixture_table(arguments[1])
    elif len(arguments) == 1:
        linkers_table(arguments[0])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
