"""neuromix data events: what a recording holds, as text, JSON and pictures."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

from neuromix.cli import main
from neuromix.data.events import Events, write_events
from tests.data.events.files import some_events, write_hdf5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a recording of 0.2 seconds."""
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    t_N = np.linspace(0, 200_000, 500).astype(int)
    events = Events(
        t_N, chance.integers(0, 30, 500), chance.integers(0, 20, 500), np.arange(500) % 5 > 0, 20, 30
    )
    write_events(tmp_path / "a.npz", events)
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["data", "events", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_figures_as_json(capsys, here):
    code, out, err = run(capsys, "a.npz", "--json")
    assert (code, err) == (0, "")
    expected = {"events": 500, "duration": 0.2, "height": 20, "width": 30, "rate": 2500.0, "on_share": 0.8}
    assert json.loads(out) == {
        "file": "a.npz",
        **{key: pytest.approx(value) for key, value in expected.items()},
    }


def test_figures_for_people(capsys, here):
    code, out, err = run(capsys, "a.npz")
    assert (code, err) == (0, "")
    for line in (
        "events +500",
        "duration, seconds +0.2000",
        "sensor, height x width +20 x 30",
        "events a second +2500",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE)


def test_a_single_event_has_no_rate(capsys, here):
    write_events(here / "one.npz", Events([7], [0], [0], [1]))
    assert json.loads(run(capsys, "one.npz", "--json")[1])["rate"] is None
    assert run(capsys, "one.npz", "--plot", "one.png")[0] == 0
    assert re.search(r"events a second +-", run(capsys, "one.npz")[1])


@pytest.mark.parametrize("frames", [1, 4])
def test_a_png_shows_frames_in_their_colours_and_the_rate_below(capsys, here, frames):
    Image = pytest.importorskip("PIL.Image")
    code, _, err = run(capsys, "a.npz", "--plot", "a.png", "--frames", str(frames))
    assert (code, err) == (0, "written: a.png\n")
    with Image.open("a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # 160 // 30 times the size, and a gap on each side; then twice the height of the bars.
    assert pixels.shape[:2] == (3 * 8 + 5 * 20 + 180, frames * (5 * 30 + 8) + 8)
    blue, red = ((pixels[..., c] - pixels[..., 2 - c]) > 60 for c in (2, 0))
    bars = slice(5 * 20 + 16, None)
    assert 2.5 < blue[bars].sum() / red[bars].sum() < 6  # four times as many ON events
    assert (
        blue[bars][:90].any()
        and not blue[bars][90:].any()
        and not red[bars][:90].any()
        and red[bars][90:].any()
    )


def test_an_html_page_has_figures_and_frames(capsys, here):
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    code, _, err = run(capsys, "a.npz", "--plot", "deep/a.html", "--frames", "3")
    assert (code, err) == (0, "written: deep/a.html\n")
    page = (here / "deep" / "a.html").read_text(encoding="utf-8")
    for text in ("Events over time", "20 x 30", "3 of 3", "neuromix data events"):
        assert text in page
    assert "4 of 3" not in page


def test_large_frames_are_shown_smaller_on_a_page(here):
    from neuromix.report.event_page import LARGEST, event_page

    page = event_page("large", some_events(100, 700, 1200), 2)
    pictures = [block.data[0]["z"] for block in page.sections[1].blocks]
    assert [(len(z), len(z[0])) for z in pictures] == [(round(LARGEST * 700 / 1200), LARGEST)] * 2
    assert {value for z in pictures for row in z for value in row} <= {0.0, 0.5, 1.0}


def test_an_artificial_ear_is_drawn_over_time(capsys, here):
    pytest.importorskip("h5py")
    Image = pytest.importorskip("PIL.Image")
    write_hdf5(
        here / "a.h5",
        [(np.array([0.1]), np.array([3])), (np.array([0.0, 0.5]), np.array([0, 9]))],
        [0, 1],
        ["a", "b"],
    )
    assert json.loads(run(capsys, "a.h5", "--record", "1", "--json")[1])["events"] == 2
    assert run(capsys, "a.h5", "--record", "1", "--plot", "a.png")[0] == 0
    with Image.open("a.png") as image:
        assert image.height > 700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz"], "cannot read none.npz: No such file or directory"),
        (["a.npz", "--plot", "a.gif"], "--plot writes .png or .html files; got a.gif"),
        (
            ["a.npz", "--sensor", "30"],
            "--sensor gives H,W as whole numbers with a comma, as 128,128; got '30'",
        ),
        (["a.npz", "--sensor", "4,30"], "a.npz: event 1 has y = 7; the sensor is 4 pixels high"),
        (["a.npz", "--record", "0"], "a.npz holds one recording"),
        (["a.npz", "--frames", "0"], "Invalid value for '--frames'"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, here, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == ["a.npz"]


def test_a_file_in_disorder_can_be_sorted(capsys, here):
    (here / "b.txt").write_text("1 1 9 1\n1 1 4 0\n")
    assert "sort the events by time" in run(capsys, "b.txt")[2]
    assert run(capsys, "b.txt", "--sort")[0] == 0


@pytest.mark.parametrize(
    ("plot", "module", "extra"), [("a.png", "PIL", "vision"), ("a.html", "plotly", "report")]
)
def test_missing_libraries_are_named(capsys, here, monkeypatch, plot, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(capsys, "a.npz", "--plot", plot)
    assert code == 2 and f'pip install "neuromix[{extra}]"' in err
    assert not (here / plot).exists()
