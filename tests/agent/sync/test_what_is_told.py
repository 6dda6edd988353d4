"""What the upload tells people and the link, and in which order it tries its lanes."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.agents import Telling
from support.disks import TroubledDisk
from support.tills import TestTill
from tillstream_agent.clock import CorrectedClock
from tillstream_agent.journal import Journal, Slice
from tillstream_agent.letters import Letters
from tillstream_agent.sync.answers import Failure
from tillstream_agent.sync.flow import Rest, Send, UploadFlow
from tillstream_agent.sync.link import Link
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import BatchReply, Pace, Range

LIMITS = msgspec.structs.replace(DEFAULT, sync_interval=0.0, batch=4096) if False else DEFAULT
