#!/usr/bin/env python3
"""Encodings over Mooncake's transfer engine (tcp), between two processes and from ring to ring, as bench_transfer does it.

mooncake_peer.py LAYERS SLAB_BYTES [RING_MIB] [ROUNDS] prints one line of JSON: {"gigabytes_per_second": median of the
rounds, "whole_us": median of the encodings}. Needs the package mooncake-transfer-engine-non-cuda; exits with 77 without.
"""
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time


def engine_with_ring(ring_bytes):
    try:
        from mooncake.engine import TransferEngine
    except ImportError:
        sys.exit(77)
    engine = TransferEngine()
    if engine.initialize("127.0.0.1:0", "P2PHANDSHAKE", "tcp", "") != 0:
        sys.exit("mooncake_peer: the engine does not start")
    ring = mmap.mmap(-1, ring_bytes)
    for at in range(0, ring_bytes, 1 << 20):  # prefaulted
        ring[at:at + (1 << 20)] = os.urandom(64) * (1 << 14)
    address = ctypes.addressof(ctypes.c_char.from_buffer(ring))
    if engine.register_memory(address, ring_bytes) != 0:
        sys.exit("mooncake_peer: the ring cannot be registered")
    return engine, ring, address


def serve(ring_bytes):
    engine, _ring, address = engine_with_ring(ring_bytes)
    print("kvlink-peer", engine.get_rpc_port(), address, flush=True)
    sys.stdin.read()
    os._exit(0)


def main():
    if sys.argv[1] == "--serve":
        return serve(int(sys.argv[2]))
    layers, slab = int(sys.argv[1]), int(sys.argv[2])
    ring_bytes = int(sys.argv[3]) << 20 if len(sys.argv) > 3 else 1 << 30
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 7
    server = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", str(ring_bytes)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in server.stdout:
            if line.startswith("kvlink-peer "):
                break
        else:
            sys.exit(server.wait() or "mooncake_peer: the server ended")
        _, port, theirs = line.split()
        engine, _ring, ours = engine_with_ring(ring_bytes)
        encoding = layers * slab
        rates, wholes = [], []
        for number in range(-1, rounds):
            start = time.monotonic()
            for at in range(0, ring_bytes - encoding + 1, encoding):
                before = time.monotonic()
                offsets = [at + i * slab for i in range(layers)]
                if engine.batch_transfer_sync_read("127.0.0.1:" + port, [ours + o for o in offsets],
                                                   [int(theirs) + o for o in offsets], [slab] * layers) != 0:
                    sys.exit("mooncake_peer: a transfer failed")
                wholes.append(time.monotonic() - before)
            if number >= 0:
                rates.append(ring_bytes // encoding * encoding / 1e9 / (time.monotonic() - start))
        print(json.dumps({"gigabytes_per_second": statistics.median(rates), "whole_us": 1e6 * statistics.median(wholes)}),
              flush=True)
    finally:
        server.kill()
    os._exit(0)


main()
