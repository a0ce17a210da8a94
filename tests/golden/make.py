"""Store what PyTorch makes of the parity cases, so that they can be checked where it is not installed.

    python tests/golden/make.py

Writes parity.npz beside this file: outputs and gradients of every op, of three small networks and of ten training steps, in
float64. Inputs are not stored: they come from a formula, see tests/parity/parity_cases.py. Run it again only when a case is added
or changed.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "parity"))

import parity_cases  # noqa: E402
import parity_oracle  # noqa: E402

if __name__ == "__main__":
    stored = {name: parity_cases.flat(parity_oracle.theirs(case, "float64")) for name, case in parity_cases.STORED.items()}
    np.savez_compressed(HERE / "parity.npz", **stored)
