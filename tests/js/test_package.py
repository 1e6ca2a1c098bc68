"""The npm package: what is in it, and that its types and its page say what the module has."""

import json
import re
import shutil
import subprocess

import pytest

import runstore
from tests.docs.test_examples import ROOT, blocks
from tests.js.node import MODULE, node, script
from tests.sdk.live import Live

PACKAGE = ROOT / "clients" / "js"
SAID = re.compile(r"^  (?:get |async |\*|async \*)*(\w+)\(", re.MULTILINE)


def methods(text: str) -> set[str]:
    body = re.search(r"^export class Client .*?^}", text, re.DOTALL | re.MULTILINE)
    assert body
    return set(SAID.findall(body[0])) - {"constructor", "super", "if", "for", "while", "return", "catch", "switch"}


def test_it_has_the_version_of_the_store() -> None:
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == runstore.__version__


def test_the_types_name_what_the_module_has() -> None:
    module, types = MODULE.read_text(), MODULE.with_suffix(".d.ts").read_text()
    exported = re.compile(r"^export (?:async )?(?:class|function) (\w+)", re.MULTILINE)

    assert set(exported.findall(module)) == set(exported.findall(types)) == {"Client", "RunstoreError", "isTerminal"}
    assert methods(module) - {"link"} == methods(types)
    options = set(
        re.findall(
            r"^  (\w+): ", re.search(r"const DEFAULTS = {.*?^};", module, re.DOTALL | re.MULTILINE)[0], re.MULTILINE
        )
    )  # type: ignore[index]
    declared = set(
        re.findall(
            r"^  (\w+)\?:", re.search(r"interface Options {.*?^}", types, re.DOTALL | re.MULTILINE)[0], re.MULTILINE
        )
    )  # type: ignore[index]
    assert declared == options | {"token", "WebSocket"}


def test_the_page_names_every_call() -> None:
    page = (PACKAGE / "README.md").read_text()

    for name in methods(MODULE.read_text()) - {"get", "link"}:
        assert f"`{name}(" in page


def test_npm_packs_the_module_with_its_types_page_and_licence() -> None:
    node()
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: install it to see what is packed")

    packed = subprocess.run(
        [npm, "pack", "--dry-run", "--json", "--offline"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert packed.returncode == 0, packed.stderr
    (told,) = json.loads(packed.stdout[packed.stdout.index("[") :])
    sizes = {file["path"]: file["size"] for file in told["files"]}
    assert set(sizes) == {"LICENSE", "README.md", "package.json", "runstore.d.ts", "runstore.js"}
    assert sizes["runstore.js"] == MODULE.stat().st_size
    assert not (PACKAGE / "runstore.js").exists()


async def test_the_example_of_the_page_runs(running: Live) -> None:
    (example,) = blocks("clients/js/README.md", "js")
    text = (
        example.partition("const asked")[2]
        .replace("await client.run(", "await ran(")
        .replace("{ timeoutS: 60 }", "{ timeoutS: 30 }")
    )
    head = "const ran = async (...given) => client.cancel((await client.run(...given)).run_id);\nconst asked"
    text = text.replace("run.output.outputs", "run.output")

    async with script(head + text.replace("console.log", "say"), running.url, running.token) as process:
        assert await process.rest() == ["cancelled", "cancelled"]
