"""Paths."""

import shutil


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
