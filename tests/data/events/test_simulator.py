"""The simulated camera against its equations, and the motion of pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.data.events import Camera, Events, simulate
from neuromix.data.events.motion import MOTIONS, moved
from tests.data.events.files import assert_same

IDEAL = Camera(spread=0.0, refractory=0, leak_rate=0.0, shot_rate=0.0)


def film(light_KHW: torch.Tensor, camera: Camera, seed: int = 0, duration: int = 1_000_000) -> Events:
    t_K = np.linspace(0, duration, len(light_KHW)).astype(np.int64)
    return simulate(light_KHW, t_K, camera, np.random.default_rng(seed))


def one_pixel(*light: float) -> torch.Tensor:
    return torch.tensor(light).reshape(-1, 1, 1)


def levels(events: Events, camera: Camera) -> np.ndarray:
    """How much the events say that the log light changed, one after another."""
    return np.cumsum(np.where(events.p_N, camera.threshold_on, -camera.threshold_off))


def test_still_light_is_silent():
    assert film(torch.rand(1, 5, 5).expand(20, 5, 5), IDEAL).size == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_events_follow_the_logarithm_of_the_light(seed, on, off):
    camera = IDEAL.replace(threshold_on=on, threshold_off=off)
    light = torch.rand(12, generator=torch.Generator().manual_seed(seed))
    events = film(light.reshape(-1, 1, 1), camera, seed)
    log_K = np.log(camera.dark + light.numpy().astype(np.float64))
    t_K = np.linspace(0, 1_000_000, 12).astype(np.int64)
    told = levels(events, camera)
    # Just after its time, an event and those before it have told of the light to within the first, unknown phase.
    at_N = np.interp(events.t_N, t_K, log_K) - log_K[0]
    phase = (at_N - told)[:1] if events.size else np.zeros(1)
    assert -on - 1e-3 <= phase.min() and phase.max() <= off + 1e-3
    np.testing.assert_allclose(
        at_N - told, np.broadcast_to(phase, told.shape), atol=2e-3 * max(1, 1 / min(on, off))
    )
    # And nothing is left untold: what remains is below a threshold.
    rest = log_K[-1] - log_K[0] - (told[-1] if events.size else 0) - phase[0]
    if events.size:
        assert -off - 1e-3 < rest < on + 1e-3


def test_times_are_those_at_which_a_straight_line_reaches_the_levels():
    camera = IDEAL.replace(threshold_on=0.5, threshold_off=0.5)
    rise = math.exp(2.0) * camera.dark - camera.dark  # log light from ln(dark) to ln(dark) + 2
    events = film(one_pixel(0.0, rise), camera)
    assert events.p_N.all() and 3 <= events.size <= 4
    np.testing.assert_allclose(np.diff(events.t_N), 250_000, atol=1)  # four thresholds a second


def test_thresholds_differ_from_pixel_to_pixel():
    light = torch.linspace(0, 1, 30).reshape(-1, 1, 1).expand(-1, 20, 20)
    counts = [
        np.bincount(events.y_N * 20 + events.x_N, minlength=400)
        for events in (film(light, IDEAL), film(light, IDEAL.replace(spread=0.3)))
    ]
    assert np.ptp(counts[0]) <= 2  # the phase alone
    assert np.ptp(counts[1]) > 5


def test_leak_and_shot_noise_have_their_rates():
    dark = torch.zeros(11, 40, 40)
    leak = film(dark, IDEAL.replace(leak_rate=2.0), duration=3_000_000)
    late = leak.t_N >= 1_000_000  # every pixel has sent its first
    assert leak.p_N.all() and late.sum() == pytest.approx(2 * 2 * 1600, rel=0.01)
    shot = film(dark, IDEAL.replace(shot_rate=4.0))
    assert shot.size == pytest.approx(4 * 1600, rel=0.05) and shot.p_N.mean() == pytest.approx(0.5, abs=0.03)
    bright = film(torch.ones(11, 40, 40), IDEAL.replace(shot_rate=4.0))
    assert bright.size == pytest.approx(1600, rel=0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.sampled_from([1, 500, 20_000, 400_000]))
def test_a_pixel_rests_after_what_it_sends(seed, refractory):
    light = torch.rand(15, 3, 4, generator=torch.Generator().manual_seed(seed))
    camera = IDEAL.replace(shot_rate=3.0)
    free, resting = film(light, camera, seed), film(light, camera.replace(refractory=refractory), seed)
    expected = []
    for pixel in range(12):
        last = -math.inf
        for t, p in _of(free, pixel):
            if t - last >= refractory:
                expected.append((t, pixel, p))
                last = t
    found = list(
        zip(resting.t_N.tolist(), (resting.y_N * 4 + resting.x_N).tolist(), resting.p_N.tolist(), strict=True)
    )
    assert sorted(found) == sorted(expected)


def _of(events: Events, pixel: int) -> list[tuple[int, bool]]:
    here = events.y_N * 4 + events.x_N == pixel
    return list(zip(events.t_N[here].tolist(), events.p_N[here].tolist(), strict=True))


def test_the_same_chance_gives_the_same_events():
    light = torch.rand(10, 6, 6)
    assert_same(film(light, Camera(), 3), film(light, Camera(), 3))
    assert film(light, Camera(), 3).size != film(light, Camera(), 4).size


@pytest.mark.parametrize(
    "shape, times", [((1, 2, 2), [0]), ((3, 2), [0, 1, 2]), ((2, 2, 2), [0, 0]), ((2, 2, 2), [0])]
)
def test_bad_films_are_refused(shape, times):
    with pytest.raises(ShapeError, match="two pictures or more"):
        simulate(torch.zeros(shape), np.array(times), Camera(), np.random.default_rng(0))


def test_light_is_not_negative():
    for wrong in (-0.1, math.nan):
        with pytest.raises(ShapeError, match="light is 0 or more"):
            film(one_pixel(0.5, wrong), IDEAL)


def test_bad_cameras_are_refused():
    for wrong in ({"threshold_on": 0.0}, {"dark": -1.0}, {"refractory": -1}, {"spread": 1.0}):
        with pytest.raises(ConfigError):
            Camera(**wrong)


# Motion


def path(name: str, amplitude: float, moments: int = 50, seed: int = 0):
    return MOTIONS[name](np.linspace(0, 1, moments), amplitude, np.random.default_rng(seed))


def test_a_picture_at_rest_is_itself():
    picture = torch.rand(6, 9)
    still = path("saccades", 0.0, 3)
    for frame in moved(picture, still, 6, 9):
        torch.testing.assert_close(frame, picture)
    small = moved(picture, still, 12, 18, share=0.5)[0]
    torch.testing.assert_close(small[3:9, 4:13].sum(), small.sum(), rtol=0.2, atol=0.0)


def test_shifts_are_in_pixels_to_the_right_and_down():
    picture, still = torch.rand(7, 7), path("saccades", 0.0, 2)
    shifted = still._replace(x_K=np.array([0.0, 2.0]), y_K=np.array([0.0, 1.0]))
    frames = moved(picture, shifted, 7, 7)
    torch.testing.assert_close(frames[1, 1:, 2:], picture[:-1, :-2])
    assert frames[1, 0].max() < 1e-5 and frames[1, :, :2].max() < 1e-5


def test_turns_and_zooms_are_about_the_middle_of_the_shifted_picture():
    picture, still = torch.rand(8, 8), path("saccades", 0.0, 2)
    turned = moved(picture, still._replace(angle_K=np.array([0.0, math.pi / 2])), 8, 8)
    torch.testing.assert_close(turned[1], picture.rot90(-1), atol=1e-5, rtol=0)  # clockwise, as seen
    both = still._replace(angle_K=np.full(2, math.pi / 2), x_K=np.full(2, 3.0))
    torch.testing.assert_close(
        moved(picture, both, 8, 8)[0, :, 3:], picture.rot90(-1)[:, :-3], atol=1e-5, rtol=0
    )
    zoomed = moved(torch.ones(8, 8), still._replace(zoom_K=np.array([1.0, 0.5])), 8, 8)
    assert zoomed[1, 2:6, 2:6].min() > 0.99 and zoomed[1].sum() < 25


@pytest.mark.parametrize("name", MOTIONS)
def test_motions_have_their_amplitude_and_no_jump(name):
    for seed in range(5):
        way = path(name, 2.0, seed=seed)
        far = np.hypot(way.x_K, way.y_K)
        if name in ("saccades", "drift", "circle"):
            assert far.max() == pytest.approx(2.0, abs=0.01)
        else:
            assert far.max() == 0
        # How far a point goes that is 10 pixels from the middle, along its circle or away from it.
        travelled = np.hypot(np.diff(way.x_K), np.diff(way.y_K)) + 10 * np.abs(np.diff(way.angle_K))
        travelled = travelled + 10 * np.abs(np.diff(np.log(way.zoom_K)))
        assert travelled.max() < 0.5
        assert travelled.sum() > 1.9


def test_motion_makes_events_where_edges_are():
    picture = torch.zeros(20, 20)
    picture[:, 10:] = 1
    way = path("drift", 3.0)._replace(y_K=np.zeros(50), x_K=np.linspace(-3, 3, 50))
    events = film(moved(picture, way, 20, 20), IDEAL)
    inside = (events.x_N > 3) & (events.x_N < 16)  # the border of the picture is an edge as well
    assert not events.p_N[inside].any()  # the bright half moves away to the right
    assert events.x_N[inside].min() >= 6 and events.x_N[inside].max() <= 13
