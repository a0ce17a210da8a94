"""Planted bugs: small changes that make a part of tinyunet wrong, for lessons, and for checks that nobody has seen fail.

    from tinyunet.bugs import BUGS, diff, plant

    print(diff("kernel_flipped"))
    with plant("kernel_flipped"):
        ...                         # everything runs, and the kernel is applied upside down

Some were shipped by other projects; `Bug.shipped` has the threads. The catalogue of properties (`tinyunet.catalogue`)
must see every one of them, and a test holds it to that. docs/kill_matrix.md shows which kind of check sees which bug.
"""

from tinyunet.bugs import convolution, data, layers, metrics, network, training  # noqa: F401  they fill BUGS
from tinyunet.bugs.core import BUGS, Bug, Edit, diff, plant

__all__ = ["BUGS", "Bug", "Edit", "diff", "plant"]
