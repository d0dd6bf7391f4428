#!/usr/bin/env python3
"""Prints every figure that benches left in a folder: name, value, unit, target, whether it was met. Where PyTorch's full prefill was timed
too, it is compared with ours.

figures.py FOLDER
"""
import glob
import json
import os
import sys

PYTORCH = "PyTorch's full prefill "


def against_pytorch(figures):
    values = {figure["name"]: figure["value"] for figure in figures}
    ratios = []
    for name, theirs in values.items():
        ours = values.get("full prefill " + name.removeprefix(PYTORCH)) if name.startswith(PYTORCH) else None
        if ours and theirs:
            ratio = theirs / ours
            ratios.append({"name": name + " over ours", "value": ratio, "unit": "x", "target": 1, "met": ratio >= 1})
    return ratios


def show(heading, figures):
    print("== " + heading)
    for figure in figures:
        value = "%12.4g" % figure["value"] if figure["value"] is not None else "%12s" % "-"
        target = "" if figure["target"] is None else "%10.4g  %s" % (figure["target"], "met" if figure["met"] else "MISSED")
        print(("%-72s %s %-10s%s" % (figure["name"], value, figure["unit"], target)).rstrip())


def main(folder):
    figures = []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path) as file:
            read = json.load(file)
        show(os.path.basename(path).removesuffix(".json"), read)
        figures += read
    ratios = against_pytorch(figures)
    if ratios:
        show("against PyTorch", ratios)


if __name__ == "__main__":
    main(sys.argv[1])
