#!/usr/bin/env python3
"""Shows `agf watch` live in a browser, or serves the page that `make page` has made.

    rpicam-vid -t 0 --codec mjpeg -o - | tools/agf_page.py --watch net.agf -
    tools/agf_page.py --watch net.agf photos/ --top 2      # a folder, of which each new picture is explained
    tools/agf_page.py                                      # build/page

What stands behind --watch goes to `agf watch` as it is. Any number of browsers may look; each gets the newest frame
when it has taken the one before. The address with /live behind it is the stream itself, MJPEG over HTTP, for ffmpeg,
VLC and home automation. Needs Python's standard library and the program: $AGF_BIN, else build/agf, else the one that
is installed.
"""

import argparse
import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>agf watch</title>
<link rel="icon" href="data:,">
<style>
body { margin: 0; min-height: 100vh; display: flex; flex-direction: column; align-items: center; justify-content: center;
       background: #222; color: #ddd; font: 15px/1.5 system-ui, sans-serif }
img { max-width: 100vw; max-height: 90vh; min-width: min(100vw, 480px); object-fit: contain; image-rendering: auto }
p { margin: .6em 1em; text-align: center }
</style>
<img id="live" alt="The newest frame with the map over it">
<p id="status">waiting for the first frame</p>
<script>
const live = document.getElementById("live"), told = document.getElementById("status");

async function follow() {
  let seen = 0, since = 0, shown = 0, rate = "";
  for (;;) {
    try {
      const answer = await fetch("frame?after=" + seen);
      if (answer.status === 204) {
        told.textContent = `${seen} frames; the source has ended`;
        return;
      }
      const old = live.src;
      live.src = URL.createObjectURL(await answer.blob());
      URL.revokeObjectURL(old);
      await live.decode();
      seen = Number(answer.headers.get("X-Frame"));
      shown++;
      const now = performance.now();
      if (now - since > 1000) {
        rate = since ? `, ${(shown * 1000 / (now - since)).toFixed(1)} a second here` : "";
        [since, shown] = [now, 0];
      }
      told.textContent = `${seen} frames${rate}`;
    } catch {
      told.textContent = "nothing comes from this address any more";
      seen = 0; // of another run
      await new Promise(done => setTimeout(done, 1000));
    }
  }
}
follow();
</script>
</html>
"""


def program():
    """The program's path."""
    built = os.path.join(ROOT, "build", "agf")
    found = os.environ.get("AGF_BIN") or (built if os.path.exists(built) else shutil.which("agf"))
    if not found:
        sys.exit("agf_page.py: there is no program agf: make builds it, or AGF_BIN says where it is")
    return found


class Frames:
    """The newest JPEG of a stream, for any number of readers."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.frame, self.number, self.ended = b"", 0, False

    def read(self, stream):
        """Takes frame after frame until the stream ends. An end marker is nowhere in what the program writes but at
        the end: in the coded pixels, a byte of 255 is followed by 0."""
        waiting = b""
        while data := stream.read1(1 << 16):
            *frames, waiting = (waiting + data).split(b"\xff\xd9")
            if frames:
                with self.changed:
                    self.frame, self.number = frames[-1] + b"\xff\xd9", self.number + len(frames)
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def after(self, number):
        """(frame, its number) once there is another one than `number`; (b"", number) at the end. A number that is still
        to come is a page's that saw another run: it gets the newest."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.number not in (0, number))
            return (b"", number) if self.number in (0, number) else (self.frame, self.number)


class Live(http.server.BaseHTTPRequestHandler):
    def __init__(self, frames, *rest: Any) -> None:
        self.frames = frames
        super().__init__(*rest)

    def log_message(self, format, *rest: Any) -> None:
        pass

    def answer(self, kind, body, **headers: str):
        self.send_response(200 if body else 204)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        try:
            if path == "/":
                self.answer("text/html; charset=utf-8", PAGE.encode())
            elif path == "/frame":
                after = re.search(r"[?&]after=(\d{1,12})$", self.path)
                self.one(int(after[1]) if after else 0)
            elif path == "/live":
                self.stream()
            else:
                self.send_error(404)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the browser has gone

    def one(self, after):
        """The newest frame, once there is another one than number `after`."""
        frame, number = self.frames.after(after)
        self.answer("image/jpeg", frame, X_Frame=number)

    def stream(self):
        """All of them, as MJPEG over HTTP: what VLC, ffmpeg and home automation take."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(b"--frame\r\n")
        number = 0
        while True:
            frame, number = self.frames.after(number)
            if not frame:
                return
            # with the next boundary at once: some show a part when it is closed
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(frame)
            self.wfile.write(head + frame + b"\r\n--frame\r\n")
            self.wfile.flush()


def serve(handler, args):
    try:
        server = http.server.ThreadingHTTPServer((args.host, args.port), handler)
    except OSError as problem:
        sys.exit(f"agf_page.py: {args.host}:{args.port}: {problem.strerror} (--port takes another)")
    server.daemon_threads = True
    print(f"http://{args.host}:{server.server_address[1]}/", flush=True)
    return server


def watch(args):
    """Runs the program and serves what it makes; its exit code once it has ended and its last frame was served."""
    words = args.watch
    if any(word == "--json" or word.startswith(("-o", "--out")) for word in words):
        sys.exit("agf_page.py: --watch shows the frames itself: neither -o nor --json goes with it")
    frames = Frames()
    server = serve(functools.partial(Live, frames), args)
    process = subprocess.Popen([program(), "watch", *words, "-o", "-"], stdout=subprocess.PIPE)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        frames.read(process.stdout)
        if process.wait():
            return process.returncode
        threading.Event().wait()  # the last frame stays to be looked at
    except KeyboardInterrupt:
        pass
    finally:  # it may be waiting for a frame, and would learn of nothing
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    return 0


def port_number(text):
    """A port that can be listened at."""
    if not 0 <= int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return int(text)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] [--watch MODEL SOURCE ...]"
    )
    parser.add_argument("--host", default="127.0.0.1", help="who may look: 0.0.0.0 for other machines too (default: this one)")
    parser.add_argument("--port", type=port_number, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument("--page", default=os.path.join(ROOT, "build", "page"), help="the folder to serve (default: build/page)")
    parser.add_argument("--watch", nargs=argparse.REMAINDER, metavar="MODEL SOURCE", help="what agf watch takes; must be last")
    args = parser.parse_args()
    if args.watch is not None:
        return watch(args)
    if not os.path.exists(os.path.join(args.page, "index.html")):
        sys.exit(f"agf_page.py: {args.page} holds no page: `make page` makes it")
    try:
        serve(functools.partial(http.server.SimpleHTTPRequestHandler, directory=args.page), args).serve_forever()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
