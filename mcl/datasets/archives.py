"""Images inside tar and zip files: an index of their places, and reads by place.

The loader asks for images in any order, so the index keeps the offset of each member.
A read is one `pread`, which moves no file position. Forked processes can therefore
share a file handle, and none has to read an archive's directory again.
"""

import json
import logging
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from glob import escape, glob
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from ..errors import InputError

# First bytes of compressed files, which allow no random access.
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# Archives that a process keeps open. The usual limit is 1024 files.
MAX_OPEN = 256
# Bytes of a zip member's header, without its name.
ZIP_HEADER = 30
# Bytes behind a tar's end that are checked at a time.
CHUNK = 2**20
CACHE_VERSION = 2


class Member(NamedTuple):
    """A file inside an archive.

    Attributes:
        name: path inside the archive, without `.`, `..` and empty parts.
        offset: byte where its content (tar) or its header (zip) begins.
        size: bytes of its content in the archive.
        method: compression method of a zip; None in a tar.
        crc: checksum of the content in a zip; None in a tar.
    """

    name: str
    offset: int
    size: int
    method: int | None = None
    crc: int | None = None


def find_archives(patterns: str | Sequence[str], root: str = "") -> list[str]:
    """Sorted paths of the archives that match. A file with several paths counts once.

    Args:
        patterns: paths or globs, relative to ``root`` or absolute.

    Raises:
        InputError: for a path that is no file, or when no glob matches.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    paths = [os.path.join(root, os.path.expanduser(p)) for p in patterns]
    if not paths:
        raise InputError("archives=[]: name at least one .tar or .zip file")
    # A file's own name may hold brackets, which a glob would interpret.
    found = {p: [p] if os.path.isfile(p) else glob(p, recursive=True) for p in paths}
    files = [f for matches in found.values() for f in matches if os.path.isfile(f)]
    missing = [p for p in paths if escape(p) == p and not os.path.isfile(p)]
    if missing or not files:
        raise InputError(
            f"archives={', '.join(missing or paths)}: there is no such file; give "
            "paths or globs of .tar and .zip files, relative to data_root"
        )
    unique = {os.path.realpath(path): path for path in sorted(files, reverse=True)}
    return sorted(unique.values())


def index_archives(
    paths: Sequence[str], extensions: Sequence[str], cache: str | None = None
) -> dict[str, list[Member]]:
    """Find the images of each archive, in the archive's order.

    Args:
        paths: paths of the archives.
        extensions: endings of image names, in lower case.
        cache: JSON file that keeps the index. The next run then reads only the
            archives whose size or date has changed.

    Raises:
        InputError: for a compressed or damaged archive, or a cache that is another
            file or cannot be written.
    """
    extensions = sorted(extensions)
    known = _read_cache(cache, extensions)
    entries = {}
    for path in paths:
        status, key = os.stat(path), os.path.abspath(path)
        state = [status.st_size, status.st_mtime_ns]
        entry = known.get(key)
        if entry is None or entry["state"] != state:
            entry = dict(state=state, members=list_images(path, extensions))
        entries[key] = entry
    if cache and entries != known:
        _write_cache(cache, extensions, entries)
    return {
        path: [Member(*m) for m in entries[os.path.abspath(path)]["members"]]
        for path in paths
    }


def list_images(path: str, extensions: Sequence[str]) -> list[Member]:
    """Images of one archive: regular files that are not hidden.

    The last of several members of one name counts, as it does when unpacking.

    Raises:
        InputError: when the file is compressed as a whole, damaged, or no archive.
    """
    with open(path, "rb") as file:
        head = file.read(6)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(
                f"archives={path}: it is compressed with {name} as a whole, so single "
                "images cannot be read; unpack it to a plain .tar or to a folder"
            )
    endings = tuple(extensions)
    zipped = head.startswith(b"PK")
    members = _list_zip(path, endings) if zipped else _list_tar(path)
    images = {m.name: m for m in members if _is_image(m.name, endings)}
    inner = [m.name for m in members if m.name.lower().endswith((".tar", ".zip"))]
    if not images and inner:
        raise InputError(
            f"archives={path}: it holds archives, such as {inner[0]}, not images; "
            "unpack it and name the inner archives"
        )
    return list(images.values())


def read_member(
    archive: str,
    offset: int,
    size: int,
    method: int | None = None,
    crc: int | None = None,
) -> bytes:
    """Read the content of a member; the arguments are as in :class:`Member`.

    Raises:
        OSError: when the archive cannot be read.
        ValueError: when the archive ends early, or the content is damaged (zip).
    """
    handle = _open(archive)
    if method is None:
        return handle.read(offset, size)
    header = handle.read(offset, ZIP_HEADER)
    if not header.startswith(b"PK\x03\x04"):
        raise ValueError("no zip member begins there; was the archive changed?")
    # The lengths here may differ from those in the archive's directory.
    skip = ZIP_HEADER + sum(struct.unpack("<HH", header[26:30]))
    content = handle.read(offset + skip, size)
    if method == zipfile.ZIP_DEFLATED:
        content = zlib.decompress(content, -zlib.MAX_WBITS)
    if zlib.crc32(content) != crc:
        raise ValueError("its checksum is wrong")
    return content


class _Handle:
    """An open file that is read by offset only."""

    descriptor = -1

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        content = os.pread(self.descriptor, size, offset)
        if len(content) < size:
            raise ValueError("the archive ends before it; was it changed?")
        return content

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


# One cache per process, not per data set: spawned workers cannot receive handles.
_open = lru_cache(MAX_OPEN)(_Handle)


def _plain(name: str) -> str:
    """A member's path without `.`, `..` and empty parts, which some tools write."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _is_image(name: str, extensions: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    resources = name.startswith("__MACOSX/")
    return name.lower().endswith(extensions) and not hidden and not resources


def _list_tar(path: str) -> list[Member]:
    members = []
    try:
        with tarfile.open(path, "r:") as tar:
            while entry := tar.next():
                tar.members.clear()  # a kilobyte each
                if entry.isreg() and not entry.issparse():
                    name = _plain(entry.name)
                    members.append(Member(name, entry.offset_data, entry.size))
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"archives={path}: it is no .tar or .zip file, or damaged ({error}); copy "
            "it again"
        ) from error
    _check_end(path, end)
    return members


def _check_end(path: str, end: int) -> None:
    """Refuse anything but zeros behind the last member.

    tarfile stops without an error at whatever it cannot read.
    """
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if not block:
            print_log(
                f"{path}: it has no mark at its end, so images may be missing; "
                "compare its size with the original's",
                logger="current",
                level=logging.WARNING,
            )
        if block.strip(b"\0"):
            raise InputError(
                f"archives={path}: the header at byte {end} is damaged, so later "
                "images cannot be found; copy the file again"
            )
        while block := file.read(CHUNK):
            if block.strip(b"\0"):
                raise InputError(
                    f"archives={path}: more follows its end at byte {end}, as in tars "
                    "joined by `cat`; name each of them, or join them by "
                    "`tar --concatenate`"
                )


def _list_zip(path: str, extensions: tuple[str, ...]) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise InputError(
            f"archives={path}: it is damaged or cut short ({error}); copy it again"
        ) from error
    members = []
    for entry in entries:
        # The upper half is the file's mode where it was packed on Unix.
        if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
            continue
        name, method = _plain(entry.filename), entry.compress_type
        encrypted = entry.flag_bits & 1
        readable = method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if _is_image(name, extensions) and (encrypted or not readable):
            how = "encrypted" if encrypted else f"compressed by method {method}"
            raise InputError(
                f"archives={path}: {entry.filename} is {how}, which cannot be read "
                "here; pack it with `zip -0`"
            )
        place = (entry.header_offset, entry.compress_size)
        members.append(Member(name, *place, method, entry.CRC))
    return members


def _read_cache(cache: str | None, extensions: list[str]) -> dict:
    """Archives of the cache; none when it is missing or was made for other images."""
    if not cache or not os.path.exists(cache):
        return {}
    try:
        content = json.loads(Path(cache).read_text())
    except (OSError, ValueError):
        content = None
    archives = content.get("archives") if isinstance(content, dict) else None
    # Any other file must not be overwritten.
    if not isinstance(archives, dict) or "version" not in content:
        raise InputError(
            f"index_file={cache}: this is no index of archives; name a new file, or "
            "delete this one if it is an old index"
        )
    meant = dict(version=CACHE_VERSION, extensions=extensions)
    return archives if meant.items() <= content.items() else {}


def _write_cache(cache: str, extensions: list[str], archives: dict) -> None:
    content = dict(version=CACHE_VERSION, extensions=extensions, archives=archives)
    # Processes may write at once: each writes the same content to a file of its own.
    part = f"{cache}.{os.uname().nodename}.{os.getpid()}"
    try:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        Path(part).write_text(json.dumps(content))
        os.replace(part, cache)
    except OSError as error:
        message = f"index_file={cache}: it cannot be written ({error})"
        raise InputError(message) from error
