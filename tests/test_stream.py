from __future__ import annotations

import pytest

from swupd import stream
from swupd.errors import InvalidOption


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("10", 10), ("010", 10), ("2147483647", 2**31 - 1)])
def test_versions_are_decimal_numbers(text: str, number: int) -> None:
    assert stream.version(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "+1", " 1", "1 ", "1\n", "1e3", "0x10", "1.0", "1_0", "²", "１０", "٣", "2147483648", "9" * 5000],
)
def test_anything_else_is_no_version(text: str) -> None:
    with pytest.raises(InvalidOption):
        stream.version(text)


@pytest.mark.parametrize("name", ["os-core", "c++", "a", "R-basic", "_x", "python3.11", "a@b", "x" * 200])
def test_names_that_are_safe_in_files_and_urls_can_name_a_bundle(name: str) -> None:
    assert stream.is_bundle_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a/b",
        "../x",
        "a b",
        "a\n",
        "a\x00",
        "a%2e",
        "ü",
        "a?b",
        "a:b",
        "x" * 201,
        *sorted(stream.RESERVED_BUNDLES),
    ],
)
def test_other_names_cannot(name: str) -> None:
    assert not stream.is_bundle_name(name)


def test_digests_are_64_lower_case_hex_digits() -> None:
    assert stream.is_digest("0123456789abcdef" * 4)
    for wrong in (
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        " " + "a" * 63,
        "0x" + "a" * 62,
        "a" * 64 + "\n",
        "٣" * 64,
    ):
        assert not stream.is_digest(wrong)


def test_names_of_the_things_in_a_stream() -> None:
    assert stream.latest(30) == "version/format30/latest"
    assert stream.latest("staging") == "version/formatstaging/latest"
    assert stream.signature(stream.manifest(20, "MoM")) == "20/Manifest.MoM.sig"
    assert stream.manifest_tar(20, "os-core") == "20/Manifest.os-core.tar"
    assert stream.manifest_delta(20, "os-core", 10) == "20/Manifest-os-core-delta-from-10"
    assert stream.fullfile(20, "a" * 64) == f"20/files/{'a' * 64}.tar"
    assert stream.pack("os-core", 20, 0) == "20/pack-os-core-from-0.tar"
    assert stream.format_file(20) == "20/format"
