"""The course: what its notebooks import, and what makes its editions.

    from tinyunet.course import begin, check, predicted, show

`notebooks/NN_name.py` is the one source of a lesson; `tinyunet.course.editions` makes everything else from it.
"""

from tinyunet.course.exercise import NotYetError, check, predicted
from tinyunet.course.picture import show
from tinyunet.course.student import begin

__all__ = ["NotYetError", "begin", "check", "predicted", "show"]
