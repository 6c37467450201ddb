"""Banks: the latent vectors of many pictures, what the label-free procedure compares a picture with."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import struct
import zlib
from ctypes import byref
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_floats, as_int
from .engine import NEIGHBOURS_OTHERS, CError, check, library, printable

MAGIC = b"\x89AGB\r\n\x1a\n"
HEAD = struct.Struct("<8sIIQQIIII16x")  # magic, version, CRC-32, bytes; checksum of the model; count, values; H, W
CHECKED_FROM = 16


class Bank:
    """The latent vectors of many pictures, as one model makes them of inputs of one size.

    names: the pictures'. latents: float32 [len(names), n]. checksum: the model's. input_size: (H, W). marks: FNV-1a of
    each picture's file, by which `agf bank` knows one that changed; 0: none. Model.bank() makes one, or reads a file.
    """

    def __init__(
        self,
        names: list[str],
        latents: ArrayLike,
        checksum: int,
        input_size: tuple[int, int],
        marks: list[int] | None = None,
    ) -> None:
        array = np.asarray(latents)
        if array.ndim != 2 or len(array) != len(names) or 0 in array.shape:
            raise ValueError(f"a bank of {len(names)} names needs a latent vector for each, not {list(array.shape)}")
        self.latents: NDArray[np.float32] = as_floats(array, array.shape, "a bank's latent vectors")
        if not np.isfinite(self.latents).all():
            raise ValueError("a bank's latent vectors must be finite")
        if not all(name and "\0" not in name for name in names):
            raise ValueError("a bank's names must be texts that are not empty")
        self.names, self.checksum, self.input_size = list(names), checksum, input_size
        self.marks = list(marks or [0] * len(names))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<agf.Bank of {len(self)} pictures, {self.latents.shape[1]} values each>"

    def nearest(self, latent: ArrayLike, k: int = 1, others: bool = True) -> tuple[NDArray[np.intc], NDArray[np.float64]]:
        """The k nearest vectors to one, [n], or to each of several, [m, n], by agf_neighbours (agf.h).

        Returns their places in the bank, [k] or [m, k], nearest first, and their Euclidean distances; -1 and infinity
        where the bank has fewer. others: leave out those that equal the vector: the picture itself, and copies of it.
        """
        query = np.asarray(latent)
        single = query.ndim == 1
        rows = 1 if single else len(query)
        shape = (rows, self.latents.shape[1])
        query = as_floats(query[None] if single else query, shape, "the latent vectors")
        k, error = as_int(k, "k", 1), CError()
        places, distances = np.empty((rows, k), np.intc), np.empty((rows, k), np.float64)
        check(
            library().agf_neighbours(
                self.latents.ctypes.data,
                len(self),
                query.ctypes.data,
                rows,
                query.shape[1],
                k,
                NEIGHBOURS_OTHERS if others else 0,
                places.ctypes.data,
                distances.ctypes.data,
                byref(error),
            ),
            error,
        )
        return (places[0], distances[0]) if single else (places, distances)

    def compare(self, latent: NDArray[np.float32], places: Any, shared: bool = False) -> NDArray[np.float32]:
        """What explain() takes as `difference`: the latent vector minus the mean of the neighbours at `places`.

        shared: instead what it shares with all of them: at each place the value nearest 0 where they agree in sign,
        else 0.
        """
        others = self.latents[places]
        if not shared:
            return (latent - others.astype(np.float64).mean(0)).astype(np.float32)
        every = np.concatenate([latent[None], others])
        agree = (every > 0).all(0) | (every < 0).all(0)
        return np.where(agree, np.sign(latent) * np.abs(every).min(0), 0).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `agf explain --bank` takes (its layout: tools/cli_bank.h), whole or not at all.

        A symbolic link is followed, and a file that is replaced keeps its permissions; what is no regular file, such as
        /dev/null, is refused with a ValueError and left alone.
        """
        body = self.latents.astype("<f4").tobytes() + np.asarray(self.marks, "<u8").tobytes()
        body += b"".join(os.fsencode(name) + b"\0" for name in self.names)
        count, values = self.latents.shape
        fields = (1, 0, HEAD.size + len(body), self.checksum, count, values, *self.input_size)
        head = HEAD.pack(MAGIC, *fields)
        crc = zlib.crc32(head[CHECKED_FROM:] + body)
        target = os.path.realpath(path)
        try:
            mode = os.stat(target).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and not stat.S_ISREG(mode):
            raise ValueError(f"{printable(os.fsdecode(path))}: no regular file; a bank is not written over it")
        temporary = os.path.join(os.path.dirname(target), f".agf-{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(head[:12] + struct.pack("<I", crc) + head[16:] + body)
                if mode is not None:
                    os.chmod(temporary, stat.S_IMODE(mode))
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    @classmethod
    def read(cls, path: str | os.PathLike[str], checksum: int) -> Bank:
        """A bank from its file; ValueError where that is damaged or not of the model with this checksum."""
        shown = printable(os.fsdecode(path))
        with open(path, "rb") as file:
            data = file.read(len(MAGIC))
            if data == MAGIC:  # else it might never end
                data += file.read()
        if data[:8] != MAGIC:
            raise ValueError(f"{shown}: not a bank (`agf bank` and Model.bank() make one)")
        if len(data) < HEAD.size:
            raise ValueError(f"{shown}: truncated bank: {len(data)} bytes, its head alone has {HEAD.size}")
        _, version, crc, size, model, count, values, height, width = HEAD.unpack_from(data)
        if version != 1:
            raise ValueError(f"{shown}: a bank of version {version}, this reads version 1")
        if size != len(data):
            raise ValueError(f"{shown}: damaged bank: it should have {size} bytes and has {len(data)}")
        if zlib.crc32(data[CHECKED_FROM:]) != crc:
            raise ValueError(f"{shown}: damaged bank: its checksum does not fit its content")
        if model != checksum:
            raise ValueError(f"{shown}: the bank of another model: its checksum is {model:016x}, not {checksum:016x}")
        names_at = HEAD.size + count * (4 * values + 8)
        names = data[names_at:].split(b"\0")[:-1]
        if not count or not values or names_at > len(data) or len(names) != count or data[-1:] != b"\0":
            raise ValueError(f"{shown}: damaged bank: {count} pictures of {values} values, {len(names)} names")
        latents = np.frombuffer(data, "<f4", count * values, HEAD.size).reshape(count, values)
        marks = np.frombuffer(data, "<u8", count, HEAD.size + 4 * count * values)
        try:
            return cls([os.fsdecode(name) for name in names], latents, model, (height, width), marks.tolist())
        except ValueError as problem:
            raise ValueError(f"{shown}: damaged bank: {problem}") from None
