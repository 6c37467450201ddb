"""Writing a file so that nothing is lost: for every tool here that writes one.

    with files.replacing(path, inputs=[...]) as f:   f is a binary file that can seek
        f.write(...)                                 (f.name: the temporary file's path, where there is one)

Only when the block ends without an exception does what was written take the place of what `path` was; the block's
exceptions, SIGTERM, SIGINT and SIGHUP leave the old file as it was, and no temporary file behind. A symbolic link is
followed, the file behind it replaced; permissions of a file that is replaced are kept. What is no regular file is not
replaced: a FIFO or a character device (/dev/null, /dev/stdout) is written to, anything else is refused. So is a file
that is one of `inputs`. OutputError is raised for what is refused; errors of the system come as OSError.
"""
import contextlib
import io
import os
import secrets
import shutil
import signal
import stat
import threading
from typing import BinaryIO, Iterator


class OutputError(Exception):
    """Why a path cannot be written to, or not be read: one line that names it."""


def check_input(path):
    """Refuse what is there and no regular file: a FIFO waits for its writer, a device may never end."""
    with contextlib.suppress(OSError):  # what is not there is its reader's to report
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OutputError(f"{os.fspath(path)}: no regular file; it is not read (save what it gives in a file)")


def check(path, inputs=()):
    """Refuse, before any work is done, what replacing() would refuse. Returns the path with its links followed."""
    path = os.fspath(path)
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if path.endswith(os.sep):
            raise OutputError(f"{path}: a folder; name a file in it") from None
        if not os.path.isdir(os.path.dirname(target)):
            raise OutputError(f"{path}: there is no folder {os.path.dirname(target)}") from None
        return target
    except OSError as problem:  # a loop of links, a name that is too long, no permission
        raise OutputError(f"{path}: {problem.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path}: a folder; name a file in it")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise OutputError(f"{path}: no regular file; it is left alone")
    for name in inputs:
        try:
            same = os.path.samestat(os.stat(name), status)
        except OSError:  # an input that is not there is its reader's to report
            continue
        if same:
            raise OutputError(f"{path}: would overwrite the input {name}; choose another output")
    return target


@contextlib.contextmanager
def replacing(path, inputs=()):
    """See the module."""
    target = check(path, inputs)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        status = None
    if status is not None and not stat.S_ISREG(status.st_mode):
        with io.BytesIO() as whole:
            yield whole
            whole.seek(0)
            with open(target, "wb", buffering=0) as f:
                shutil.copyfileobj(whole, f, 1 << 20)
        return
    if status is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{path}: no permission to change it")
    f, temporary = _temporary(target)
    with _signals(temporary):
        try:
            with f:
                yield f
                if status is not None:
                    _keep_owner_and_mode(f.fileno(), status)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise


def _temporary(target) -> tuple[BinaryIO, str]:
    """A new file in the target's folder, and its name."""
    folder, name = os.path.split(target)
    while True:
        # Cut so that the name stays within what file systems take.
        temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(6)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with contextlib.suppress(FileExistsError):
            # 0o666: with the permissions that any new file gets.
            return open(temporary, "w+b", opener=lambda name, _: os.open(name, flags, 0o666)), temporary


def _keep_owner_and_mode(descriptor, status) -> None:
    if hasattr(os, "fchown"):
        with contextlib.suppress(OSError):  # only root may give a file away
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


@contextlib.contextmanager
def _signals(temporary) -> Iterator[None]:
    """Remove the temporary file before a signal ends the program. SIGINT is Python's own exception already."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive in the main thread only
        return

    def clean_up(number, frame) -> None:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        signal.signal(number, before[number] or signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup's programs live on
            before[number] = signal.signal(number, clean_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
