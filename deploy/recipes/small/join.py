#!/usr/bin/env python3
"""join.py LINKS WRAPPER OUT: a profile with the links of one folder of kvlink-train and the wrapper of another, both for the same model."""
import json
import os
import shutil
import sys


def main(links, wrapper, out):
    with open(os.path.join(links, "profile.json"), encoding="utf-8") as file:
        profile = json.load(file)
    with open(os.path.join(wrapper, "profile.json"), encoding="utf-8") as file:
        profile["wrapper"] = json.load(file)["wrapper"]
    profile["name"], profile["linker"] = os.path.basename(os.path.normpath(out)), "packet+links"
    os.makedirs(out, exist_ok=True)
    shutil.copy(os.path.join(links, profile["link_embeddings_file"]), out)
    shutil.copy(os.path.join(wrapper, profile["wrapper"]["file"]), out)
    with open(os.path.join(out, "profile.json"), "w", encoding="utf-8") as file:
        json.dump(profile, file, indent=2)
        file.write("\n")


if len(sys.argv) != 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
