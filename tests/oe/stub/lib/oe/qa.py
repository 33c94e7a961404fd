"""Findings: errors for classes of findings in ERROR_QA, warnings for those in WARN_QA."""

import bb


def handle_error(kind, text, d):
    if kind in (d.getVar("ERROR_QA") or "").split():
        bb.error(f"QA Issue: {text} [{kind}]")
        d.setVar("QA_ERRORS_FOUND", "True")
    elif kind in (d.getVar("WARN_QA") or "").split():
        bb.warn(f"QA Issue: {text} [{kind}]")


def exit_if_errors(d):
    if d.getVar("QA_ERRORS_FOUND") == "True":
        bb.fatal("Fatal QA errors were found, failing task.")
