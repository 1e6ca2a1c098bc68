"""The execution worker: checks a commit out, runs its command, and leaves no process behind.

hide_from_models()                                   # first of all, in a process of its own
worker = Worker(redis_url, WorkerConfig(projects=read_projects(Path("runstore.toml"))))
await worker.start()
"""

from runstore_worker.config import ConfigError, Project, WorkerConfig, read_projects
from runstore_worker.environment import hide_from_models
from runstore_worker.worker import Worker

__all__ = ["ConfigError", "Project", "Worker", "WorkerConfig", "hide_from_models", "read_projects"]
