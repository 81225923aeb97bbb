"""`python -m pgqueue` is the command `pgqueue`."""

from pgqueue.cli import main

main()
