"""Runs the layer's runtime cases, lib/oeqa/runtime/cases, on a machine that was booted without testimage."""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

CASES = Path(__file__).parents[2] / "lib/oeqa/runtime/cases/swupd.py"


class Target(Protocol):
    """What the cases need of a machine."""

    def run(self, command: str) -> tuple[int, str]:
        """Runs a command; gives its exit code and what it printed."""


def run(oecore: Path, target: Target, variables: Mapping[str, str]) -> bool:
    """Runs every case with openembedded-core's own base class; gives whether all passed.

    variables: those of the image that testimage would hand over.
    """
    place = str(oecore / "meta/lib")
    if place not in sys.path:
        sys.path.append(place)
    # The file is called as our package is: it gets another name.
    name = "swupd_runtime_cases"
    specification = importlib.util.spec_from_file_location(name, CASES)
    assert specification is not None and specification.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    cases = module.SwupdTest
    cases.target, cases.td, cases.logger = target, dict(variables), logging.getLogger(name)
    cases.tc = types.SimpleNamespace(target=target, td=cases.td, image_packages={"swupd"}, logger=cases.logger)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(cases)
    return unittest.TextTestRunner(sys.stdout, verbosity=2).run(suite).wasSuccessful()
