"""One clone for all of these tests: what its stages read is made once."""

import pytest

from tests.reliability.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))
