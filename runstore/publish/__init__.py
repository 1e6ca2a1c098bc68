"""Publishing: tell the store what becomes of runs, event by event or around the work."""

from runstore.publish.asynchronous import AsyncPublisher, PublishedEvent
from runstore.publish.blocking import Publisher
from runstore.publish.config import PublisherConfig
from runstore.publish.track import current_run
from runstore.publish.tracked import TrackedRun

__all__ = ["AsyncPublisher", "PublishedEvent", "Publisher", "PublisherConfig", "TrackedRun", "current_run"]
