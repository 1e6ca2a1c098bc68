"""The feed as a gateway sees it: one tail of all partitions, and those who listen to runs and projects."""

from runstore.feed.body import Bodies, Body
from runstore.feed.config import TailConfig
from runstore.feed.hub import Hub, Listener, Push, Rollback
from runstore.feed.looked import Looked
from runstore.feed.safe import SafeRuns
from runstore.feed.tail import FeedTail

__all__ = ["Bodies", "Body", "FeedTail", "Hub", "Listener", "Looked", "Push", "Rollback", "SafeRuns", "TailConfig"]
