"""Makes the fuzzer's modules importable here, as `benchmarks/fuzz.py` does for itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
