#!/usr/bin/env python3
"""The web page (tools/page) in a real Chromium: its maps are the library's, bit for bit, and its controls work. And
`agf watch` shown live by tools/agf_page.py.

    python3 tests/test_page.py [-k TEXT]

Leaves screenshots in $BUILD/page-shots for who wants to look. Needs Chromium, playwright and ziglang.
"""

import base64
import contextlib
import functools
import hashlib
import http.server
import io
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from harness import ROOT, Skip, check, missing_library, needs, run_tests

needs("numpy", "PIL.Image", "playwright.sync_api", "ziglang")
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

Image.MAX_IMAGE_PIXELS = None  # the tests make some that are larger than Pillow would read
sys.path.insert(0, os.path.join(ROOT, "tools"))
import agf  # noqa: E402

BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
SHOTS = os.path.join(BUILD, "page-shots")
DEMO = os.path.join(ROOT, "tests", "demo")
MOST_BYTES = 1_500_000
PROGRAM = os.path.abspath(os.environ.get("AGF_BIN") or os.path.join(BUILD, "agf"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@functools.cache
def site() -> str:
    """The page, made once; served until the tests end. Its address."""
    if not CHROMIUM:
        raise Skip("chromium is not installed")
    folder = os.path.join(BUILD, "page")
    zig = sys.executable + " -m ziglang"
    done = subprocess.run(
        ["sh", os.path.join(ROOT, "tools", "page", "build.sh"), folder],
        capture_output=True, text=True, env={**os.environ, "ZIG": zig}, check=False,
    )  # fmt: skip
    check(done.returncode == 0, done.stderr[-2000:])
    os.makedirs(SHOTS, exist_ok=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


@contextlib.contextmanager
def browser_page(without: str = "", width: int = 1200, **options):
    """The page in a browser, ready. without: a file that is not served. Errors of its scripts are failures."""
    address, errors = site(), []
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True, **options)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.set_default_timeout(120_000)
            if without:
                page.route("**/" + without, lambda route: route.abort())
            page.goto(address)
            ready(page)
            yield page
            check(not errors, errors)
        finally:
            browser.close()


def ready(page) -> None:
    page.wait_for_function("window.agf.idle")


def status(page) -> str:
    return page.text_content("#status")


def shoot(page, name: str) -> None:
    page.screenshot(path=os.path.join(SHOTS, name + ".png"), full_page=True)


def map_of(page) -> str:
    """The SHA-256 of the map that is shown, as the browser computes it."""
    return page.evaluate(
        """async () => {
          const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", agf.result.map));
          return [...hash].map(byte => byte.toString(16).padStart(2, "0")).join("");
        }"""
    )


def test_size():
    """All of it is small enough to be sent to a telephone."""
    site()
    folder = os.path.join(BUILD, "page")
    total = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    check(total <= MOST_BYTES, f"{total} bytes")


def same_maps(page, names, methods):
    """Clicks through scenes and methods; each map's hash must be that of the library on this machine."""
    with agf.Model(os.path.join(DEMO, "demo.agf")) as model, model.session(threads=1, methods=list(methods)) as session:
        for name in names:
            page.click(f"#scenes button:has(img[src='{name}.png'])")
            ready(page)
            with Image.open(os.path.join(DEMO, name + ".png")) as image:
                logits = session.run(session.preprocess(np.asarray(image.convert("RGB"))))
            order = page.evaluate("agf.ranked.map(entry => entry.logit)")
            check(np.array_equal(np.array(order, np.float32), np.sort(logits)[::-1]), f"{name}: logits")
            for method in methods:
                page.select_option("#method", label=method)
                ready(page)
                check(page.locator("#status.failed").count() == 0, f"{name}, {method}: {status(page)}")
                k = page.evaluate("agf.chosen")
                wanted = hashlib.sha256(session.explain(classes=[k], method=method)[0].tobytes()).hexdigest()
                check(map_of(page) == wanted, f"{name}, class {k}, {method}: {map_of(page)}, not {wanted}")


def test_same_bits():
    """With the browser's fused multiply-add, where it has one: every method."""
    with browser_page() as page:
        methods = page.evaluate("agf.model.methods")
        check(tuple(methods) == agf.methods(), methods)
        quick = [m for m in methods if m not in ("smoothgrad", "integrated_gradients")]
        same_maps(page, ["butterfly-cup"], methods)
        same_maps(page, ["mushroom-tree-fish", "house-sailboat-umbrella"], quick[:3])
        print("relaxed multiply-add:", page.evaluate("agf.model.relaxed"))


def test_same_bits_without_relaxed_simd():
    """The exact engine, which every other browser gets."""
    with browser_page(without="agf-relaxed.wasm") as page:
        check(page.evaluate("agf.model.relaxed") is False, "the other engine was loaded")
        same_maps(page, ["butterfly-key"], ["agf", "agf_lc", "gradcam", "lrp_a1b0", "fullgrad"])


def test_clicks():
    """Classes, search, opacity, colours, download; a phone's width; what is neither picture nor network."""
    with browser_page() as page:
        shoot(page, "start")
        shown = page.evaluate("[0, 1, 1 - 1e-9, 0.99964, 0.5, 0.00888, 8e-5, 1e-9, -1].map(percent)")
        told = ["0 %", "100 %", "> 99.9999 %", "99.964 %", "50.0 %", "0.89 %", "0.008 %", "< 0.0001 %", ""]
        check(shown == told, f"percentages as the program prints them: {shown}")
        check(page.evaluate("document.documentElement.scrollWidth") <= 1200, "the page fits its window")
        first = status(page)
        check("house" in first or "sailboat" in first or "umbrella" in first, first)
        check(page.locator("#classes button").count() == 10, "ten classes")
        page.fill("#search", "SAIL")
        check(page.locator("#classes button").all_inner_texts()[0].startswith("sailboat"), "the class that was looked for")
        page.click("#classes button")
        ready(page)
        check(status(page).startswith("sailboat:"), status(page))
        before = page.evaluate("document.getElementById('figure').toDataURL()")
        page.fill("#opacity", "0")
        ready(page)
        plain = page.evaluate("document.getElementById('figure').toDataURL()")
        page.check("#colour")
        ready(page)
        check(len({before, plain, page.evaluate("document.getElementById('figure').toDataURL()")}) == 3, "slider and colours")
        difference = page.evaluate(
            """() => {
              const shown = document.getElementById("figure").getContext("2d").getImageData(0, 0, agf.picture.width, agf.picture.height);
              return Math.max(...shown.data.map((v, i) => Math.abs(v - agf.picture.rgba[i])));
            }"""
        )
        check(difference == 0, f"opacity 0 in colours is the photograph: {difference}")
        page.fill("#opacity", "0.85")
        page.fill("#search", "")
        page.select_option("#method", label="gradcam")
        ready(page)
        shoot(page, "gradcam")
        with page.expect_download() as waits:
            page.click("#download")
        check(waits.value.suggested_filename == "sailboat-gradcam.png", waits.value.suggested_filename)
        waits.value.save_as(os.path.join(SHOTS, "download.png"))
        with Image.open(os.path.join(SHOTS, "download.png")) as image:
            check(image.size == (512, 552), f"four times the picture of 128 x 128, and a caption: {image.size}")
        page.set_input_files("#picture", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"})
        ready(page)
        check("notes.png" in status(page) and page.locator("#status.failed").count() == 1, status(page))
        page.set_input_files("#model", {"name": "broken.agf", "mimeType": "", "buffer": b"no network" * 40})
        ready(page)
        check("not a" in status(page), status(page))
        page.click("#scenes button:nth-child(2)")  # goes on with the network before
        ready(page)
        check(page.locator("#status.failed").count() == 0, status(page))
    with browser_page(width=390) as page:
        wide = page.evaluate("document.documentElement.scrollWidth")
        check(wide <= 390, f"{wide} pixels wide on a telephone")
        shoot(page, "phone")


def test_files():
    """A picture and a network of one's own: large, gray, transparent, and a network that takes no pictures."""
    with browser_page() as page:
        large = os.path.join(SHOTS, "large.png")
        Image.linear_gradient("L").resize((3000, 1500)).save(large)
        page.set_input_files("#picture", large)
        ready(page)
        check(page.evaluate("[agf.picture.width, agf.picture.height]") == [1280, 640], status(page))
        with open(os.path.join(DEMO, "demo.agf"), "rb") as file:
            data = file.read()
        page.set_input_files("#model", {"name": "mine.agf", "mimeType": "", "buffer": data})
        ready(page)
        check(page.locator("#status.failed").count() == 0 and page.evaluate("agf.model.classes") == 10, status(page))
        golden = os.path.join(ROOT, "tests", "golden", "vgg_tiny", "model.agf")
        if os.path.exists(golden):
            page.set_input_files("#model", golden)
            ready(page)
            check("--mean" in status(page), status(page))


def network(labels, weight=1.0) -> bytes:
    """A small network's file."""
    from agf_convert import ModelFile, Network, Node, Preprocessing

    random = np.random.RandomState(4)
    nodes = [
        Node("conv", "conv", ["input"], kernel=(3, 3), stride=(1, 1), dilation=(1, 1), groups=1,
             weights=(random.standard_normal((6, 3, 3, 3)) * weight).astype(np.float32), bias=np.zeros(6, np.float32)),
        Node("relu", "relu", ["conv"]),
        Node("global_avgpool", "mean", ["relu"]),
        Node("flatten", "flat", ["mean"]),
        Node("linear", "logits", ["flat"], weights=(random.standard_normal((len(labels), 6)) * weight).astype(np.float32),
             bias=np.zeros(len(labels), np.float32)),
    ]  # fmt: skip
    picture = Preprocessing((0.0,) * 3, (1.0,) * 3)
    file = io.BytesIO()
    ModelFile(Network((3, 24, 20), nodes, "small", "test", list(labels), picture, None, "softmax")).write_to(file)
    return file.getvalue()


def drop(page, *files) -> None:
    """Files (name, bytes) dropped onto the page together."""
    page.evaluate(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, data] of files) {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: name.endsWith(".png") ? "image/png" : "" }));
          }
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [[name, base64.b64encode(data).decode()] for name, data in files],
    )


def figure(page) -> str:
    return page.evaluate("document.getElementById('figure').toDataURL()")


def failed(page) -> bool:
    return page.locator("#status.failed").count() == 1


def png(size, mode="RGB", noise=True) -> bytes:
    file = io.BytesIO()
    image = Image.effect_noise(size, 60).convert(mode) if noise else Image.new(mode, size)
    image.save(file, "PNG")
    return file.getvalue()


def downloaded(page, then: str = "") -> str:
    """The name of the file that Download gives, pressed right behind the script `then`."""
    with page.expect_download() as waits:
        page.evaluate(f"() => {{ {then}; document.getElementById('download').click(); }}")
    return waits.value.suggested_filename


def test_a_map_keeps_its_name():
    """While another class or method is worked on, and after a network that failed, what is shown keeps its caption."""
    with browser_page() as page:
        first, second = page.evaluate("agf.ranked.slice(0, 2).map(({ k }) => agf.model.labels[k])")
        check(downloaded(page) == f"{first}-agf.png")
        name = downloaded(page, "document.querySelector('#classes li:nth-child(2) button').click()")
        check(name == f"{first}-agf.png", f"{name}: the map was still that of {first}")
        ready(page)
        check(downloaded(page) == f"{second}-agf.png")
        name = downloaded(page, "const m = document.getElementById('method'); m.value = '4'; m.dispatchEvent(new Event('change'))")
        check(name == f"{second}-agf.png", f"{name}: the map was still agf's")
        page.select_option("#method", label="agf")
        ready(page)
        before = figure(page)
        drop(page, ("broken.agf", b"no network" * 40))
        ready(page)
        check(failed(page) and figure(page) == before, status(page))
        for opacity in ("0.3", "0.85"):
            page.fill("#opacity", opacity)
            ready(page)
        check(figure(page) == before, "another map than before the broken network, under the same name")
        check(downloaded(page) == f"{second}-agf.png")


def test_a_failure_leaves_the_picture_alone():
    """A network whose numbers overflow, a picture of one colour: no map, no classes, nothing to download."""
    alone = """() => {
      const shown = document.getElementById("figure").getContext("2d").getImageData(0, 0, agf.picture.width, agf.picture.height);
      return agf.caption === "" && agf.result === null && shown.data.every((v, i) => v === agf.picture.rgba[i]);
    }"""
    with browser_page() as page:
        drop(page, ("huge.agf", network("abc", 5e37)))
        ready(page)
        check(failed(page) and page.evaluate(alone), f"an old map: {status(page)}")
        check(page.locator("#classes button").count() == 0, "an old network's classes")
        page.fill("#search", "b")
        page.fill("#opacity", "0.3")
        page.select_option("#method", label="gradcam")
        page.click("#download")
        ready(page)
        check(page.evaluate(alone), "a map that nothing has computed")
        page.fill("#search", "")
        drop(page, ("good.agf", network("abc")), ("noise.png", png((50, 40))))
        ready(page)
        check(not failed(page) and page.evaluate("agf.caption").endswith(", gradcam"), status(page))
        page.select_option("#method", label="agf")
        drop(page, ("flat.png", png((50, 40), noise=False)))
        page.evaluate("document.getElementById('opacity').dispatchEvent(new Event('input'))")  # it waits behind the picture
        ready(page)
        check(failed(page) and page.evaluate(alone), f"an old map: {status(page)}")


def test_hostile_files():
    """Nothing that is dropped hangs the page, runs a label, or takes away what was there."""
    with browser_page() as page:
        before = figure(page)
        good = png((300, 200))
        huge = png((60000, 60000), "1", noise=False)  # half a megabyte, and 14 GB of RGBA
        with open(os.path.join(DEMO, "demo.agf"), "rb") as file:
            demo = file.read()
        random = np.random.RandomState(1)
        for name, data in (("cut.png", good[: len(good) // 2]), ("text.png", b"text"), ("empty.png", b""), ("text", b"text"),
                           ("huge.png", huge), ("text.agf", b"text"), ("empty.agf", b""), ("cut.agf", demo[:-1])):  # fmt: skip
            drop(page, (name, data))
            ready(page)
            check(failed(page) and figure(page) == before, f"{name}: {status(page)}")
        for _ in range(20):
            damaged = bytearray(demo)
            for at in random.randint(0, len(demo), 3):
                damaged[at] ^= 1 << random.randint(8)
            drop(page, ("damaged.agf", bytes(damaged)))
        ready(page)
        check(failed(page) and figure(page) == before, status(page))
        hostile = ['<img src=x onerror="window.hacked=1">', "<script>window.hacked=1</script>", "\u202etnedive", "x" * 100_000]
        drop(page, ("hostile.agf", network(hostile)), ("noise.png", good))
        ready(page)
        for number in range(len(hostile)):
            page.click(f"#classes li:nth-child({number + 1}) button")
            ready(page)
            check(not failed(page) and downloaded(page).endswith("-agf.png"), status(page)[:200])
        check(page.evaluate("document.documentElement.scrollWidth") <= 1200, "a long label makes the page wide")
        shoot(page, "hostile-labels")
        check(page.evaluate("window.hacked") is None, "a label ran")
        check(page.evaluate("document.querySelectorAll('#controls img, #controls script').length") == 0, "a label is part of the page")
        drop(page, ("many.agf", network([f"label {k}" for k in range(70_000)])))
        ready(page)
        check(not failed(page) and page.locator("#classes button").count() == 100, status(page))
        page.fill("#search", "LABEL 69999")
        check(page.locator("#classes button").all_inner_texts()[0].startswith("label 69999"), "the last class")
        page.fill("#search", "")
        page.select_option("#method", label="integrated_gradients")
        drop(page, ("small.agf", network(["left", "right"])))  # while that runs
        drop(page, ("demo.agf", demo))
        drop(page, ("noise.png", good), ("other.agf", network(["up", "down"])))
        ready(page)
        check(not failed(page) and page.evaluate("agf.model.labels") == ["up", "down"], status(page))
        check(page.evaluate("agf.caption.split(',')[0]") in ("up", "down"), page.evaluate("agf.caption"))
        check(page.evaluate("[agf.picture.width, agf.picture.height]") == [300, 200], "the picture")


def test_camera():
    """Frames of a camera one after the other, until it is stopped."""
    with browser_page(permissions=["camera"]) as page:
        page.click("#camera")
        page.wait_for_function("agf.live && agf.picture.width === 640")
        page.wait_for_timeout(3000)
        check(page.locator("#status.failed").count() == 0, status(page))
        shoot(page, "camera")
        page.click("#camera")
        page.wait_for_function("!agf.live && agf.idle")
        check(page.text_content("#camera") == "Camera", "stopped")


def colours(page):
    """Mean red, green and blue of the upper half of the live picture as it is drawn now (the caption is below); None
    before the first frame."""
    return page.evaluate(
        """() => {
          const live = document.getElementById("live"), canvas = document.createElement("canvas");
          if (!live.naturalWidth) return null;
          [canvas.width, canvas.height] = [live.naturalWidth, live.naturalHeight >> 1];
          const context = canvas.getContext("2d");
          context.drawImage(live, 0, 0);
          const {data} = context.getImageData(0, 0, canvas.width, canvas.height), sums = [0, 0, 0];
          data.forEach((v, i) => { if (i % 4 < 3) sums[i % 4] += v; });
          return sums.map(sum => sum / canvas.width / canvas.height);
        }"""
    )


def mean_of(name):
    """What colours() is for an explained frame that --colour and --alpha 0 leave as it came."""
    with Image.open(os.path.join(DEMO, name)) as image:
        return np.asarray(image.convert("RGB"), float)[: image.height // 2].reshape(-1, 3).mean(0)


def frame_of(name):
    data = io.BytesIO()
    with Image.open(os.path.join(DEMO, name)) as image:
        image.convert("RGB").save(data, "JPEG", quality=95)
    return data.getvalue()


def shows(page, name):
    """Waits until the live picture is this scene. It was a JPEG twice, which moves a mean by a value or two."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = colours(page)
        if seen and np.abs(np.array(seen) - mean_of(name)).max() <= 3:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{name} is not shown: {colours(page)}, not {mean_of(name)}")


def test_watch():
    """tools/agf_page.py --watch: what agf watch makes of a camera's frames, live in browsers."""
    if not CHROMIUM:
        raise Skip("chromium is not installed")
    if not os.path.exists(PROGRAM):
        raise Skip(f"{PROGRAM} is not built")
    scenes = ("butterfly-cup.png", "mushroom-tree-fish.png")
    apart = np.abs(mean_of(scenes[0]) - mean_of(scenes[1])).max()
    check(apart > 20, f"the scenes can be told apart: {apart}")
    tool = os.path.join(ROOT, "tools", "agf_page.py")
    words = [tool, "--port", "0", "--watch", os.path.join(DEMO, "demo.agf"), "-", "--colour", "--alpha", "0", "-q"]
    process = subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "AGF_BIN": PROGRAM}
    )
    os.makedirs(SHOTS, exist_ok=True)
    try:
        address = process.stdout.readline().decode().strip()
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page, errors = browser.new_page(viewport={"width": 700, "height": 600}), []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(address)
            check("waiting" in page.text_content("#status"), page.text_content("#status"))
            for name in scenes:
                process.stdin.write(frame_of(name))
                process.stdin.flush()
                shows(page, name)
            with urllib.request.urlopen(address + "live", timeout=60) as stream:
                part = stream.read(400)
            check(re.match(rb"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: \d+\r\n\r\n\xff\xd8", part), part)
            with urllib.request.urlopen(address + "frame?after=999999999999", timeout=60) as newest:
                check(newest.headers["X-Frame"] == "2", "a number of another run waits for nothing")
            late = browser.new_page()  # sees the newest at once
            late.goto(address)
            shows(late, scenes[1])
            page.wait_for_function("document.getElementById('status').textContent.startsWith('2 frames')")
            shoot(page, "watch")
            process.stdin.close()
            page.wait_for_function("document.getElementById('status').textContent.includes('ended')")
            shows(page, scenes[1])
            check(not errors, errors)
            browser.close()
        process.send_signal(signal.SIGINT)
        check(process.wait(20) == 0, "ends with Ctrl-C")
    finally:
        process.kill()
        process.wait()


def test_watch_refuses():
    """Mistakes of use are one line, and the program's own its own."""
    tool = [sys.executable, os.path.join(ROOT, "tools", "agf_page.py"), "--port", "0"]
    demo = os.path.join(DEMO, "demo.agf")
    for words, says in (
        (["--page", "nowhere"], "make page"),
        (["--watch", demo, "-", "-o", "x"], "-o"),
        (["--watch", "none.agf", "-"], "none.agf"),
    ):
        done = subprocess.run(
            [*tool, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env={**os.environ, "AGF_BIN": PROGRAM}
        )
        check(done.returncode and says in done.stderr and done.stderr.count("\n") == 1, f"{words}: {done.stderr}")
    done = subprocess.run([*tool[:-1], "70000"], capture_output=True, text=True, timeout=60)
    check(done.returncode == 2 and "70000 is no port" in done.stderr and "Traceback" not in done.stderr, done.stderr)


def test_watch_ends():
    """SIGTERM and Ctrl-C end the program as well, though it waits for a frame that does not come."""
    if not os.path.exists(PROGRAM):
        raise Skip(f"{PROGRAM} is not built")
    words = [os.path.join(ROOT, "tools", "agf_page.py"), "--port", "0", "--watch", os.path.join(DEMO, "demo.agf"), "-", "-q"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 0)):
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "AGF_BIN": PROGRAM},
        )  # fmt: skip
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(number)
        ended = select.select([process.stderr], [], [], 30)[0]  # its end comes when the program, which has it too, is gone
        check(ended and not process.stderr.read(), "the program is still there")
        check(process.wait(60) == code, f"{number}: exit code {process.returncode}")
        process.stdin.close()


if __name__ == "__main__":
    sys.exit(run_tests(dict(globals()), sys.argv[1:], missing_library(agf)))
