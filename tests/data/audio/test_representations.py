from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core import registry
from neuromix.core.errors import ConfigError
from neuromix.data.audio import Sound, binned, cochlea, log_mel
from neuromix.data.audio.cochlea import centres, gammatones
from neuromix.data.events.value import Events
from tests.data.audio.sounds import RATE, tone


def sound(samples, rate=RATE):
    return Sound(np.asarray(samples, np.float32), rate)


def spikes(t, channels, width=10):
    return Events(t, channels, np.zeros(len(t), int), np.ones(len(t), bool), 1, width)


def test_filters_have_gain_one_at_their_centre_and_less_an_octave_off():
    where = centres(20, 100, 3600)
    t = np.arange(1, gammatones(20, RATE, 100.0).shape[1] + 1) / RATE
    for response, centre in zip(gammatones(20, RATE, 100.0), where, strict=True):
        gain = abs(response @ np.exp(-2j * np.pi * centre * t))
        assert gain == pytest.approx(1)
        assert abs(response @ np.exp(-2j * np.pi * centre / 2 * t)) < 0.5


@pytest.mark.parametrize("hertz", [200, 700, 2000])
def test_a_note_is_heard_where_its_filter_is(hertz):
    heard = cochlea(sound(tone(hertz, 0.3)))
    loudest = np.bincount(heard.x_N, minlength=70).argmax()
    where = centres(70, 100.0, 0.45 * RATE)
    assert abs(loudest - np.abs(where - hertz).argmin()) <= 3


def test_the_ear_is_deterministic_and_does_not_mind_how_loud():
    noise = np.random.default_rng(0).normal(size=2000) * 0.1
    once, again, softer = cochlea(sound(noise)), cochlea(sound(noise)), cochlea(sound(noise / 4))
    for one, other in zip(once[:2], again[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert softer.size == pytest.approx(once.size, rel=0.01)


def test_a_spike_costs_the_threshold():
    # Without a leak, what a channel sends is its current summed up over the threshold, to one spike.
    x = np.random.default_rng(0).normal(size=4000) * 0.1
    heard = cochlea(sound(x), channels=5, tau=1e9, threshold=2.0, compression=1.0)
    x[1:] -= 0.95 * x[:-1].copy()
    currents = np.stack(
        [np.convolve(x / np.abs(x).max(), g)[:4000].clip(0) for g in gammatones(5, RATE, 100.0)]
    )
    expected = np.floor(currents.sum(1) * 1000 / RATE / 2.0)
    assert np.abs(np.bincount(heard.x_N, minlength=5) - expected).max() <= 1


@pytest.mark.parametrize("samples", [np.zeros(800), np.zeros(1), np.full(1, 0.5)])
def test_silence_and_a_single_sample(samples):
    for name in ("cochlea", "log-mel"):
        representation = registry.build("audio-representation", name)
        x_TN = representation(sound(samples))
        assert x_TN.shape[1] == representation.channels(0) and len(x_TN) >= 1
        assert x_TN.dtype == torch.float32 and x_TN.isfinite().all()
        assert samples.any() or not x_TN.any()


def test_bins_count_from_the_first_spike():
    x_TN = binned(spikes([25_000, 34_999, 35_000, 70_000], [0, 1, 2, 9]), 10.0, 5)
    assert x_TN.shape == (5, 2)
    assert x_TN.nonzero().tolist() == [[0, 0], [1, 0], [4, 1]] and x_TN[0, 0] == 2


def test_no_spikes_are_one_empty_bin():
    assert binned(spikes([], []), group=4).tolist() == [[0, 0, 0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 9)), max_size=60), st.integers(1, 12))
def test_bins_lose_nothing(events, group):
    events = sorted(events)
    x_TN = binned(spikes([t for t, _ in events], [c for _, c in events]), 7.5, group)
    expected = np.zeros(x_TN.shape)
    for t, channel in events:
        expected[int((t - events[0][0]) // 7500), channel // group] += 1
    np.testing.assert_array_equal(x_TN.numpy(), expected)


@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.333])
def test_the_cochlea_has_a_step_for_every_bin_of_the_sound(seconds):
    x_TN = registry.build("audio-representation", "cochlea")(sound(tone(440, seconds)))
    assert len(x_TN) == -(-round(seconds * 1000) // 10)


def test_log_mel_against_the_formula():
    x = np.random.default_rng(0).normal(size=1000) * 0.1
    got = log_mel(sound(x), bands=12)
    frame = np.pad(x.astype(np.float32).astype(float), 128, mode="reflect")[3 * 80 : 3 * 80 + 256]
    power = np.abs(np.fft.fft(frame * np.hanning(257)[:256])[:129]) ** 2
    hertz = np.arange(129) * RATE / 256
    corners = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([50, 4000]) / 700)), 14) / 2595) - 1)
    mel = [power @ np.interp(hertz, corners[i : i + 3], [0, 1, 0], 0, 0) for i in range(12)]
    assert got.shape == (13, 12)
    np.testing.assert_allclose(got[3], 10 * np.log10(np.maximum(mel, 1e-10)) + 100, atol=1e-6)


def test_bands_above_the_sound_are_silent():
    published = registry.build("audio-representation", ["log-mel", {"bands": 140, "highest": 14000.0}])
    x_TN = published(sound(tone(440, 2.0)[:16000]))
    assert x_TN.shape == (201, 140) and not x_TN[:, -1].any() and x_TN[:, 20:30].max() > 60


def test_a_representation_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="compression"):
        registry.build("audio-representation", ["cochlea", {"compression": 2.0}])
    with pytest.raises(ConfigError, match="lowest"):
        log_mel(sound(tone(440)), lowest=5000.0)
    with pytest.raises(ConfigError, match="lowest filter"):
        cochlea(sound(tone(440)), lowest=4000.0)
