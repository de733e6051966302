"""``python -m crispseg``: the command line, where its script is not on the path."""

from crispseg.cli.main import main

if __name__ == "__main__":
    main()
