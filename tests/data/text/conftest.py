"""The cache of tokens, apart from the user's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROMIX_CACHE", str(folder))
        yield folder
