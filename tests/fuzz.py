"""Frames made from the vectors by flipping, cutting, doubling and mixing octets: each decodes or is refused, and memory stays.

Usage: python tests/fuzz.py [NUMBER] [SEED]. Ends with 1 at the first frames that do anything else, and prints them.
"""

import random
import resource
import sys
import time
from functools import partial

from agentkd.errors import RemoteProtocolError
from agentkd.knowledge import tensors
from agentkd.messages import vectors
from agentkd.messages.wire import decode

MAX_GROWTH_KIB = 64 * 1024
MAX_SECONDS = 1.0


def mangle(chance: random.Random, frames: list[bytearray]) -> None:
    """Damages the frames in place, in one to four ways."""
    for _ in range(chance.randint(1, 4)):
        frame = chance.choice(frames)
        how = chance.randrange(6)
        if how == 0 and frame:
            frame[chance.randrange(len(frame))] ^= chance.randint(1, 255)
        elif how == 1 and frame:
            del frame[chance.randrange(len(frame)) :]
        elif how == 2:
            frame += chance.randbytes(chance.randint(1, 20))
        elif how == 3 and frame:
            at = chance.randrange(len(frame))
            frame[at:at] = frame[at : at + chance.randint(1, 8)]
        elif how == 4:
            frames[frames.index(frame)] = bytearray(chance.choice(frames))
        elif len(frames) < 6:
            frames.insert(chance.randrange(len(frames) + 1), bytearray(chance.randbytes(chance.randrange(12))))


def main(number: int, seed: int) -> int:
    seeds = [vector.frames for vector in (*vectors.valid(), *vectors.invalid()) if sum(map(len, vector.frames)) < 4096]
    file = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}     '
    file = len(file).to_bytes(8, "little") + file + bytes(19)
    accepted, slowest, before = 0, 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(number):
        chance = random.Random(f"{seed}-{index}")
        frames = [bytearray(frame) for frame in chance.choice(seeds)]
        mangle(chance, frames)
        pair = [bytearray(file)]
        mangle(chance, pair)
        began = time.perf_counter()
        for read in (partial(decode, frames), partial(tensors.decode, pair[0])):
            try:
                read()
                accepted += 1
            except RemoteProtocolError:
                pass
            except BaseException as error:
                print(f"case {index} of seed {seed}: {type(error).__name__}: {error}\nframes: {frames}\nfile: {pair[0]!r}")
                return 1
        slowest = max(slowest, time.perf_counter() - began)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{number:,} cases, {accepted:,} readings accepted; ", end="")
    print(f"slowest {1000 * slowest:.1f} ms; memory grew by {growth / 1024:.1f} MiB")
    return int(growth > MAX_GROWTH_KIB or slowest > MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1))
