#!/usr/bin/env python3
"""Runs benches of this tree and of an older build in alternation, and compares figure by figure.

  git worktree add ../base COMMIT && (cd ../base && make release)
  bench/compare.py ../base/build/release "bench_store --rounds 3" bench_lookup [--now build/release] [--rounds 6] [--json FILE]
                   [--least 0.97]

A bench is given with its flags. Each round runs both builds; their order alternates from round to round (ABBA), so that a machine that becomes
slower affects both alike. For each figure that both report under the same name, prints the ratio of the medians of all rounds (above 1 is
better now, whatever the unit: times are inverted), the lowest and the highest ratio of a round, and how far the older build differs from
itself (half of the distance between the quartiles, relative to the median). A figure below --least is SLOWER, and the exit code is 1;
"(noise)" if the older build differs from itself by more than that. Shares, ratios and figures without a unit are left out, because their
parts are compared.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

TIMES = {"s", "ms", "us", "ns", "cpu-s/GB"}  # smaller is better


def binary_of(build, bench):
    for folder in (os.path.join(build, "bin"), build):
        path = os.path.join(folder, bench)
        if os.access(path, os.X_OK):
            return path
    sys.exit("compare.py: no %s in %s: build it there first" % (bench, build))


def figures(command):
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "figures.json")
        run = subprocess.run([*command, "--json", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode != 0:
            sys.exit("%s: exit code %d\n%s" % (shlex.join(command), run.returncode, run.stdout[-2000:]))
        with open(path, encoding="utf-8") as file:
            return {f["name"]: (f["value"], f["unit"]) for f in json.load(file) if f["value"] and f["unit"] not in ("", "x")}


def own_spread(values):
    """Half of the distance between the quartiles, of the median."""
    if len(values) < 2:
        return 0.0
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / 2 / statistics.median(values)


def row_of(name, unit, base, now, least):
    def ratio(was, is_now):
        return was / is_now if unit in TIMES else is_now / was

    pairs = [ratio(b, n) for b, n in zip(base, now)]
    medians = ratio(statistics.median(base), statistics.median(now))
    spread = own_spread(base)
    return {"name": name, "unit": unit, "base": statistics.median(base), "now": statistics.median(now), "ratio": medians,
            "lowest": min(pairs), "highest": max(pairs), "base_spread": spread, "slower": medians < least,
            "noise": medians < least and spread > 1 - least, "bases": base, "nows": now}


def compare(command, args, so_far):
    """The rows of one bench, and the names that only one build has. `so_far` gets the rows after each round."""
    bench, *flags = shlex.split(command)
    binaries = {"base": binary_of(args.base, bench), "now": binary_of(args.now, bench)}
    sides = {"base": [], "now": []}
    rows, alone = [], []
    for number in range(args.rounds):
        for side in (["base", "now"] if number % 2 == 0 else ["now", "base"]):
            begun = time.monotonic()
            sides[side].append(figures([binaries[side], *flags]))
            print("  %s, round %d of %d, %s: %.0f s" % (bench, number + 1, args.rounds, side, time.monotonic() - begun), file=sys.stderr, flush=True)
        runs = sides["base"] + sides["now"]
        rows = [row_of(name, unit, *([run[name][0] for run in sides[side]] for side in ("base", "now")), args.least)
                for name, (_, unit) in sides["now"][0].items() if all(name in run for run in runs)]
        alone = sorted({name for run in runs for name in run} - {row["name"] for row in rows})
        so_far(rows)
    return rows, alone


def show(command, rows, alone, rounds):
    print("%s, %d rounds" % (command, rounds))
    print("  %-58s %10s %10s %7s  %-15s %s" % ("", "base", "now", "ratio", "of the rounds", "base itself"))
    for row in rows:
        verdict = "" if not row["slower"] else "  SLOWER (noise)" if row["noise"] else "  SLOWER"
        print("  %-58s %10.4g %10.4g %7.3f  %.3f to %.3f  %5.1f%%%s" % (
            "%s [%s]" % (row["name"], row["unit"]), row["base"], row["now"], row["ratio"], row["lowest"], row["highest"],
            100 * row["base_spread"], verdict))
    if alone:
        print("  of one build only: %s" % "; ".join(alone))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the older build's folder")
    parser.add_argument("benches", nargs="+", metavar="BENCH", help='a bench, with its flags: "bench_transfer --no-peers"')
    parser.add_argument("--now", default="build/release", help="this tree's build folder (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--least", type=float, default=0.97, help="a ratio below it is an error (default: %(default)s)")
    parser.add_argument("--json", help="write the rows to this file")
    args = parser.parse_args()
    for command in args.benches:  # fail before hours of measuring
        for build in (args.base, args.now):
            binary_of(build, shlex.split(command)[0])
    everything, slower = {}, 0
    for command in args.benches:
        def keep(rows, command=command):  # also when a run ends early
            everything[command] = rows
            if args.json:
                with open(args.json, "w", encoding="utf-8") as file:
                    json.dump({"rounds": args.rounds, "least": args.least, "benches": everything}, file, indent=1)

        rows, alone = compare(command, args, keep)
        show(command, rows, alone, args.rounds)
        slower += sum(row["slower"] for row in rows)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
