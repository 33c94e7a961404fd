"""The names of objects: two nested HMAC-SHA256 over metadata, xattrs and content (stream format, section 3)."""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Iterable

from swupd import paths, tree
from swupd.tree import Node


def hasher(node: Node) -> hmac.HMAC:
    """An HMAC that gives the digest once it was fed a file's content; other kinds need no feeding."""
    return hmac.new(_key(node), _inherent(node), "sha256")


def digest(node: Node, content: Iterable[bytes] = ()) -> str:
    """The 64 hex digits by which manifests name an object. A small file's content is held as a whole."""
    if node.kind != "F":
        return hmac.digest(_key(node), _inherent(node), "sha256").hex()
    if node.size <= tree.CHUNK:
        return hmac.digest(_key(node), b"".join(content), "sha256").hex()
    mac = hasher(node)
    for chunk in content:
        mac.update(chunk)
    return mac.hexdigest()


def digest_manifest(data: bytes) -> str:
    """The digest of a manifest: that of a 0644 file of root (stream format, section 3)."""
    return digest(tree.file_node("/manifest", 0o644, len(data)), [data])


def _key(node: Node) -> bytes:
    """What the content's HMAC is keyed with: the metadata, hashed."""
    size = len(paths.encode(node.target)) if node.kind == "L" else node.size if node.kind == "F" else 0
    metadata = struct.pack("<5Q", 0 if node.kind == "L" else node.mode, node.uid, node.gid, 0, size)
    return hmac.digest(metadata, _xattr_blob(node.xattrs), "sha256").hex().encode("ascii")


def _inherent(node: Node) -> bytes:
    """What is hashed of an object without being a file's content."""
    return b"DIRECTORY" if node.kind == "D" else paths.encode(node.target)


def _xattr_blob(xattrs: tuple[tuple[str, bytes], ...]) -> bytes:
    if not xattrs:
        return b""
    names = b"".join(os.fsencode(name) + b"\0" for name, _ in xattrs)
    values = (value + (b"\0" if value and not value.endswith(b"\0") else b"") for _, value in xattrs)
    return names + b"".join(values)
