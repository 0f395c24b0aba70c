from __future__ import annotations

import subprocess
import sys

import pytest

import neuromix
from neuromix.core import registry
from neuromix.core.errors import ConfigError, UnknownNameError


def test_variants_and_entries_are_found_by_name():
    entry, config = registry.find("model", "meta_spikeformer_31m")
    assert entry.name == "meta_spikeformer" and config.dims == (96, 192, 384, 480)
    assert registry.find("model", "meta_spikeformer")[1] == entry.config()


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean meta_spikeformer_15m"):
        neuromix.create_model("meta_spikefomer_15m")
    with pytest.raises(UnknownNameError, match="did you mean num_classes"):
        neuromix.create_model("meta_spikeformer_nano", num_class=3)
    with pytest.raises(UnknownNameError, match="did you mean lif"):
        neuromix.create_model("meta_spikeformer_nano", neuron="lyf")


def test_a_name_belongs_to_one_thing():
    class Other:
        pass

    for taken in ("lif", "if"):
        with pytest.raises(ConfigError, match="registered already"):
            registry.register("neuron", taken)(Other)


def test_models_are_listed_by_task_family_and_pattern():
    names = neuromix.list_models(task="image-classification", family="spiking")
    assert "meta_spikeformer_nano" in names and "poolformer_s12" not in names
    assert neuromix.list_models(pattern="meta_*_31m") == ["meta_spikeformer_31m"]
    assert neuromix.list_models(task="nothing") == []


def test_import_is_light():
    """`import neuromix` brings nothing that its user has not asked for, not even torch."""
    code = "import sys, neuromix; print([m for m in ('torch', 'sklearn', 'lightning_fabric') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
