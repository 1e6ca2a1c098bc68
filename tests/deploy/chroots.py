"""The steps of a Dockerfile, done in folders made from Debian's packages, where there is no engine for containers.

It knows the few instructions that ours has. A base image is a fresh Debian with Python.
"""

import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("debootstrap", "unshare", "nsenter", "chroot")


def debian(folder: Path) -> None:
    """Make a fresh Debian, or copy the one in the folder `DEBIAN_ROOT`, which is for who tries this again and again."""
    if ready := os.environ.get("DEBIAN_ROOT"):
        subprocess.run(["cp", "-a", ready, folder], check=True)
        return
    words = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv", "bookworm", str(folder), mirror()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for place in ("etc/resolv.conf", "etc/apt/sources.list", "etc/apt/sources.list.d", "etc/apt/apt.conf.d"):
        source, target = Path("/") / place, folder / place
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target)


def mirror() -> str:
    """Find where this machine has its Debian packages from."""
    for place in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/debian*"))]:
        if os.path.exists(place):
            found = re.search(r"^(?:URIs:|deb(?: \[.*\])?) +(\S+)", Path(place).read_text(), re.MULTILINE)
            if found:
                return found[1]
    return ""


class Image:
    """What one stage of a Dockerfile has made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "0:0"
        self.workdir = "/"
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.healthcheck: list[str] = []

    def run(self, line: str, extra: Mapping[str, str]) -> None:
        words = ["chroot", f"--userspec={self.user}", str(self.folder), "sh", "-ec", f"cd {self.workdir}; {line}"]
        done = subprocess.run(words, env={**self.env, **extra}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stdout[-2000:] + done.stderr[-2000:]


def build(dockerfile: Path, base: Path, room: Path, context: Path, env: Mapping[str, str]) -> dict[str, Image]:
    """Do all steps, and return what each stage has made. `env` is given to each step, and kept by none."""
    images: dict[str, Image] = {}
    image = Image(base)
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        word, rest = line.split(maxsplit=1)
        match word:
            case "FROM":
                origin, _, name = rest.split()
                before, image = images.get(origin), Image(room / name)
                subprocess.run(["cp", "-a", before.folder if before else base, image.folder], check=True)
                if before is not None:
                    image.__dict__.update(before.__dict__ | {"folder": image.folder, "env": dict(before.env)})
                images[name] = image
            case "RUN":
                image.run(rest, env)
            case "COPY":
                *flags, source, target = rest.split()
                origin_folder = images[flags[0].removeprefix("--from=")].folder if flags else context
                place = image.folder / target.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-aT", origin_folder / source.strip("/"), place], check=True)
            case "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    image.env[key] = value.replace("$PATH", image.env["PATH"])
            case "WORKDIR":
                image.workdir = rest
                (image.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = rest
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.healthcheck = json.loads(rest.partition("CMD ")[2])
            case _:
                raise AssertionError(f"an instruction that is not known here: {line}")
    return images


_BEGIN = """
mount --bind "$0" "$0"
mount -o remount,bind,ro,nosuid "$0"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
mount -t tmpfs -o mode=0750,uid=10001,gid=10001 tmpfs "$0/data"
mount -t proc proc "$0/proc"
user=$1 workdir=$2
shift 2
cd "$0$workdir"
exec chroot --userspec="$user" --groups= "$0" sh -ec 'cd "$0"; exec "$@"' "$workdir" "$@"
"""


class Container:
    """A command in an image whose root it cannot write."""

    def __init__(self, image: Image, process: "subprocess.Popen[bytes]") -> None:
        self.image = image
        self.process = process

    @property
    def pid(self) -> int:
        """The process with the number 1, as it is seen from outside."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def exec(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as its user."""
        number = self.image.user.split(":")[0]
        begin = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd", "setpriv"]
        begin += [f"--reuid={number}", f"--regid={number}", "--clear-groups", "--"]
        return subprocess.run(
            [*begin, *words], env=self.image.env, capture_output=True, text=True, check=False, timeout=60
        )


@contextmanager
def running(image: Image, *command: str, env: Mapping[str, str]) -> Iterator[Container]:
    """Hold a command of an image, in name spaces of its own, as the image's user; the network is this machine's."""
    words = [*image.entrypoint, *(command or image.command)]
    begin = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", _BEGIN, str(image.folder)]
    process = subprocess.Popen(
        [*begin, image.user, image.workdir, *words],
        env={**image.env, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr.fileno(),
    )
    try:
        yield Container(image, process)
    finally:
        process.kill()
        process.wait()
