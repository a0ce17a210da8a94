"""For tests that need a GPU: CuPy with one, or a skip with the reason."""

import pytest

from tinyunet import backend
from tinyunet.errors import BackendError


@pytest.fixture(scope="session", autouse=True)
def cupy():
    """CuPy with a GPU."""
    try:
        return backend.cupy()
    except BackendError as error:
        pytest.skip(str(error))
