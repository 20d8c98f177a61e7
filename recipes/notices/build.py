"""Writes THIRD_PARTY_NOTICES: what the wheel contains that others wrote, and on which terms.

Crates are those that cargo links into the core, on any platform that wheels are made for. Where the Apache License 2.0
is among a crate's licences it is the one taken, whose text is our LICENSE; of others the texts are those that the crate
has. What is inside the sandbox is guest.txt, gathered by hand.

Usage: python3 recipes/notices/build.py [--check]. With --check nothing is written, and the exit status is 1 where the
file is not what it should be. It reads cargo's copies of the crates, and fetches those that are missing.
"""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTICES = ROOT / "THIRD_PARTY_NOTICES"
GUEST = Path(__file__).with_name("guest.txt")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-apple-darwin", "aarch64-apple-darwin")
TEXTS = re.compile(r"(?i)(un)?licen[sc]e|copying|copyright|notice")
BROUGHT_ALONG = {"zstd-sys": "zstd/LICENSE"}
"""Licences of C sources that a crate compiles."""
SIBLINGS = {"tantivy": "tantivy", "ownedbytes": "tantivy"} | dict.fromkeys(
    ("wasmtime", "cranelift", "pulley"), "wasmtime"
)
"""For crates without a text, by how their names begin: the crate of the same repository that has it."""

HEAD = """\
agentdistill contains software by others: first what is linked into its compiled core, then what is in the sandbox.


The Rust standard library and {n} crates are on the terms of the Apache License 2.0, whose text is in LICENSE:

{names}"""

RULE = "=" * 110

Crate = dict[str, Any]
"""A package, as `cargo metadata` describes it."""


def main() -> None:
    notices = "\n\n\n".join([*crates_part(linked_crates()), RULE, GUEST.read_text(encoding="utf-8")])
    for pin in guest_pins():
        if pin not in notices:
            sys.exit(f"{GUEST} does not know {pin}: look through its licences, and write there what has changed")
    if "--check" not in sys.argv:
        NOTICES.write_text(notices, encoding="utf-8")
    elif not NOTICES.is_file() or NOTICES.read_text(encoding="utf-8") != notices:
        sys.exit(f"{NOTICES} is out of date: run `python3 recipes/notices/build.py`, and look at what has changed")


def linked_crates() -> list[Crate]:
    """Sorted by name."""
    targets = [f"--target={platform}" for platform in PLATFORMS]
    tree = cargo("tree", "--features=python", "--edges=normal,no-proc-macro", "--prefix=none", *targets)
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    crates: list[Crate] = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    others = [crate for crate in crates if crate["source"] and (crate["name"], f"v{crate['version']}") in linked]
    return sorted(others, key=lambda crate: (crate["name"], crate["version"]))


def cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def crates_part(crates: list[Crate]) -> list[str]:
    """Those that LICENSE covers, then the others, and what notices there are; crates of one text together."""
    apache = [crate for crate in crates if has_apache(crate)]
    by_text: dict[str, list[Crate]] = {}
    for crate in crates:
        texts = texts_of(crate, "NOTICE") if crate in apache else texts_of(crate) or texts_of_sibling(crate, crates)
        if texts:
            by_text.setdefault("\n\n".join(texts), []).append(crate)
    said = [f"{names_of(those)} ({those[0]['license']})\n\n{text}" for text, those in by_text.items()]
    return [HEAD.format(n=len(apache), names=names_of(apache)), *(f"{RULE}\n{one}" for one in said)]


def has_apache(crate: Crate) -> bool:
    """Whether it may be had on the terms of that licence alone."""
    return " AND " not in crate["license"] and "Apache-2.0" in re.split(r" OR | ?/ ?", crate["license"])


def texts_of(crate: Crate, kind: str = "") -> list[str]:
    """What the crate says of its terms, of files whose names begin so."""
    folder = Path(crate["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if TEXTS.match(path.name) and path.name.startswith(kind))
    if brought := BROUGHT_ALONG.get(crate["name"]):
        files.append(folder / brought)
    texts = ("\n".join(map(str.rstrip, path.read_text(encoding="utf-8").splitlines())).strip("\n") for path in files)
    return list(dict.fromkeys(texts))


def texts_of_sibling(crate: Crate, crates: list[Crate]) -> list[str]:
    """What another crate of its repository says."""
    sibling = SIBLINGS.get(crate["name"].partition("-")[0])
    for other in crates:
        if other["name"] == sibling and other["license"] == crate["license"]:
            return texts_of(other)
    sys.exit(f"there is no licence text for {name_of(crate)} ({crate['license']}): say in SIBLINGS where there is one")


def names_of(crates: list[Crate]) -> str:
    return textwrap.fill(", ".join(map(name_of, crates)), 110, break_on_hyphens=False)


def name_of(crate: Crate) -> str:
    return f"{crate['name']} {crate['version']}"


def guest_pins() -> list[str]:
    """Name and version of each package that goes into the guest, as the recipes have them."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    numpy = (ROOT / "recipes/numpy/build.py").read_text(encoding="utf-8")
    pins = re.findall(r'"(componentize-py|sympy|mpmath|tzdata)==([\w.]+)"', pyproject)
    return [" ".join(pin) for pin in [*pins, *re.findall(r"(numpy)-([\d.]+)\.tar", numpy)]]


if __name__ == "__main__":
    main()
