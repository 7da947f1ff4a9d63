"""`python -m edge_runtime` is the `edge` command."""

from .cli.app import main

if __name__ == "__main__":
    main()
