"""The local page: what it does with a dropped photo, and what it refuses."""

import base64
import http.client
import io
import json
import pathlib
import threading

import browser
import cv2
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from colorize_jax import command_line
from colorize_jax.color import spaces
from colorize_jax.colorize import demo, network
from colorize_jax.colorize.colorizer import Colorizer
from colorize_jax.errors import ConfigError
from colorize_jax.tasks.task import Colors

MAX_PIXELS, MAX_BYTES = 200_000, 300_000


@pytest.fixture(scope="module")
def colorizer():
    """Without a network, which would take long to compile: red and blue are moved apart, bright
    pixels more, and by the temperature."""

    def plane(predicted, height, width, decoding, temperature, keys):
        strength = temperature if decoding == "annealed" else 0.1
        return jnp.repeat(predicted["gray"] * strength, 2, -1)

    colors = Colors(
        spaces.gray,
        lambda variables, rgb: {"gray": rgb[..., :1]},
        plane,
        lambda plane, gray: jnp.stack([gray + plane[..., 0], gray, gray - plane[..., 1]], -1),
        decodings=("mean", "annealed"),
        stride=4,
    )
    return Colorizer(network.Network(pathlib.Path("/runs/mine"), colors, {}, {}), size=64)


@pytest.fixture
def server(colorizer):
    with demo.Server(demo.DroppedPhotos(colorizer, MAX_PIXELS), 0, MAX_BYTES) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    """(status, headers, content) of an answer."""
    connection = http.client.HTTPConnection(demo.HOST, server.server_port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def encoded(pixels, form="PNG", **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **settings)
    return file.getvalue()


def photo(rng, height=90, width=120):
    small = rng.integers(60, 190, (3, 4, 3), dtype=np.uint8)  # what is colored stays a color
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def dropped(server, content):
    status, _, answer = ask(server, "POST", "/photos", content)
    assert status == 200, answer
    return json.loads(answer)


def pixels_of(answer):
    status, _, content = answer
    assert status == 200, content
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_a_dropped_photo_is_shown_gray_colored_and_true_and_is_saved(server, colorizer, rng):
    truth = photo(rng)
    found = dropped(server, encoded(truth))
    assert (found["width"], found["height"], found["color"]) == (120, 90, True)
    assert found["ending"] == ".png"
    place = f"/photos/{found['id']}"
    for kind, expected in (
        ("gray", np.repeat(truth.mean(-1, keepdims=True), 3, -1)),
        ("truth", truth),
        ("colored", colorizer(truth)),
        ("colored?temperature=0.2&saturation=1.5", colorizer(truth, temperature=0.2,
                                                             saturation=1.5)),
        ("colored?saturation=0", np.repeat(truth.mean(-1, keepdims=True), 3, -1)),
    ):  # fmt: skip
        shown = pixels_of(ask(server, "GET", f"{place}/{kind}"))
        assert abs(shown - expected).mean() < 3, kind
    status, headers, content = ask(server, "GET", f"{place}/save?saturation=1.5")
    assert status == 200 and headers["Content-Disposition"] == "attachment"
    saved = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(saved, colorizer(truth, saturation=1.5))


def test_large_photos_are_shown_small_and_saved_large_and_gray_ones_have_no_truth(
    server, rng, monkeypatch
):
    monkeypatch.setattr(demo, "_SHOWN", 60)
    gray = photo(rng)[..., 0]
    found = dropped(server, encoded(gray, "JPEG"))
    assert not found["color"] and found["ending"] == ".jpg"
    place = f"/photos/{found['id']}"
    assert ask(server, "GET", f"{place}/truth")[0] == 404
    assert pixels_of(ask(server, "GET", f"{place}/colored")).shape == (45, 60, 3)
    saved = ask(server, "GET", f"{place}/save")
    assert pixels_of(saved).shape == (90, 120, 3) and saved[2].startswith(b"\xff\xd8")


def test_a_saved_photo_keeps_its_depth_and_what_its_file_says(server, rng):
    exif = Image.Exif()
    exif[0x010E] = "the garden"
    name = dropped(server, encoded(photo(rng), "JPEG", exif=exif))["id"]
    saved = Image.open(io.BytesIO(ask(server, "GET", f"/photos/{name}/save")[2]))
    assert saved.format == "JPEG" and saved.getexif()[0x010E] == "the garden"
    deep = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    found = dropped(server, encoded(deep))
    content = ask(server, "GET", f"/photos/{found['id']}/save?saturation=0")[2]
    saved = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert not found["color"] and saved.dtype == np.uint16
    np.testing.assert_allclose(saved.mean(-1), deep, atol=1)


def test_the_oldest_photo_is_forgotten(server, rng):
    content = encoded(photo(rng))
    names = [dropped(server, content)["id"] for _ in range(demo._KEPT + 1)]
    assert len(set(names)) == len(names)
    found = [ask(server, "GET", f"/photos/{name}/gray")[0] for name in names]
    assert found == [404] + [200] * demo._KEPT


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../../etc/passwd", "/photos/../../etc/passwd", "//etc/passwd",
     "/photos/%2e%2e/gray", "/photos/x/gray", "/pages/demo.html", "/style.css", "/photos",
     "/?a=b/"],
)  # fmt: skip
def test_no_file_of_the_machine_is_reachable(server, path):
    status, headers, content = ask(server, "GET", path)
    if path == "/?a=b/":  # the page itself
        assert status == 200 and b"Drop a photo" in content
    else:
        assert status == 404 and "nothing here" in json.loads(content)["error"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_no_photo_or_too_large_is_a_sentence(server, rng):
    assert server.server_address[0] == "127.0.0.1"
    for content, status, words in (
        (b"hello", 422, "not an image"),
        (b"", 422, "empty"),
        (encoded(photo(rng))[:200], 422, "damaged"),
        (encoded(np.zeros((500, 500, 3), np.uint8)), 422, "--max_megapixels"),
        (bytes(MAX_BYTES + 1), 413, "at most 0 are taken (--max_megabytes)"),
    ):
        found, _, answer = ask(server, "POST", "/photos", content)
        assert found == status and words in json.loads(answer)["error"], answer
    assert ask(server, "POST", "/photos", **{"Transfer-Encoding": "chunked"})[0] == 411
    assert ask(server, "POST", "/other", b"a")[0] == 404
    assert ask(server, "PUT", "/photos", b"a")[0] == 501


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("temperature=9", "temperature=9 must lie between 0 and 4"),
        ("saturation=nan", "saturation=nan"),
        ("saturation=-1", "saturation=-1"),
        ("saturation=x", "no question"),
        ("seed=1", "'seed'"),
        ("&".join(["saturation=1"] * 9), "no question"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(server, query, words, rng):
    name = dropped(server, encoded(photo(rng)))["id"]
    status, _, answer = ask(server, "GET", f"/photos/{name}/colored?{query}")
    assert status == 400 and words in json.loads(answer)["error"]


def test_other_sites_can_neither_use_the_page_nor_pretend_to_be_it(server, rng):
    """A name of theirs may be pointed at this machine, or their page may post to it."""
    content = encoded(photo(rng))
    status, _, answer = ask(server, "GET", "/", Host="evil.example")
    assert status == 403 and b"<html" not in answer
    own = f"http://127.0.0.1:{server.server_port}"
    assert ask(server, "POST", "/photos", content, Origin="http://evil.example")[0] == 403
    assert ask(server, "POST", "/photos", content, Origin="null")[0] == 403
    assert ask(server, "POST", "/photos", content, Origin=own)[0] == 200
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_fault_is_told_on_the_terminal_and_the_server_goes_on(server, rng, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("raised on purpose")

    name = dropped(server, encoded(photo(rng)))["id"]
    monkeypatch.setattr(server.dropped, "picture", fail)
    status, _, answer = ask(server, "GET", f"/photos/{name}/gray")
    assert status == 500 and b"purpose" not in answer and "purpose" in capsys.readouterr().err
    assert ask(server, "GET", "/")[0] == 200


def test_a_port_that_is_taken_is_a_sentence(server, colorizer, monkeypatch):
    monkeypatch.setattr(Colorizer, "load", lambda *_: colorizer)

    def start(*words):
        demo.main(command_line.parse(demo.parser(), list(words)))

    with pytest.raises(ConfigError, match="cannot be used"):
        start(f"--port={server.server_port}")
    with pytest.raises(ConfigError, match="--port=70000"):
        start("--port=70000")
    with pytest.raises(ConfigError, match="--max_megabytes goes"):
        start("--max_megabytes=0")


DROP = """(() => {
  const bytes = Uint8Array.from(atob(%s), (c) => c.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], "holiday.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true }));
})()"""
MIDDLE = """(() => {
  const image = document.getElementById("%s"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  canvas.getContext("2d").drawImage(image, 60, 45, 1, 1, 0, 0, 1, 1);
  return Array.from(canvas.getContext("2d").getImageData(0, 0, 1, 1).data).slice(0, 3);
})()"""


def _shown(id):
    return f'((image) => image.complete && image.naturalWidth)(document.getElementById("{id}"))'


@browser.needed
def test_a_browser_drops_a_photo_moves_the_sliders_and_saves(server, colorizer, rng, tmp_path):
    truth = photo(rng)

    def settled(words):
        tab.wait(f'document.getElementById("said").textContent.startsWith({json.dumps(words)})')

    with browser.page(tmp_path) as tab:
        tab.open(server.address)
        tab.evaluate(DROP % json.dumps(base64.b64encode(encoded(truth)).decode()))
        settled("holiday.png, 120 x 90.")
        for id in ("gray", "colored", "truth"):
            assert tab.wait(_shown(id)) == 120
        center = truth[45, 60].astype(int)
        np.testing.assert_allclose(tab.evaluate(MIDDLE % "truth"), center, atol=6)
        np.testing.assert_allclose(tab.evaluate(MIDDLE % "gray"), center.mean(), atol=6)
        usual = colorizer(truth)[45, 60].astype(int)
        np.testing.assert_allclose(tab.evaluate(MIDDLE % "colored"), usual, atol=12)
        tab.evaluate("""(() => {
            document.getElementById("saturation").value = 0;
            document.getElementById("saturation").dispatchEvent(new Event("input"));
            document.getElementById("said").textContent = "";
        })()""")
        settled("holiday.png, 120 x 90.")
        tab.wait(_shown("colored"))
        np.testing.assert_allclose(tab.evaluate(MIDDLE % "colored"), center.mean(), atol=6)
        link = tab.evaluate('document.getElementById("save").href')
        assert tab.evaluate('document.getElementById("save").download') == "holiday-colored.png"
        saved = pixels_of(ask(server, "GET", link.partition(server.address)[2].join(["/", ""])))
        np.testing.assert_allclose(saved, truth.mean(-1, keepdims=True) + [0, 0, 0], atol=1)
        tab.evaluate(DROP % json.dumps(base64.b64encode(b"no photo").decode()))
        settled("holiday.png: not an image")
        loaded = tab.evaluate("performance.getEntriesByType('resource').map((x) => x.name)")
        assert all(name.startswith((server.address, "blob:")) for name in loaded)
