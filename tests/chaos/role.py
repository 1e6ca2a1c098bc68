"""A runstore command in a process of its own, sound or with a defect put in: `python -m tests.chaos.role NAME words…`.

NAME is `sound` or one of `tests/chaos/mutations.py`. The product knows nothing of this.
"""

import sys

from runstore.cli import main
from tests.chaos.mutations import MUTATIONS

if __name__ == "__main__":
    if sys.argv[1] != "sound":
        MUTATIONS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
