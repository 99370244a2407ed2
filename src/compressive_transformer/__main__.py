"""``python -m compressive_transformer`` is the command ``compressive``."""

import os
import sys

from compressive_transformer.cli import main

if __name__ == "__main__":
    main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # All is written. Threads of torch's process groups at times abort a process that takes itself apart
        # while another still works, and torchrun would take that for a failed run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
