"""What the Python tests share. A test program is a file of functions test_*, each run in an empty folder:

    python3 tests/test_cli.py [-k TEXT] [-v]     those whose name holds TEXT; -v: each with its time
    pytest tests/test_cli.py [-k EXPRESSION]     the same functions in the same way (tests/conftest.py)

Python's standard library alone, so that tests run on a Raspberry Pi as it is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
import unittest
from collections.abc import Callable, Mapping

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Networks and photographs of others, which are no part of the repository; tests that want them skip aloud where they
# are not there.
DATA = os.environ.get("AGF_TEST_DATA") or os.path.join(os.path.dirname(ROOT), "shared")


class Skip(unittest.SkipTest):
    """Raised by a test that this machine cannot run, with the reason."""


def check(condition: object, message: object = "") -> None:
    """Like assert, but also where Python is told to leave assertions out."""
    if not condition:
        raise AssertionError(message)


def needs(*modules: str) -> None:
    """End the test program with a skip, said aloud, where one of these modules cannot be imported."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as missing:
            print("SKIP %s: %s" % (os.path.basename(sys.argv[0])[:-3], missing))
            print("0 passed, 0 failed, 1 skipped")
            sys.exit(0)


def missing_file(*paths: str) -> str:
    """Why what was to be built cannot be tested; "" if it can."""
    return next(("%s is not built" % path for path in paths if not os.path.exists(path)), "")


def missing_library(agf) -> str:
    """Why the library that tools/agf binds cannot be tested; "" if it can."""
    try:
        agf.library()
    except OSError as problem:
        return str(problem)
    return ""


class _Result(unittest.TestResult):
    """Prints a line for each test that fails or is skipped, and with `verbose` for every one."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self.verbose, self.passed, self.began = verbose, 0, 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()

    def _tell(self, word: str, test: unittest.TestCase, what: str = "") -> None:
        seconds = " (%.1f s)" % (time.monotonic() - self.began) if self.verbose else ""
        print("%s %s%s%s" % (word, test.id(), seconds, ": " + what if what else ""), flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed += 1
        if self.verbose:
            self._tell("ok  ", test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._tell("SKIP", test, reason)

    def _broken(self, test: unittest.TestCase, error) -> None:
        self._tell("FAIL", test, "%s: %s" % (error[0].__name__, error[1]))
        if not isinstance(error[1], AssertionError):
            print("  " + "".join(traceback.format_exception(*error)).strip().replace("\n", "\n  "), flush=True)

    def addFailure(self, test: unittest.TestCase, err) -> None:
        super().addFailure(test, err)
        self._broken(test, err)

    def addError(self, test: unittest.TestCase, err) -> None:
        super().addError(test, err)
        self._broken(test, err)


class _Test(unittest.FunctionTestCase):
    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self.home, self.folder = os.getcwd(), tempfile.TemporaryDirectory()
        super().__init__(function, setUp=lambda: os.chdir(self.folder.name), tearDown=self._leave)
        self.name = name

    def _leave(self) -> None:
        os.chdir(self.home)
        self.folder.cleanup()

    def id(self) -> str:
        return self.name


def run_tests(tests: Mapping[str, object], arguments: list[str], missing: str = "") -> int:
    """Run the functions test_* of a module's globals() that the command line's arguments choose, unless what they test
    is missing; ends with the line "N passed, N failed, N skipped". Returns the exit code."""
    # A background job ignores SIGINT, one under nohup SIGHUP, and hands that on; what the tests start must take both as
    # at a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").partition("\n")[0])
    parser.add_argument("-k", dest="texts", metavar="TEXT", action="append", default=[], help="tests whose name holds TEXT")
    parser.add_argument("-v", dest="verbose", action="store_true", help="a line for every test, with its time")
    parser.add_argument("parts", metavar="TEXT", nargs="*", help="the same as -k TEXT")
    options = parser.parse_args(arguments)
    texts = options.texts + options.parts
    if missing:
        print("FAIL: %s" % missing)
        print("0 passed, 1 failed")
        return 1
    result, matched = _Result(options.verbose), 0
    for name, function in tests.items():
        if name.startswith("test_") and callable(function) and (not texts or any(text in name for text in texts)):
            matched += 1
            _Test(name, function).run(result)
    failed = len(result.failures) + len(result.errors)
    if not matched:
        print("FAIL: no test's name holds %s" % " or ".join(texts))
        failed = 1
    print("%d passed, %d failed, %d skipped" % (result.passed, failed, len(result.skipped)))
    return 1 if failed else 0
