"""Whether delays are learnt: minutes, not seconds."""

from __future__ import annotations

import numpy as np
import pytest

from neuromix.training.api import train
from tests.data.audio.sounds import tone, write_wav


@pytest.mark.slow
def test_sounds_in_folders_are_learnt_by_the_one_line(tmp_path):
    # Ten notes that rise or fall: chance is a tenth.
    for name in range(10):
        for number in range(20):
            first, second = 300 * 1.25 ** (name // 2), 300 * 1.25 ** (name // 2 + 2)
            notes = (first, second) if name % 2 else (second, first)
            sound = [tone(note * (1 + 0.002 * number), 0.08 + 0.002 * number) for note in notes]
            write_wav(tmp_path / "data" / f"{name}" / f"{number}.wav", np.concatenate(sound))
    found = train(
        "dcls_nano",
        "audio",
        tmp_path / "run",
        task_config={"data": str(tmp_path / "data"), "representation": ["cochlea", {"bands": 24}]},
        model_config={"hidden": (32,), "max_delay": 15},
        epochs=12,
        batch_size=16,
    )
    assert found.test["accuracy"] > 0.7
