"""One clone for all of these tests: what its stages read is made once."""

from collections.abc import Iterator

import pytest

from tests.reliability.bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("bench")).alone() as bench:
        yield bench
