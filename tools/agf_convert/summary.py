"""What has been written, for the terminal."""
import numpy as np

from .ops import OPS


def printable(text):
    """Text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def size_text(size):
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.3g} KB"


def summary(file, path, checked=""):
    network, p = file.network, file.network.preprocessing
    rows = [("op", "nodes", "flat", "parameters")]
    for op in OPS:
        nodes = [node for node in network.nodes if node.op == op]
        if nodes:
            flat = sum(node.flat for node in nodes)
            rows.append((op, str(len(nodes)), str(flat) if op == "conv" else "", f"{sum(map(parameters, nodes)):,}"))
    rows.append(("total", str(len(network.nodes)), "", f"{sum(map(parameters, network.nodes)):,}"))
    classes = int(np.prod(file.shapes[network.nodes[-1].name]))
    lines = [f"{path}: {network.name}, {size_text(file.file_bytes)}, {'f16' if file.f16 else 'f32'}, {classes} "
             f"{'labelled ' if network.labels else ''}classes, {network.head}, format {file.version}",
             "input " + "x".join(map(str, network.input_shape))]
    if p is None:
        lines[1] += ", no preprocessing: the file takes tensors, not pictures (--mean, --std, --range ... say how to "\
                    "prepare those)"
    else:
        rule = "stretched" if p.resize == "stretch" else f"shorter side to {p.resize_to}, centre crop"
        lines[1] += (f": {rule}; {p.channels}, 0..{p.range:g}, mean {' '.join(f'{v:.6g}' for v in p.mean)}, "
                     f"std {' '.join(f'{v:.6g}' for v in p.std)}")
    if network.affine is not None:
        scale, bias = (" ".join(f"{v:.6g}" for v in array) for array in network.affine)
        lines.append(f"the network itself normalises: tensor * ({scale}) + ({bias}), by channel")
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells))
    lines += [f"note: {note}" for note in network.notes]
    lines += [checked] if checked else []
    return printable("\n".join(lines))


def parameters(node):
    return sum(array.size for array in (node.weights, node.bias) if array is not None)
