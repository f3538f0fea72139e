"""``python -m loragraft``, the same as the command ``loragraft``."""

from loragraft.cli import main

if __name__ == "__main__":
    main()
