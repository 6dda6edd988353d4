"""Grafana's dashboards, as code. `python -m observability.dashboards` writes them as JSON into a folder.

panels      what a panel shows, in our own words
fleet sync till sales server      one dashboard each: nothing but panels and their queries
draw        the one module that knows Grafana's SDK
"""

from __future__ import annotations

from typing import Final

from .fleet import FLEET
from .panels import Dashboard
from .sales import SALES
from .server import INTERNALS
from .sync import SYNC
from .till import TILL

ALL: Final[tuple[Dashboard, ...]] = (FLEET, SYNC, TILL, SALES, INTERNALS)
