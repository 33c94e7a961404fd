"""oe-selftest cases: images that inherit swupd-image are built and published, with bundles that the cases bring along.

    oe-selftest -r swupd

One case builds an image of the layer: core-image-minimal-swupd, or what SWUPD_SELFTEST_IMAGE names.
"""

import hashlib
import os
import re
import shutil

from oeqa.selftest.case import OESelftestTestCase
from oeqa.utils.commands import bitbake, get_bb_var, runCmd

PACKAGES = """\
SUMMARY = "Packages without needs, one of which changes with SWUPD_SELFTEST_TEXT"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
INHIBIT_DEFAULT_DEPS = "1"
inherit allarch
# scarthgap has no UNPACKDIR
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
PACKAGES = "${PN}-core ${PN}-one ${PN}-two"
FILES:${PN}-core = "${sysconfdir}"
FILES:${PN}-one = "${datadir}/swupd-selftest/one"
FILES:${PN}-two = "${datadir}/swupd-selftest/two"
do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install() {
    install -d ${D}${sysconfdir} ${D}${datadir}/swupd-selftest
    echo "root:x:0:0::/root:/bin/sh" >${D}${sysconfdir}/passwd
    echo "root:x:0:" >${D}${sysconfdir}/group
    echo "${SWUPD_SELFTEST_TEXT}" >${D}${datadir}/swupd-selftest/one
    echo "always the same" >${D}${datadir}/swupd-selftest/two
}
"""

IMAGE = """\
SUMMARY = "As small as an image can be: publishing it takes a second"
LICENSE = "MIT"
inherit image swupd-image
IMAGE_INSTALL = "swupd-selftest-core"
IMAGE_FSTYPES = "tar.gz"
IMAGE_LINGUAS = ""
ROOTFS_BOOTSTRAP_INSTALL = ""
"""

SETTINGS = """\
BBFILES += "${TOPDIR}/swupd-selftest/*.bb"
SWUPD_SELFTEST_TEXT = "first"
OS_VERSION = "10"
SWUPD_VERSION_URL = "http://127.0.0.1"
SWUPD_CONTENT_URL = "http://127.0.0.1"
SWUPD_FETCH_PREVIOUS = "0"
SWUPD_SIGNING_KEY = "${TOPDIR}/swupd-selftest/keys/release.key"
SWUPD_SIGNING_CERTIFICATE = "${TOPDIR}/swupd-selftest/keys/release.pem"
SWUPD_BUNDLES = "selftest-one selftest-two"
BUNDLE_CONTENTS[selftest-one] = "swupd-selftest-one"
BUNDLE_CONTENTS[selftest-two] = "swupd-selftest-two"
SWUPD_EMPTY_BUNDLES = "selftest-later"
SWUPD_IMAGES = "selftest"
SWUPD_IMAGES[selftest] = "selftest-one selftest-two"
"""


def started(output):
    """Recipe and task of all that BitBake ran."""
    return set(re.findall(r"recipe (\S+)-[^-\s]+-r\S+: task (do_\w+): Started", output))


def digests(folder):
    """What each file below a folder holds."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            place = os.path.join(where, name)
            with open(place, "rb") as f:
                found[place] = hashlib.sha256(f.read()).hexdigest()
    return found


class Swupd(OESelftestTestCase):
    """Every case has a deploy folder, and so a stream, of its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = os.path.join(cls.builddir, "swupd-selftest")
        os.makedirs(cls.folder)
        for name, text in (("swupd-selftest_1.0", PACKAGES), ("swupd-selftest-image", IMAGE)):
            with open(os.path.join(cls.folder, name + ".bb"), "w") as f:
                f.write(text)
        bitbake("swupd-server-native -c addto_recipe_sysroot")
        cls.native = get_bb_var("RECIPE_SYSROOT_NATIVE", "swupd-server-native")
        runCmd(f"swupd-server keygen {cls.folder}/keys", native_sysroot=cls.native)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)
        super().tearDownClass()

    def setUpLocal(self):
        deploy = os.path.join(self.folder, self.id().split(".")[-1])
        self.www = os.path.join(deploy, "www")
        self.settings = SETTINGS + f'DEPLOY_DIR_SWUPD = "{deploy}"\n'

    def build(self, *changes, target="swupd-selftest-image", fails=False):
        """Builds with changed settings; gives what BitBake said."""
        self.write_config(self.settings + "".join(change + "\n" for change in changes))
        done = bitbake(target, ignore_status=fails)
        self.assertEqual(done.status != 0, fails, done.output)
        return done.output

    def read(self, path):
        with open(os.path.join(self.www, path)) as f:
            return f.read()

    def check(self, version, *options):
        """The stream is valid, signed, and at a version."""
        lint = f"swupd-server lint --www {self.www} --certificate {self.folder}/keys/release.pem {' '.join(options)}"
        runCmd(lint, native_sysroot=self.native)
        self.assertEqual(self.read("version/format30/latest").strip(), version)

    def test_an_image_of_the_layer_is_published_with_its_bundles(self):
        image = get_bb_var("SWUPD_SELFTEST_IMAGE") or "core-image-minimal-swupd"
        self.build('SWUPD_IMAGES = ""', target=image)
        self.assertIn("/usr/share/swupd-selftest/one\n", self.read("10/Manifest.selftest-one"))
        self.assertIn("/usr/share/swupd-selftest/two\n", self.read("10/Manifest.selftest-two"))
        self.assertNotIn("swupd-selftest", self.read("10/Manifest.os-core"))
        self.assertExists(os.path.join(self.www, "10/Manifest.selftest-later"))
        self.check("10")

    def test_the_next_release_has_a_delta_pack_and_only_the_changed_bundle(self):
        self.build()
        self.build('OS_VERSION = "20"', 'SWUPD_SELFTEST_TEXT = "second"')
        self.assertExists(os.path.join(self.www, "20/pack-selftest-one-from-10.tar"))
        self.assertExists(os.path.join(self.www, "20/Manifest.selftest-one"))
        self.assertNotExists(os.path.join(self.www, "20/Manifest.selftest-two"))
        self.check("20", "--deep")

    def test_a_changed_key_or_bundle_publishes_again_and_nothing_else_does(self):
        self.build()
        before = digests(self.www)
        # It only looks whether the release is still there.
        always = {("swupd-selftest-image-mega", "do_swupd_ensure")}
        self.assertEqual(started(self.build()), always)
        self.assertEqual(digests(self.www), before)
        publish = ("swupd-selftest-image-mega", "do_swupd_publish")
        with open(os.path.join(self.folder, "keys/release.key"), "a") as f:
            f.write("\n")
        for changes in (), ('BUNDLE_INCLUDES[selftest-one] = "selftest-two"',):
            ran = started(self.build(*changes))
            self.assertIn(publish, ran)
            # The flashable image is installed from what was published; the other root file systems stay.
            self.assertNotIn(("swupd-selftest-image", "do_rootfs"), ran)
            self.assertNotIn(("swupd-selftest-image-mega", "do_rootfs"), ran)
        self.assertIn("includes:\tselftest-two\n", self.read("10/Manifest.selftest-one"))
        self.check("10", "--deep")

    def test_a_wrong_setting_is_named_and_leaves_the_stream_alone(self):
        self.build()
        before = digests(self.www)
        said = self.build('SWUPD_IMAGES[selftest] = "nosuch"', fails=True)
        self.assertIn("SWUPD_IMAGES[selftest] names nosuch, which is not in SWUPD_BUNDLES", said)
        said = self.build('OS_VERSION = "5"', fails=True)
        self.assertIn("version 5 is not greater than the last one, 10", said)
        self.assertIn("(OS_VERSION is 5)", said)
        self.assertEqual(digests(self.www), before)
