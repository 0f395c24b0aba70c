from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import DataError
from neuromix.data.audio import Sound, read_wav
from tests.data.audio.sounds import RATE, tone, write_wav


@pytest.mark.parametrize(
    ("bits", "floats", "exact"),
    [
        (8, False, 1e-2),
        (16, False, 1e-4),
        (24, False, 1e-6),
        (32, False, 1e-6),
        (32, True, 1e-7),
        (64, True, 1e-7),
    ],
)
def test_every_sample_width_gives_the_same_sound(tmp_path, bits, floats, exact):
    samples = tone(440)
    sound = read_wav(write_wav(tmp_path / "a.wav", samples, bits=bits, floats=floats))
    assert sound.rate == RATE and sound.samples.dtype == np.float32
    np.testing.assert_allclose(sound.samples, samples, atol=exact)


def test_channels_become_their_mean(tmp_path):
    left, right = tone(440), tone(880)
    sound = read_wav(write_wav(tmp_path / "a.wav", np.stack([left, right], 1)))
    np.testing.assert_allclose(sound.samples, (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
def test_another_rate_keeps_the_note(rate):
    sound = Sound(tone(440, 0.5).astype(np.float32), RATE).at_rate(rate)
    assert sound.rate == rate and sound.seconds == pytest.approx(0.5, abs=1e-3)
    loudest = np.abs(np.fft.rfft(sound.samples)).argmax() * rate / len(sound.samples)
    assert loudest == pytest.approx(440, abs=3)


def test_what_is_above_half_the_rate_is_gone_and_does_not_come_back_lower():
    assert (
        np.abs(Sound(tone(3500, 0.5).astype(np.float32), RATE).at_rate(4000).samples[100:-100]).max() < 0.01
    )


def test_silence_is_read(tmp_path):
    assert not read_wav(write_wav(tmp_path / "a.wav", np.zeros(100))).samples.any()


def bad_files(whole: bytes):
    return {
        "empty": (b"", "empty file"),
        "cut off": (whole[:-20], "cut off"),
        "header only": (whole[:44], "cut off"),
        "half a header": (whole[:30], "no WAV file"),
        "an mp3": (b"ID3" + bytes(60), "no WAV file"),
        "compressed": (whole[:20] + b"\x07\x00" + whole[22:], "no WAV file"),
        "no rate": (whole[:24] + bytes(8) + whole[32:], "samples a second"),
    }


@pytest.mark.parametrize("name", bad_files(b"x" * 60))
def test_a_bad_file_is_told_in_one_line(tmp_path, name):
    whole = write_wav(tmp_path / "a.wav", tone(440)).read_bytes()
    data, message = bad_files(whole)[name]
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match=message) as told:
        read_wav(tmp_path / "a.wav")
    assert "\n" not in str(told.value) and "a.wav" in str(told.value)


def test_no_samples_and_no_file_and_no_numbers(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        read_wav(write_wav(tmp_path / "a.wav", np.zeros(0)))
    with pytest.raises(DataError, match="cannot read"):
        read_wav(tmp_path / "b.wav")
    with pytest.raises(DataError, match="not finite"):
        read_wav(write_wav(tmp_path / "c.wav", np.array([0.0, np.nan]), bits=32, floats=True))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_brings_another_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    whole = bytearray(write_wav(path, tone(440, 0.01)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 43))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        sound = read_wav(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert sound.samples.ndim == 1 and np.isfinite(sound.samples).all()
