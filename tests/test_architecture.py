"""Who may import whom, and who may touch the world: read from the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lib/swupd"
MODULES = {
    "swupd." + str(f.relative_to(PACKAGE).with_suffix("")).replace("/", "."): f for f in sorted(PACKAGE.rglob("*.py"))
}
CORE = {
    "swupd.errors": set(),
    "swupd.program": set(),
    "swupd.paths": set(),
    "swupd.stream": {"errors"},
    "swupd.values": set(),
    "swupd.manifest": {"errors", "paths", "values"},
    "swupd.tree": {"errors", "paths", "values"},
    "swupd.hashing": {"paths", "tree"},
    "swupd.runs": set(),
    "swupd.delta": {"errors"},
    "swupd.patches": {"errors", "stream", "delta", "runs"},
    "swupd.payloads": {"errors", "stream"},
    "swupd.folding": {"errors", "stream", "payloads"},
    "swupd.archive": {"errors", "paths", "stream", "tree"},
    "swupd.publickey": set(),
    "swupd.crypto": {"errors", "publickey"},
    "swupd.signatures": {"errors", "publickey"},
    "swupd.jsontext": {"errors"},
    "swupd.envelope": {"errors", "stream", "publickey"},
    "swupd.roots": {"errors", "stream", "publickey", "crypto", "jsontext", "envelope", "manifest"},
    "swupd.heads": {"errors", "stream", "jsontext", "envelope", "lengths"},
    "swupd.lengths": {"errors", "stream"},
}
PURE = (
    "swupd.publickey",
    "swupd.crypto",
    "swupd.jsontext",
    "swupd.envelope",
    "swupd.roots",
    "swupd.heads",
    "swupd.lengths",
    "swupd.manifest",
    "swupd.values",
    "swupd.stream",
    "swupd.paths",
    "swupd.delta",
    "swupd.runs",
    "swupd.agent.journal",
    "swupd.agent.address",
    "swupd.agent.trust",
    "swupd.agent.plan",
    "swupd.server.blocks",
    "swupd.server.bundles",
    "swupd.server.changes",
    "swupd.server.comparison",
    "swupd.server.deltas",
    "swupd.server.diagonals",
    "swupd.server.folds",
    "swupd.server.matching",
    "swupd.server.windows",
    "swupd.server.xz",
)
WRITERS = {
    f"swupd.agent.{name}"
    for name in ("ahead", "folders", "helper", "moves", "objects", "preparation", "shadow", "staging", "transaction")
}
CHANGES = tuple(
    f"os.{name}"
    for name in (
        "chmod", "chown", "fchmod", "fchown", "link", "mkdir", "removexattr", "rename", "replace", "rmdir", "setxattr",
        "symlink", "truncate", "unlink", "utime", "write",
    )
)  # fmt: skip
TOUCHES_THE_WORLD = {"os", "io", "pathlib", "subprocess", "shutil", "tempfile", "socket", "time", "fcntl", "random"}
NETWORK = {"requests", "socket", "urllib3", "http", "urllib.request", "ssl"}
CONNECTED = {
    "swupd.agent.connection": {"socket", "http", "ssl"},
    "swupd.agent.proxies": {"urllib.request"},
    "swupd.agent.checker": {"socket"},
    "swupd.agent.confinement": {"socket"},
    "swupd.agent.unpacker": {"socket"},
    "swupd.agent.unpacking": {"socket"},
    "swupd.server.history": {"requests"},
}
THIRD_PARTY = {
    "asn1crypto",
    "backports",
    "bsdiff4",
    "compression",
    "cryptography",
    "distributed",
    "elftools",
    "hdiffpatch",
    "lz4",
    "requests",
}


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a module imports, at whatever depth."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def own(file: Path) -> set[str]:
    """The modules of this package that a module imports."""
    return {name for name in imports(file) if name in MODULES}


def under(name: str, tops: set[str]) -> bool:
    return any(name == top or name.startswith(top + ".") for top in tops)


def calls(file: Path, *names: str) -> set[str]:
    return {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    }


@pytest.mark.parametrize("module", MODULES)
def test_server_and_agent_do_not_know_each_other(module: str) -> None:
    other = {"swupd.server": "swupd.agent", "swupd.agent": "swupd.server"}.get(".".join(module.split(".")[:2]))
    assert not [name for name in own(MODULES[module]) if other and name.startswith(other)]


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_only_what_is_below_it(module: str) -> None:
    assert own(MODULES[module]) <= {f"swupd.{name}" for name in CORE[module]}


def test_every_module_of_the_core_has_its_place() -> None:
    assert {f"swupd.{f.stem}" for f in PACKAGE.glob("*.py")} - {"swupd.__init__"} == set(CORE)


def test_imports_go_in_no_circle() -> None:
    left = {name: own(file) - {name} for name, file in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize("module", MODULES)
def test_nothing_needs_bitbake(module: str) -> None:
    assert not [name for name in imports(MODULES[module]) if under(name, {"bb", "oe", "oeqa"})]


@pytest.mark.parametrize("module", MODULES)
def test_only_named_libraries_are_used(module: str) -> None:
    tops = {name.split(".")[0] for name in imports(MODULES[module])}
    assert tops <= {"swupd", *THIRD_PARTY, *sys.stdlib_module_names}


@pytest.mark.parametrize("module", MODULES)
def test_only_a_few_modules_open_connections(module: str) -> None:
    used = {top for name in imports(MODULES[module]) for top in NETWORK if under(name, {top})}
    assert used == CONNECTED.get(module, set())
    if module in {"swupd.agent.unpacker", "swupd.agent.unpacking"}:
        # A pair of sockets to its own child.
        assert not calls(MODULES[module], "socket.create_connection", "socket.create_server")


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"swupd.agent.connection"}))
def test_only_source_asks_servers_and_only_by_transfer(module: str) -> None:
    asked = own(MODULES[module]) & {"swupd.agent.connection", "swupd.agent.transfer"}
    assert not asked or module in {"swupd.agent.source", "swupd.agent.transfer"}


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_input_and_output(module: str) -> None:
    assert not [name for name in imports(MODULES[module]) if under(name, TOUCHES_THE_WORLD)]
    assert not calls(MODULES[module], "open", "print", "input")


@pytest.mark.parametrize("module", sorted(m for m in MODULES.keys() - WRITERS if m.startswith("swupd.agent.")))
def test_only_a_few_rooms_of_the_agent_change_names_and_metadata(module: str) -> None:
    assert not calls(MODULES[module], *CHANGES)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"swupd.agent.cli", "swupd.server.cli"}))
def test_only_the_commands_print_and_exit(module: str) -> None:
    assert not calls(MODULES[module], "print", "input", "sys.exit", "exit")
    # A forked child has no other end; the commands have theirs from program.
    ending = {"swupd.agent.aside", "swupd.agent.confinement", "swupd.agent.start", "swupd.program"}
    assert module in ending or not calls(MODULES[module], "os._exit", "program.leave")


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_unpacked_by_tarfile_itself(module: str) -> None:
    found = [
        node.func.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert not {"extractall", "extract", "unpack_archive"} & set(found)


@pytest.mark.parametrize("module", MODULES)
def test_input_is_never_checked_by_assert_and_no_except_is_bare(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        assert not isinstance(node, ast.Assert)
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
