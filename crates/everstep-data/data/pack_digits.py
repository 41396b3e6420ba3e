#!/usr/bin/env python3
"""Writes scikit-learn's `load_digits` as the two gzip IDX files that `everstep_data::digits` embeds.

Usage: python pack_digits.py [output directory, by default this script's]

The output depends on the data and on zlib's level 9 alone: the gzip header carries no name and no time.
Made with scikit-learn 1.9.1 and zlib 1.x.
"""

import gzip
import io
import pathlib
import struct
import sys

import numpy
from sklearn.datasets import load_digits

UNSIGNED_BYTE = 0x08


def idx(array):
    """An array of bytes in IDX format: magic, one big-endian u32 per dimension, the values in C order."""
    header = struct.pack(">BBBB", 0, 0, UNSIGNED_BYTE, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(numpy.uint8).tobytes()


def write(path, content):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(content)
    path.write_bytes(buffer.getvalue())
    print(f"{path.name}: {len(buffer.getvalue())} bytes")


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8) and digits.images.max() == 16
    assert (digits.images == digits.images.astype(numpy.uint8)).all()
    write(folder / "digits-images-idx3-ubyte.gz", idx(digits.images))
    write(folder / "digits-labels-idx1-ubyte.gz", idx(digits.target))


if __name__ == "__main__":
    main()
