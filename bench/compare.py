#!/usr/bin/env python3
"""Runs benches of this tree and of an older build in alternation, and compares figure by figure.

  git worktree add ../base COMMIT && (cd ../base && make release)
  bench/compare.py ../base/build/release/bin bench_store bench_lookup [--rounds 5] [--bin build/release/bin] [--json FILE]
                   [--least 0.97] [-- FLAGS OF THE BENCHES]

Each round runs both builds, in changing order, and gives one ratio for each figure that both report under the same name:
above 1 is better now, whatever the unit (times count the other way round). The median of the rounds is printed. The exit
code is 1 if one is below --least. Shares, ratios and figures without a unit are left out: their parts are compared.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

TIMES = {"s", "ms", "us", "ns", "cpu-s/GB"}  # less is better


def figures(binary, flags):
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "figures.json")
        run = subprocess.run([binary, "--json", path, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode != 0:
            sys.exit("%s: exit code %d\n%s" % (binary, run.returncode, run.stdout[-2000:]))
        with open(path, encoding="utf-8") as file:
            return {f["name"]: (f["value"], f["unit"]) for f in json.load(file) if f["value"] and f["unit"] not in ("", "x")}


def compare(bench, args):
    """[{"name", "unit", "base", "now", "ratio", "lowest", "highest"}] of one bench."""
    sides = {"base": [], "now": []}
    for number in range(args.rounds):
        order = ["base", "now"] if number % 2 == 0 else ["now", "base"]
        for side in order:
            folder = args.base if side == "base" else args.bin
            sides[side].append(figures(os.path.join(folder, bench), args.flags))
    rows = []
    for name, (_, unit) in sides["now"][0].items():
        if not all(name in run for run in sides["base"] + sides["now"]):
            continue
        base, now = ([run[name][0] for run in sides[side]] for side in ("base", "now"))
        ratios = [b / n if unit in TIMES else n / b for b, n in zip(base, now)]
        rows.append({"name": name, "unit": unit, "base": statistics.median(base), "now": statistics.median(now),
                     "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("base", help="folder with the older build's benches")
    parser.add_argument("benches", nargs="+", metavar="BENCH")
    parser.add_argument("--bin", default="build/release/bin", help="folder with this tree's benches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.97, help="a median below it is an error")
    parser.add_argument("--json", help="write the rows to this file")
    own = sys.argv[1:]
    flags = own[own.index("--") + 1:] if "--" in own else []
    args = parser.parse_args(own[:own.index("--")] if "--" in own else own)
    args.flags = flags
    everything, slower = {}, 0
    for bench in args.benches:
        everything[bench] = compare(bench, args)
        print("%s, %d rounds%43s %12s %7s  %s" % (bench, args.rounds, "base", "now", "ratio", "lowest to highest"))
        for row in everything[bench]:
            late = row["ratio"] < args.least
            slower += late
            print("  %-52s %10.4g %12.4g %7.3f  %.3f to %.3f%s" % ("%s [%s]" % (row["name"], row["unit"]), row["base"], row["now"],
                                                                  row["ratio"], row["lowest"], row["highest"], "  SLOWER" if late else ""))
        sys.stdout.flush()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
