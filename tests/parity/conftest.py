"""Makes the cases and the oracle importable here, as `benchmarks/parity.py` and `tests/golden/make.py` do for themselves."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def oracle():
    """What PyTorch makes of the cases; skips where PyTorch is not installed."""
    pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed: pip install 'tinyunet[parity]'")
    import parity_oracle

    return parity_oracle
