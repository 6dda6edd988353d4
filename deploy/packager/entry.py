"""What the packaged agent starts with.

The start sets LD_LIBRARY_PATH to the package's own libraries, which are loaded by then. Programs that the agent starts,
such as a browser, are to find the system's, so what was there before is put back.
"""

import os
import sys

from tillstream_agent.cli import main

_BEFORE = "LD_LIBRARY_PATH_ORIG"

if _BEFORE in os.environ:
    os.environ["LD_LIBRARY_PATH"] = os.environ.pop(_BEFORE)
else:
    os.environ.pop("LD_LIBRARY_PATH", None)
sys.exit(main())
