from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swupd import paths


@pytest.mark.parametrize(
    "path",
    [
        "/usr",
        "/usr/bin/a b",
        "/ünï",
        "/a\udcff",
        "/..a",
        "/a..",
        "/...",
        "/" + "a" * 255 + "/b" * 1900,
        "/" + "ü" * 127,
    ],
)
def test_ordinary_paths_are_allowed(path: str) -> None:
    assert paths.problem(path) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "begin"),
        ("usr/bin", "begin"),
        ("../usr", "begin"),
        ("/", "empty part"),
        ("//usr", "empty part"),
        ("/usr//bin", "empty part"),
        ("/usr/", "empty part"),
        ("/usr/../etc", "empty part"),
        ("/..", "empty part"),
        ("/./usr", "empty part"),
        ("/usr/.", "empty part"),
        ("/a\0b", "control"),
        ("/a\nb", "control"),
        ("/a\tb", "control"),
        ("/" + "a" * 4096, "longer"),
        ("/" + "ü" * 2048, "longer"),
        ("/usr/" + "a" * 256, "longer than 255"),
        ("/" + "ü" * 128 + "/a", "longer than 255"),
    ],
)
def test_paths_that_could_lead_astray_are_refused(path: str, why: str) -> None:
    assert why in (paths.problem(path) or "")


@given(st.binary())
def test_any_bytes_survive_decoding_and_encoding(raw: bytes) -> None:
    assert paths.encode(paths.decode(raw)) == raw


def test_parents_come_outermost_first_and_without_the_root() -> None:
    assert list(paths.parents("/usr/lib/x")) == ["/usr", "/usr/lib"]
    assert list(paths.parents("/usr")) == []


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/var", False),
        ("/var/lib/x", True),
        ("/variable/x", False),
        ("/home/me", True),
        ("/root/.profile", True),
        ("/data", True),
        ("/database", True),
        ("/lost+found", True),
        ("/usr/src", False),
        ("/usr/src/debug", False),
        ("/usr/src/debug/x", True),
        ("/usr/src/kernel", False),
        ("/usr/src/kernel/x", False),
        ("/usr/src/kernel2", True),
        ("/usr/bin/x", False),
        ("/etc/x", False),
    ],
)
def test_state_belongs_to_the_machine(path: str, state: bool) -> None:
    assert paths.is_state(path) is state


@pytest.mark.parametrize(
    ("path", "config", "boot", "ghost", "manager"),
    [
        ("/etc", False, False, False, False),
        ("/etc/passwd", True, False, False, False),
        ("/etcetera/x", False, False, False, False),
        ("/boot", False, False, False, False),
        ("/boot/vmlinuz", False, True, True, False),
        ("/boot2/vmlinuz", False, False, False, False),
        ("/usr/lib/modules/6.1/x.ko", False, True, True, False),
        ("/usr/lib/kernel/k", False, True, True, True),
        ("/usr/lib/systemd/boot/efi/x.efi", False, True, False, True),
        ("/usr/bin/bootctl", False, False, False, True),
        ("/usr/bin/bootctl2", False, False, False, False),
    ],
)
def test_classes_of_paths(path: str, config: bool, boot: bool, ghost: bool, manager: bool) -> None:
    assert paths.is_config(path) is config
    assert paths.is_boot(path) is boot
    assert paths.is_ghosted_on_removal(path) is ghost
    assert paths.wants_boot_manager(path) is manager


def test_folders_with_files_of_the_device() -> None:
    assert paths.holds_foreign_files("/var")
    assert not paths.holds_foreign_files("/var/lib")
    assert not paths.holds_foreign_files("/usr/lib")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/.swupd", False), ("/usr/.swupd/old/1", False), ("/usr/.swupd-x", True), ("/usr/x.swupd", True)],
)
def test_the_folder_that_the_agent_uses_cannot_be_shipped(path: str, allowed: bool) -> None:
    assert (paths.problem(path) is None) == allowed


@given(st.text(st.sampled_from("/.ab\0\n\t\x7fé \udcff"), max_size=12).map(lambda text: "/" + text))
def test_the_quick_look_at_a_path_lets_pass_what_the_long_one_does(path: str) -> None:
    if paths._ORDINARY.fullmatch(path):
        assert paths._problem(path) is None


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "cc"]), min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
    )
)
def test_what_is_above_paths_is_what_is_above_each(found: list[str]) -> None:
    assert paths.above(found) == {folder for path in found for folder in paths.parents(path)}
