"""Runtime cases: what an installed agent must be able to do. They leave the version of the device as it is.

With testimage: TEST_SUITES:append = " swupd". The image's update server must answer.
"""

import re

from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

VICTIM = "/usr/lib/systemd/system/swupd-update.timer"


class SwupdTest(OERuntimeTestCase):
    """The agent on a booted device."""

    def swupd(self, words):
        """Runs the agent; gives its exit code and what it said."""
        url = self.td["SWUPD_VERSION_URL"] + self.td["SWUPD_CONTENT_URL"]
        http = "--allow-insecure-http" if "http://" in url else ""
        return self.target.run(f"swupd {words} --no-progress {http} 2>&1")

    def expect(self, words, status):
        """Runs the agent, which must end with an exit code; gives what it said."""
        found, output = self.swupd(words)
        self.assertEqual(found, status, output)
        return output

    @OEHasPackage(["swupd"])
    def test_info_names_version_and_server(self):
        output = self.expect("info", 0)
        self.assertRegex(output, r"Installed version: +{}\b".format(self.td["OS_VERSION"]))
        self.assertIn(self.td["SWUPD_VERSION_URL"], output)
        self.assertIn(self.td["SWUPD_CONTENT_URL"], output)

    @OEHasPackage(["swupd"])
    def test_check_update_says_it_by_its_exit_code(self):
        status, output = self.swupd("check-update")
        newest = re.search(r"There is an update: {} -> (\d+)".format(self.td["OS_VERSION"]), output)
        self.assertEqual(status, 0 if newest else 1, output)
        if not newest:
            self.assertIn("There is no update", output)

    @OEHasPackage(["swupd"])
    def test_a_server_that_does_not_answer_is_an_error_and_no_missing_update(self):
        self.expect("check-update --max-retries 0 --url http://127.0.0.1:9 --allow-insecure-http", 16)

    @OEHasPackage(["swupd"])
    def test_a_damaged_file_is_found_and_repaired(self):
        self.expect("diagnose", 0)
        before = self.target.run("sha256sum " + VICTIM)
        self.assertEqual(self.target.run("echo damage >>" + VICTIM)[0], 0)
        self.assertIn(VICTIM, self.expect("diagnose --file " + VICTIM, 1))
        self.expect("repair --file " + VICTIM, 0)
        self.assertEqual(self.target.run("sha256sum " + VICTIM), before)
        self.expect("diagnose", 0)

    @OEHasPackage(["swupd"])
    def test_the_timer_is_enabled_as_configured(self):
        # SYSTEMD_AUTO_ENABLE of the recipe is not among the image's variables: SWUPD_TEST_TIMER says what it is set to.
        configured = self.td.get("SWUPD_TEST_TIMER") or "disable"
        status, output = self.target.run("systemctl is-enabled swupd-update.timer")
        self.assertEqual((status, output.strip()), (0, "enabled") if configured == "enable" else (1, "disabled"))
        self.assertEqual(self.target.run("systemctl cat swupd-update.service")[0], 0)

    @OEHasPackage(["swupd"])
    def test_no_unit_failed(self):
        self.assertEqual(self.target.run("systemctl --failed --no-legend --no-pager"), (0, ""))
