"""The execution worker: checks a commit out, runs its command, and leaves no process behind."""
