#!/usr/bin/env python3
"""Makes tools/cli_selftest_data.h: the networks that `agf selftest` carries, and the SHA-256 of their maps.

    make && tools/make_selftest.py

The networks are small ones of tests/golden and the demo's, whose weights become -s, 0 and s so that they compress;
between them they have most operations and every kernel's kind. The hashes are those of the portable kernels, which all
others share. To be run again when AGF_BITS_VERSION grows or a method is added.
"""

import base64
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORKS = {
    "squeeze_tiny": "tests/golden/squeeze_tiny/squeeze_tiny.agf",
    "resnet_bottleneck": "tests/golden/resnet_bottleneck/resnet_bottleneck.agf",
    "shuffle_tiny": "tests/golden/shuffle_tiny/shuffle_tiny.agf",
    "gated_tiny": "tests/golden/gated_tiny/gated_tiny.agf",
    "norm_tiny": "tests/golden/norm_tiny/norm_tiny.agf",
    "grouped_odd": "tests/golden-extra/grouped_odd/grouped_odd.agf",
    "demo": "tests/demo/demo.agf",  # the one that is timed
}
VECTOR, F32 = 0, 1


def coarse(data: bytearray) -> bytes:
    """The file with its weights, but for vectors, as -s, 0 and s; with its checksums (the format stands in agf.h)."""
    header_bytes = struct.unpack_from("<I", data, 12)[0]
    version, (nodes, edges, tensors) = struct.unpack_from("<I", data, 8)[0], struct.unpack_from("<3I", data, 32)
    table = 144 + nodes * (96 if version > 1 else 80) + edges * 4
    for i in range(tensors):
        kind, layout = struct.unpack_from("<2I", data, table + 40 * i)
        offset, size = struct.unpack_from("<2Q", data, table + 40 * i + 24)
        if layout != VECTOR:
            weights = np.frombuffer(data, "<f4" if kind == F32 else "<f2", size // (4 if kind == F32 else 2), offset)
            magnitude = np.abs(weights.astype(np.float64))
            step = np.exp2(np.round(np.log2(magnitude[magnitude > 0].mean())))
            data[offset : offset + size] = (np.sign(weights) * step * (magnitude > step / 2)).astype(weights.dtype).tobytes()
    struct.pack_into("<I", data, 28, zlib.crc32(data[header_bytes:]))
    struct.pack_into("<I", data, 24, 0)
    struct.pack_into("<I", data, 24, zlib.crc32(data[:header_bytes]))
    return bytes(data)


def lines(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return "".join(f'  "{text[i : i + 132]}",\n' for i in range(0, len(text), 132))


def main() -> int:
    target = os.path.join(ROOT, "tools", "cli_selftest_data.h")
    parts, rows = [], []
    for name, path in NETWORKS.items():
        with open(os.path.join(ROOT, path), "rb") as file:
            data = coarse(bytearray(file.read()))
        packed = zlib.compress(data, 9)
        parts.append(f"static const char *const selftest_{name}[] = {{\n{lines(packed)}  NULL}};\n")
        rows.append(f'  {{"{name}", selftest_{name}, {len(data)}}},\n')

    def write(hashes: str) -> None:
        with open(target, "w", encoding="ascii") as file:
            file.write(
                "/* Made by tools/make_selftest.py, which says what this is: model files, deflated, in base64; and the hashes of maps. */\n"
                "#ifndef CLI_SELFTEST_DATA_H\n#define CLI_SELFTEST_DATA_H\n\n#include <stddef.h>\n\n"
                + "\n".join(parts)
                + "\nstatic const struct selftest_network {\n  const char *name;\n  const char *const *lines;\n  size_t bytes;\n"
                "} selftest_networks[] = {\n" + "".join(rows) + "};\n\n"
                "static const struct selftest_map {\n  const char *network, *method, *sha256;\n} selftest_maps[] = {\n"
                + hashes
                + "  {NULL, NULL, NULL}};\n\n#endif\n"
            )

    write("")
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "agf")
        engine = os.environ.get("AGF_OBJECT", os.path.join(ROOT, "build", "agf.o"))
        compiler = [os.environ.get("CC", "cc"), "-std=c99", "-O0", "-I", ROOT, os.path.join(ROOT, "tools", "agf_cli.c")]
        subprocess.run([*compiler, engine, "-o", program, "-lm", "-lpthread"], check=True)
        # without hashes to compare with it says each one, and that it cannot tell
        done = subprocess.run([program, "selftest", "--isa", "ref", "-v"], stdout=subprocess.PIPE, text=True, check=False)
    found = re.findall(r"^  (\S+) +(\S+) +([0-9a-f]{64})", done.stdout, re.M)
    if not found:
        print(done.stdout, "no hashes", file=sys.stderr)
        return 1
    write("".join(f'  {{"{network}", "{method}",\n   "{value}"}},\n' for network, method, value in found))
    print(f"wrote {os.path.relpath(target)}: {os.path.getsize(target)} bytes, {len(found)} maps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
