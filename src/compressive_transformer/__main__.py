"""``python -m compressive_transformer`` is the command ``compressive``."""

from compressive_transformer.cli import main

if __name__ == "__main__":
    main()
