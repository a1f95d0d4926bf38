"""Lets `python -m codebank` be the same as the command `codebank`."""

from codebank.cli import main

if __name__ == "__main__":
    main()
