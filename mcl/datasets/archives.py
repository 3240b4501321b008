"""Images inside tar and zip files, found once and read by their place in the file.

The loader asks for images in any order, so what is needed of an archive is where each
member lies. A read is then one `pread`: it moves no file position, so processes that
share a handle after a fork do not disturb each other, and none has to read an archive's
directory again.
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

# What the first bytes say of a file from which nothing can be read at random.
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# Archives a process keeps open; the usual limit is 1024 files.
MAX_OPEN = 256
# Bytes of a zip member's own header before its name.
ZIP_HEADER = 30
# Bytes looked at together behind a tar's end.
CHUNK = 2**20
CACHE_VERSION = 2


class Member(NamedTuple):
    """A file inside an archive.

    Attributes:
        name: its path inside the archive, without `.`, `..` and empty parts.
        offset: byte where its content begins (tar) or its header (zip).
        size: bytes that its content takes there.
        method: zip's way to compress it; None in a tar.
        crc: zip's checksum of the content; None in a tar.
    """

    name: str
    offset: int
    size: int
    method: int | None = None
    crc: int | None = None


def find_archives(patterns: str | Sequence[str], root: str = "") -> list[str]:
    """Paths of the archives that match, sorted, each file once whatever leads to it.

    Args:
        patterns: paths or globs, relative to ``root`` or absolute.

    Raises:
        InputError: naming a path that is no file, or all globs when none matches.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    paths = [os.path.join(root, os.path.expanduser(p)) for p in patterns]
    if not paths:
        raise InputError("archives=[]: name at least one .tar or .zip file")
    found, missing = [], []
    for path in paths:
        # A file's own name may hold brackets, which mean something in a glob.
        matches = [path] if os.path.isfile(path) else glob(path, recursive=True)
        files = [f for f in matches if os.path.isfile(f)]
        found += files
        if not files and escape(path) == path:  # a path, not a glob
            missing.append(path)
    if missing or not found:
        raise InputError(
            f"archives={', '.join(missing or paths)}: there is no such file; give "
            "paths or globs of .tar and .zip files, relative to data_root"
        )
    unique: dict[str, str] = {}
    for path in sorted(found):
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def index_archives(
    paths: Sequence[str], extensions: Sequence[str], cache: str | None = None
) -> dict[str, list[Member]]:
    """Images of each archive, in the archive's order.

    Args:
        paths: of the archives.
        extensions: what the names of images end with, in lower case.
        cache: JSON file that keeps what was found, so that the next run looks only
            into archives of another size or date.

    Raises:
        InputError: for an archive without an order to read at random, a damaged one,
            or a cache that is another file or cannot be written.
    """
    extensions = sorted(extensions)
    known = _read_cache(cache, extensions)
    entries = {}
    for path in paths:
        found, key = os.stat(path), os.path.abspath(path)
        state = [found.st_size, found.st_mtime_ns]
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

    Where a name occurs twice the last one counts, as it does when unpacking.

    Raises:
        InputError: when it is compressed as a whole, damaged, or no archive.
    """
    with open(path, "rb") as file:
        head = file.read(6)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(
                f"archives={path}: it is compressed with {name} as a whole, so an "
                "image cannot be read without all before it; unpack it to a plain "
                ".tar (images shrink no further) or to a folder"
            )
    endings = tuple(extensions)
    zipped = head.startswith(b"PK")
    members = _list_zip(path, endings) if zipped else _list_tar(path)
    images = {m.name: m for m in members if _is_image(m.name, endings)}
    inner = [m.name for m in members if m.name.lower().endswith((".tar", ".zip"))]
    if not images and inner:
        raise InputError(
            f"archives={path}: it holds archives, such as {inner[0]}, not images; "
            "unpack it once and name those"
        )
    return list(images.values())


def read_member(
    archive: str,
    offset: int,
    size: int,
    method: int | None = None,
    crc: int | None = None,
) -> bytes:
    """Content of a member; the arguments are those of :class:`Member`.

    Raises:
        OSError: when the archive cannot be read.
        ValueError: when it ends early, or a zip's checksum says it is damaged.
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

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, size: int) -> bytes:
        content = os.pread(self.descriptor, size, offset)
        if len(content) < size:
            raise ValueError("the archive ends before it; was it changed?")
        return content

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


# Of the process, not of the data set: handles cannot be sent to spawned workers.
_open = lru_cache(MAX_OPEN)(_Handle)


def _plain(name: str) -> str:
    """A member's path as it is meant: some tools write ``./a``, ``/a`` or ``../a``."""
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
                tar.members.clear()  # it would keep a kilobyte for each
                if entry.isreg() and not entry.issparse():
                    name = _plain(entry.name)
                    members.append(Member(name, entry.offset_data, entry.size))
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"archives={path}: it is no .tar or .zip file, or damaged ({error}); copy "
            "it anew"
        ) from error
    _check_end(path, end)
    return members


def _check_end(path: str, end: int) -> None:
    """Zeros alone follow the last member; tarfile stops at whatever it cannot read."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if not block:
            print_log(
                f"{path}: it has no mark at its end; if it was copied, compare its "
                "size, for images after that may be lost",
                logger="current",
                level=logging.WARNING,
            )
        if block.strip(b"\0"):
            raise InputError(
                f"archives={path}: the header at byte {end} is damaged, so what "
                "follows cannot be found; copy the file anew"
            )
        while block := file.read(CHUNK):
            if block.strip(b"\0"):
                raise InputError(
                    f"archives={path}: more follows its end at byte {end}, as in tars "
                    "joined by `cat`; name each of them, or join them by "
                    "`tar --concatenate`"
                )


def _list_zip(path: str, extensions: tuple[str, ...]) -> list[Member]:
    members = []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise InputError(
            f"archives={path}: it is damaged or cut short ({error}); copy it anew"
        ) from error
    for entry in entries:
        # The upper half is the file's mode where it was packed on Unix.
        if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
            continue
        name = _plain(entry.filename)
        if _is_image(name, extensions):
            _check_method(path, entry)
        members.append(
            Member(
                name,
                entry.header_offset,
                entry.compress_size,
                entry.compress_type,
                entry.CRC,
            )
        )
    return members


def _check_method(path: str, entry: zipfile.ZipInfo) -> None:
    encrypted = entry.flag_bits & 1
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if encrypted or entry.compress_type not in methods:
        how = "encrypted" if encrypted else f"method {entry.compress_type}"
        raise InputError(
            f"archives={path}: {entry.filename} is compressed in a way that is not "
            f"read here ({how}); pack it with `zip -0`"
        )


def _read_cache(cache: str | None, extensions: list[str]) -> dict:
    """Archives of the cache; none where it is missing or made for other images."""
    if not cache or not os.path.exists(cache):
        return {}
    try:
        content = json.loads(Path(cache).read_text())
    except (OSError, ValueError):
        content = None
    archives = content.get("archives") if isinstance(content, dict) else None
    # It will be written over.
    if not isinstance(archives, dict) or "version" not in content:
        raise InputError(
            f"index_file={cache}: this is no index of archives; name a file that does "
            "not exist yet, or delete it if it was one"
        )
    meant = dict(version=CACHE_VERSION, extensions=extensions)
    return archives if meant.items() <= content.items() else {}


def _write_cache(cache: str, extensions: list[str], archives: dict) -> None:
    content = dict(version=CACHE_VERSION, extensions=extensions, archives=archives)
    # Processes may write at once; each file appears whole, and all say the same.
    part = f"{cache}.{os.uname().nodename}.{os.getpid()}"
    try:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        Path(part).write_text(json.dumps(content))
        os.replace(part, cache)
    except OSError as error:
        raise InputError(f"index_file={cache}: it cannot be written ({error})") from (
            error
        )
