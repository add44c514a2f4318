"""Videos: colors are smoothed where nothing moves, and times, order and sound stay."""

from fractions import Fraction

import colorizers
import numpy as np
import pytest

from colorize_jax.colorize import __main__ as command
from colorize_jax.colorize import video
from colorize_jax.colorize.colorizer import Colorizer
from colorize_jax.errors import ConfigError


def test_the_past_counts_where_nothing_moves_and_is_forgotten_elsewhere():
    smoother = video.Smoother(0.75)
    gray = np.zeros((8, 12), np.float32)
    first, still = smoother({"hue": np.zeros((1, 3, 4, 2), np.float32)}, gray)
    assert still is None and (first["hue"] == 0).all()
    moved = gray.copy()
    moved[:, :4] = 0.3  # on the mean 0.1: no cut
    second, still = smoother({"hue": np.ones((1, 3, 4, 2), np.float32)}, moved)
    assert not still[:, :4].any() and still[:, 4:].all()
    np.testing.assert_allclose(second["hue"][0, :2, 0], 1)
    np.testing.assert_allclose(second["hue"][0, :2, 2:], 0.25)
    third, still = smoother({"hue": np.full((1, 3, 4, 2), 5, np.float32)}, moved + 0.5)
    assert still is None and (third["hue"] == 5).all() and smoother.scenes == 2


def test_names_and_settings():
    assert video.output_name("a/b.MP4") == "a/b.MP4" and video.output_name("b.avi") == "b.mkv"
    pytest.importorskip("av")
    with pytest.raises(ConfigError, match="--smooth"):
        video.check(1.0)


def test_without_pyav_it_is_said(monkeypatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"colorize_jax\[video\]"):
        video.check(0.5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Colorizer.load(colorizers.save(tmp_path_factory.mktemp("network")), size=32)


@pytest.fixture
def run(shared, monkeypatch, capsys, tmp_path):
    """Calls the command for videos; gives (code, lines on stdout, stderr)."""
    pytest.importorskip("av", reason="PyAV, the extra `video`, is not installed")
    monkeypatch.setattr(Colorizer, "load", lambda path, size=None: shared)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = 0
        try:
            command.main(command.parser().parse_args([*words, "--video"]))
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return call


TIMES = (0, 1, 2, 5, 6, 7)  # of frames, in tenths of a second: one is long


def _write(path, rng, size=(48, 64), sound=True):
    """A video of two scenes with a little noise."""
    import av

    photos = rng.integers(0, 256, (2, 6, 8, 3))
    photos[1] = 255 - photos[0]
    with av.open(str(path), "w") as file:
        # Without loss: otherwise noise between frames would be lost.
        shown = file.add_stream("libx264", rate=10, options={"qp": "0"})
        shown.height, shown.width = size
        shown.pix_fmt = "yuv444p"
        heard = file.add_stream("aac", rate=16000) if sound else None
        for number, time in enumerate(TIMES):
            photo = photos[number // 3].repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
            noisy = np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            file.mux(shown.encode(frame))
        for start in range(0, 8192 if sound else 0, 1024):
            wave = (8000 * np.sin(np.arange(start, start + 1024) / 9)).astype(np.int16)[None]
            part = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            part.sample_rate, part.pts = 16000, start
            file.mux(heard.encode(part))
        file.mux(shown.encode())
        if sound:
            file.mux(heard.encode())


def _packets(path):
    import av

    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def _frames(path):
    import av

    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return [round(10 * frame.time) for frame in frames], [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in frames
        ]


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_video_is_colored_with_its_times_and_its_sound(run, rng, size):
    _write("in.mp4", rng, size)
    code, out, err = run("in.mp4", "-o", "out.mp4")
    assert (code, out) == (0, ["out.mp4"]), err
    assert "6 frames, scenes: 2" in err and "1 video colored, 0 failed" in err
    times, frames = _frames("out.mp4")
    _, before = _frames("in.mp4")
    assert times == list(TIMES) and frames[0].shape == (*size, 3)
    for now, then in zip(frames, before, strict=True):
        assert abs(float(now.mean()) - then.mean()) < 6  # coded twice, and of half the colors
    assert np.ptp(frames[0].astype(int), axis=-1).mean() > 4
    assert _packets("out.mp4") == _packets("in.mp4")


def test_smoothing_leaves_less_flicker(run, rng):
    _write("in.mkv", rng, sound=False)
    assert run("in.mkv", "-o", "out")[:2] == (0, ["out/in.mkv"])
    err = run("in.mkv", "-o", "out", "--overwrite")[2]
    after, before = (float(part.split("%")[0].split()[-1]) for part in err.split(" by ")[1:])
    assert 0 < after < before
    err = run("in.mkv", "-o", "out", "--overwrite", "--smooth=0")[2]
    after, before = (float(part.split("%")[0].split()[-1]) for part in err.split(" by ")[1:])
    assert after == before > 0


def test_what_is_no_video_is_named_and_the_rest_is_done(run, rng, tmp_path):
    _write("good.mp4", rng, sound=False)
    (tmp_path / "text.mp4").write_text("hello")
    import av

    with av.open("sound.mp4", "w") as file:
        heard = file.add_stream("aac", rate=16000)
        wave = np.zeros((1, 4096), np.int16)
        part = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        part.sample_rate = 16000
        file.mux(heard.encode(part))
        file.mux(heard.encode())
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:400])
    code, out, err = run("text.mp4", "sound.mp4", "good.mp4", "cut.mp4", "gone.mp4", "-o", "out")
    assert (code, out) == (1, ["out/good.mp4"])
    assert "failed: text.mp4: it cannot be read" in err
    assert "failed: sound.mp4: it has no pictures" in err and "failed: cut.mp4" in err
    assert "failed: gone.mp4: there is no such file" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.mp4"]


def test_wrong_use_of_videos_ends_with_2(run, tmp_path):
    (tmp_path / "folder").mkdir()
    for words, said in (
        (["folder"], "no video"),
        (["a.mp4", "--samples=2"], "--samples"),
        (["a.mp4", "--smooth=2"], "--smooth"),
        (["a.mp4", "b.mp4", "-o", "c.mp4"], "name a folder"),
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, []) and said in err, words
