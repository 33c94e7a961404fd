from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from swupd.agent import settings
from swupd.agent.settings import Settings
from swupd.errors import SettingsError, VersionUnknown
from tests.agent.devices import agent
from tests.builders import File, Link, Spec, make_tree


def root(tmp_path: Path, files: Mapping[str, Spec]) -> Path:
    return make_tree(tmp_path / "root", files)


def config(tmp_path: Path, *texts: str | bytes) -> list[Path]:
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"config{number}")
        files[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    return files


def test_options_of_all_commands_and_of_the_one_are_read(tmp_path: Path) -> None:
    text = "a=1\n# comment\n;comment\n\n[GLOBAL]\nb=2\n[update]\nc=3\n[repair]\nd=4\n[Update]\nE_F=5\n"
    assert settings.read_config(config(tmp_path, text), "update") == {"a": "1", "b": "2", "c": "3", "e-f": "5"}
    assert settings.read_config(config(tmp_path, text), "info") == {"a": "1", "b": "2"}


def test_later_files_win_and_missing_ones_do_not_matter(tmp_path: Path) -> None:
    files = config(tmp_path, "url=one\nformat=1\n", "url=two\n")
    assert settings.read_config([*files, tmp_path / "none", files[0] / "below"], "update") == {
        "url": "two",
        "format": "1",
    }


def test_only_the_first_equals_sign_parts_key_and_value(tmp_path: Path) -> None:
    assert settings.read_config(config(tmp_path, "url=https://x/?a=b\n"), "update") == {"url": "https://x/?a=b"}


@pytest.mark.parametrize("line", ["nonsense", "=x", "key=", " ", "[update", "\0"])
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    (file,) = config(tmp_path, f"a=1\n{line}\n")
    with pytest.raises(SettingsError, match="config0, line 2"):
        settings.read_config([file], "update")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a=\x80\n"])
def test_a_file_that_is_no_text_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.read_config(config(tmp_path, data), "update")


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.read_config([tmp_path], "update")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("VERSION_ID=10\n", 10),
        ('VERSION_ID="10"\n', 10),
        ("VERSION_ID='10'\n", 10),
        ("VERSION_ID=10", 10),
        ("VERSION_ID=10 \n", 10),
        ("NAME=x\nVERSION_ID=10\nVERSION_ID=20\n", 10),
        ("MY_VERSION_ID=5\nVERSION_ID=10\n", 10),
        ("VERSION_ID=0\n", 0),
        ("VERSION_ID=2147483647\n", 2147483647),
        ("\ufeffNAME=x\nVERSION_ID=10\n", 10),
    ],
)
def test_the_version_is_read_from_os_release(tmp_path: Path, text: str, version: int) -> None:
    assert settings.current_version(root(tmp_path, {"/usr/lib/os-release": text})) == version


def test_names_in_another_charset_do_not_hide_the_version(tmp_path: Path) -> None:
    made = root(tmp_path, {"/usr/lib/os-release": b'PRETTY_NAME="\xfcber"\nVERSION_ID=10\n'})
    assert settings.current_version(made) == 10
    assert settings.os_release(made, "PRETTY_NAME") == "\udcfcber"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "VERSION_ID=\n",
        "VERSION_ID=x\n",
        "VERSION_ID=-1\n",
        "VERSION_ID=1.2\n",
        "VERSION_ID=2147483648\n",
        "VERSION_ID=１０\n",
        " VERSION_ID=10\n",
        "VERSION_ID =10\n",
        "version_id=10\n",
        "VERSION_ID=1e3\n",
        "VERSION_ID=" + "1" * 5000,
        "\x00" * 100,
    ],
)
def test_an_odd_os_release_leaves_the_version_unknown(tmp_path: Path, text: str) -> None:
    with pytest.raises(VersionUnknown, match="installed version is unknown"):
        settings.current_version(root(tmp_path, {"/usr/lib/os-release": text}))


def test_a_missing_or_odd_os_release_leaves_the_version_unknown(tmp_path: Path) -> None:
    with pytest.raises(VersionUnknown):
        settings.current_version(root(tmp_path, {}))
    (tmp_path / "root/usr/lib/os-release").mkdir(parents=True)
    with pytest.raises(VersionUnknown):
        settings.current_version(tmp_path / "root")


def test_os_release_in_etc_counts_where_the_other_is_missing(tmp_path: Path) -> None:
    made = root(tmp_path, {"/etc/os-release": "VERSION_ID=7\n"})
    assert settings.current_version(made) == 7
    make_tree(made / "usr/lib", {"/os-release": "NAME=x\n"})
    with pytest.raises(VersionUnknown):
        settings.current_version(made)


def test_bundles_are_the_plain_files_in_their_folder(tmp_path: Path) -> None:
    folder = "/usr/share/clear/bundles"
    made = root(
        tmp_path,
        {f"{folder}/a": "", f"{folder}/.hidden": "", f"{folder}/folder/x": "", f"{folder}/link": Link("a")},
    )
    assert settings.installed_bundles(made) == {"os-core", "a"}
    assert settings.installed_bundles(tmp_path / "none") == {"os-core"}


def test_the_users_aliases_mask_the_systems_and_the_first_definition_wins(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        {
            "/usr/share/defaults/swupd/alias.d/base": "a\tsystem\nb\tsystem\n",
            "/usr/share/defaults/swupd/alias.d/more": "a\tlater\nc\tx\ty\n#d\tcomment\ne\n\tnameless\nf\t\n",
            "/etc/swupd/alias.d/base": "a\tuser\n",
            "/etc/swupd/alias.d/folder/x": "z\ty\n",
        },
    )
    assert settings.aliases(made) == {"a": ("user",), "c": ("x", "y")}


def test_a_mirror_goes_before_what_the_image_ships(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        {
            "/usr/share/defaults/swupd/versionurl": "https://shipped/%s\nrest\n",
            "/usr/share/defaults/swupd/contenturl": " https://content \n",
            "/usr/share/defaults/swupd/format": "30\n",
            "/usr/share/clear/update-ca/Swupd_Root.pem": "pem",
        },
    )
    assert settings.default_url(made, "version") == "https://shipped/%s"
    assert settings.default_url(made, "content") == "https://content"
    assert settings.default_format(made) == "30"
    assert settings.default_certificate(made) == made / "usr/share/clear/update-ca/Swupd_Root.pem"
    make_tree(made / "etc", {"/swupd/mirror_versionurl": "https://mirror"})
    assert settings.default_url(made, "version") == "https://mirror"


@pytest.mark.parametrize(
    ("text", "stamp"), [("1700000000\n", 1_700_000_000), ("", 0), ("-5", 0), ("x", 0), ("9" * 30, 0), ("１", 0)]
)
def test_the_builds_time_stamp(tmp_path: Path, text: str, stamp: int) -> None:
    assert settings.versionstamp(root(tmp_path, {"/usr/share/clear/versionstamp": text})) == stamp


@pytest.mark.parametrize(
    "wrong",
    [
        {"data_dir": Path("/")},
        {"data_dir": Path("/var")},
        {"cache_dir": Path("/usr")},
        {"cache_dir": Path("relative")},
        {"data_dir": Path("/var/lib/../..")},
        {"parallel": 0},
        {"retries": -1},
        {"retry_delay": -0.5},
        {"tls_pin": "ab" * 20},
        {"tls_pin": "g" * 64},
    ],
)
def test_settings_cannot_be_made_wrong(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Settings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["30", "1", "staging"])
def test_formats(text: str) -> None:
    assert Settings(format=text).stream_format() == text


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "x", "1.0", "٣", "2147483648", "../1", "Staging", "1" * 5000])
def test_what_is_no_format(text: str) -> None:
    with pytest.raises(SettingsError):
        Settings(format=text).stream_format()


@pytest.mark.parametrize(
    ("version", "content", "http", "why"),
    [
        ("", "https://x", False, "version URL is unknown"),
        ("https://x", "", False, "content URL is unknown"),
        ("http://x", "https://x", False, "plain HTTP"),
        ("https://x", "HTTP://x", False, "plain HTTP"),
        ("ftp://x", "https://x", True, "is no https"),
        ("/srv/www", "https://x", True, "is no https"),
        ("https://x", "javascript:x", True, "is no https"),
    ],
)
def test_urls_that_are_refused(version: str, content: str, http: bool, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Settings(version_url=version, content_url=content, insecure_http=http).urls()


def test_plain_http_can_be_allowed() -> None:
    assert Settings(version_url="http://x", content_url="file:///y", insecure_http=True).urls() == (
        "http://x",
        "file:///y",
    )


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file that the command reads, and a tree."""
    made = root(tmp_path, {"/usr/lib/os-release": "VERSION_ID=10\n", "/etc/x": File("x")})
    monkeypatch.setattr(settings, "CONFIG_FILES", (str(tmp_path / "config"),))
    (tmp_path / "config").write_text(f"path={made}\n")
    return tmp_path / "config"


def said(configured: Path, text: str, *words: str) -> str:
    with configured.open("a") as file:
        file.write(text)
    done = agent("info", *words)
    assert done.code == 0, done
    return done.out


def test_configuration_fills_in_what_the_command_line_left_out(configured: Path) -> None:
    assert "Format:            29\n" in said(configured, "format=29\nurl=https://config\n")
    assert "Format:            31\n" in said(configured, "", "--format", "31")
    assert "Content URL:       https://config\n" in said(configured, "")
    assert "Content URL:       https://words\n" in said(configured, "", "--url", "https://words/")


def test_switches_can_be_configured(configured: Path) -> None:
    assert "NOT checked" in said(configured, "nosigcheck=TRUE\n")
    assert "NOT checked" not in said(configured, "nosigcheck=false\n")
    assert "NOT checked" not in said(configured, "nosigcheck=yes\n")


def test_a_sections_options_count_for_its_command_only(configured: Path) -> None:
    assert "https://other" not in said(configured, "[update]\nurl=https://other\n")
    assert "https://this" in said(configured, "[info]\nurl=https://this\n")


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        ("info", "nonsense\n", 12),
        ("info", "format=\n", 12),
        ("info", "statedir=/usr\n", 12),
        ("info", "port=x\nurl=https://x\n", 12),
        ("info", "port=²\nurl=https://x\n", 12),
        ("info", f"port={'1' * 5000}\nurl=https://x\n", 12),
        ("info", "max-retries=many\n", 15),
        ("info", "assume=maybe\n", 15),
        ("update", "[update]\nversion=1e3\n", 15),
        ("search-file", "[search-file]\ntop=many\n", 15),
    ],
)
def test_a_bad_configuration_is_said_so(configured: Path, command: str, text: str, code: int) -> None:
    with configured.open("a") as file:
        file.write(text)
    done = agent(command, *(["x"] if command == "search-file" else []))
    assert done.code == code
    assert done.err.startswith("Error: ") and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["bundle-add", "bundle-remove", "bundle-info", "search-file", "mirror", "hashdump"])
def test_unknown_keys_and_arguments_of_a_command_are_passed_over(configured: Path, command: str) -> None:
    with configured.open("a") as file:
        file.write("unknown=1\nbundles=x\nbundle=x\nterm=x\nmirror-url=x\nfile=x\nhelp=true\n")
    done = agent(command, *([] if command == "mirror" else ["/etc/x"]))
    assert "Traceback" not in done.err and done.code in {0, 3, 12, 13, 21}


def test_the_environment_is_no_source_of_settings(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWUPD_URL", "URL", "FORMAT"):
        monkeypatch.setitem(os.environ, name, "https://environment")
    assert "environment" not in said(configured, "")
