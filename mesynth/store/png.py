"""Write a frame as PNG as fast as its bytes can be counted: one filter, run lengths, and Huffman codes of its own.

A search for repeats, which is what deflate's time goes to, finds none in a face. What is left, counting the bytes and
giving each the code that its number deserves, is compiled here: a sixth of the time of libpng's fastest way that
compresses as well, and files of the same size. Any PNG reader reads them.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numba import njit

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVERAGE = 3
"""The filter of every line: of a pixel's byte, the mean of the one to the left and the one above is taken off."""
_BLOCK = 1 << 16
"""Bytes that share a table of codes."""
_SHORTEST, _LONGEST = 5, 258
"""Repeats of the last byte that are written as a run: shorter ones are no longer as bytes."""
_CODES, _END = 286, 256
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])
"""In which order deflate states the lengths of the codes that its lengths are written in (RFC 1951, 3.2.7)."""


def _run_codes() -> np.ndarray:
    """[259,3] of a run's length: its code, how many bits follow, and their value (RFC 1951, 3.2.5)."""
    out = np.zeros((_LONGEST + 1, 3), np.int64)
    length = 3
    for code in range(257, 285):
        extra = max((code - 261) // 4, 0)
        for value in range(1 << extra):
            out[length] = code, extra, value
            length += 1
    out[_LONGEST] = 285, 0, 0
    return out


_RUNS = _run_codes()


def frame_png(rgb: np.ndarray) -> bytes:
    """[H,W,3] uint8 RGB as PNG; the same picture gives the same bytes everywhere.

    >>> from mesynth.store.videos import image_array
    >>> image_array(frame_png(np.full((2, 2, 3), (9, 8, 7), np.uint8)), "a frame")[0, 0].tolist()
    [9, 8, 7]
    """
    height, width, channels = rgb.shape
    assert rgb.dtype == np.uint8
    assert channels == 3
    lines = _filtered(np.ascontiguousarray(rgb))
    packed = b"\x78\x01" + _deflated(lines, _RUNS, _ORDER).tobytes() + struct.pack(">I", zlib.adler32(lines.data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b"")))


def _chunk(name: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))))


@njit(cache=True, nogil=True)
def _filtered(image: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8 -> the bytes of its filtered lines, each with its filter's number before it."""
    height, width = image.shape[0], image.shape[1] * image.shape[2]
    pixels = image.reshape(height, width)
    out = np.empty((height, width + 1), np.uint8)
    above = np.zeros(width, np.uint8)
    half = np.int32(1)
    for y in range(height):
        line, now = out[y, 1:], pixels[y]
        out[y, 0] = _AVERAGE
        for x in range(min(3, width)):
            line[x] = now[x] - (above[x] >> 1)
        left, up, here, target = now[: width - 3], above[3:], now[3:], line[3:]
        for x in range(len(target)):
            mean = (np.int32(left[x]) + np.int32(up[x])) >> half
            target[x] = np.uint8(np.int32(here[x]) - mean)
        above = now
    return out.reshape(-1)


@njit(cache=True, nogil=True)
def _deflated(data: np.ndarray, runs: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``data`` [N] uint8 as a deflate stream."""
    out = np.empty(2 * len(data) + 1024 * (len(data) // _BLOCK + 1), np.uint8)
    tokens = np.empty(min(len(data), _BLOCK) + 1, np.uint16)
    # What a token is written as, and in how many bits.
    value, size = np.zeros(256 + _LONGEST + 1, np.int64), np.zeros(256 + _LONGEST + 1, np.int64)
    head = np.empty((5 + 19 + _CODES + 1, 2), np.int64)
    at, held, bits = 0, 0, 0
    for first in range(0, len(data), _BLOCK):
        last = min(first + _BLOCK, len(data))
        n, counts = _tokens(data[first:last], runs, tokens)
        lengths = _lengths(counts, 15)
        codes = _codes(lengths)
        small = np.zeros(19, np.int64)
        for length in lengths:
            small[length] += 1
        small[1] += 1  # the one code of a distance
        small_lengths = _lengths(small, 7)
        small_codes = _codes(small_lengths)
        # The head of a block with codes of its own: how many of each kind, and their lengths.
        head[0] = (1 if last == len(data) else 0), 1
        head[1], head[2], head[3], head[4] = (2, 2), (_CODES - 257, 5), (0, 5), (15, 4)
        for i in range(19):
            head[5 + i] = small_lengths[order[i]], 3
        for i in range(_CODES + 1):
            length = lengths[i] if i < _CODES else 1
            head[24 + i] = small_codes[length], small_lengths[length]
        for i in range(len(head)):
            held |= head[i, 0] << bits
            bits += head[i, 1]
            while bits >= 8:
                out[at] = held & 255
                held >>= 8
                bits -= 8
                at += 1
        value[:256], size[:256] = codes[:256], lengths[:256]
        for length in range(_SHORTEST, _LONGEST + 1):
            code, extra, more = runs[length]
            value[256 + length] = codes[code] | (more << lengths[code])
            size[256 + length] = lengths[code] + extra + 1  # one 0 bit: the distance 1
        tokens[n] = 256  # nothing, in no bits: tokens are written in pairs, at most 49 bits with those that are left
        for i in range(0, n, 2):
            one, two = tokens[i], tokens[i + 1]
            held |= value[one] << bits
            bits += size[one]
            held |= value[two] << bits
            bits += size[two]
            here = np.uint64(at)  # an index that cannot be negative: six bytes are then written at once
            for k in range(6):
                out[here + np.uint64(k)] = np.uint8(held >> (8 * k))
            at += bits >> 3
            held >>= bits & ~7
            bits &= 7
        held |= codes[_END] << bits
        bits += lengths[_END]
        while bits >= 8:
            out[at] = held & 255
            held >>= 8
            bits -= 8
            at += 1
    if bits:
        out[at] = held & 255
        at += 1
    return out[:at]


@njit(cache=True, nogil=True)
def _tokens(data: np.ndarray, runs: np.ndarray, tokens: np.ndarray) -> tuple[int, np.ndarray]:
    """``data`` as bytes and, 256 + length, runs; how many, and how often each code is taken [CODES]."""
    counts = np.zeros((4, 256), np.int32)  # four in turn: the same byte twice waits for the first count
    in_runs = np.zeros(_CODES, np.int64)
    n, place = 0, 0
    while place < len(data):
        now = data[place]
        tokens[n] = now
        counts[n & 3, now] += 1
        n += 1
        place += 1
        if place < len(data) and data[place] == now:
            end = place + 1
            while end < len(data) and data[end] == now:
                end += 1
            while end - place >= _SHORTEST:
                length = min(end - place, _LONGEST)
                tokens[n] = 256 + length
                in_runs[runs[length, 0]] += 1
                n += 1
                place += length
    in_runs[:256] = counts.sum(0)
    in_runs[_END] = 1
    return n, in_runs


@njit(cache=True, nogil=True)
def _lengths(counts: np.ndarray, most: int) -> np.ndarray:
    """Bits of each symbol's code, at most ``most``, 0 where it does not occur (Huffman, 1952)."""
    out = np.zeros(len(counts), np.int64)
    used = np.flatnonzero(counts)
    n = len(used)
    if n == 1:
        out[used[0]] = 1
        return out
    weights = counts[used]
    while True:
        order = np.argsort(weights, kind="mergesort")
        # Two queues, both sorted: the symbols, and what was joined, in the order it was.
        weight, parent = np.empty(2 * n - 1, np.int64), np.zeros(2 * n - 1, np.int64)
        for i in range(n):
            weight[i] = weights[order[i]]
        leaf, joined = 0, n
        for new in range(n, 2 * n - 1):
            weight[new] = 0
            for _ in range(2):
                if leaf < n and (joined >= new or weight[leaf] <= weight[joined]):
                    least = leaf
                    leaf += 1
                else:
                    least = joined
                    joined += 1
                weight[new] += weight[least]
                parent[least] = new
        depth = np.zeros(2 * n - 1, np.int64)
        for i in range(2 * n - 3, -1, -1):
            depth[i] = depth[parent[i]] + 1
        if depth[:n].max() <= most:
            for i in range(n):
                out[used[order[i]]] = depth[i]
            return out
        weights = (weights + 1) >> 1  # flatter, until no code is too long


@njit(cache=True, nogil=True)
def _codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical codes of these lengths, first bit lowest, as deflate writes them (RFC 1951, 3.2.2)."""
    out = np.zeros(len(lengths), np.int64)
    code = 0
    for bits in range(1, 16):
        for symbol in range(len(lengths)):
            if lengths[symbol] == bits:
                turned, left = 0, code
                for _ in range(bits):
                    turned = (turned << 1) | (left & 1)
                    left >>= 1
                out[symbol] = turned
                code += 1
        code <<= 1
    return out
