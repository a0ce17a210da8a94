"""`python -m tinyunet` is the command `tinyunet`."""

from tinyunet.cli import main

main()
