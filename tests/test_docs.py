"""Commands and links of the documents name files, options and fields that exist."""

import re
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from .conftest import ROOT

FOLDERS = ("", "configs/*", "mcl", "projects/*", "docs")
DOCUMENTS = sorted(
    path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md".lstrip("/"))
)
# What a launcher hands its last arguments to.
LAUNCHED = {
    "tools/dist_train.sh": "tools/train.py",
    "tools/slurm_train.sh": "tools/train.py",
}


def commands(text: str) -> list[list[str]]:
    """Words of each command in the document's shell blocks and inline code."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    inline = re.findall(r"`((?:python|bash) [^`]+)`", text)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines() + inline
    found = []
    for line in lines:
        for part in re.split(r"&&|;", line):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words and words[0] in ("python", "bash"):
                found.append(words)
    return found


def script_of(words: list[str]) -> Path | None:
    """The file of this repository that a command runs."""
    if words[1:2] == ["-m"]:
        ours = words[2].startswith(("projects", "mmcv_ops_fallback"))
        if not ours or "NAME" in words[2]:
            return None
        path = ROOT / words[2].replace(".", "/")
        return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return ROOT / words[1]


def options_of(script: Path) -> str:
    """Source text that declares the options of a script."""
    launched = LAUNCHED.get(script.relative_to(ROOT).as_posix())
    files = [script, *([ROOT / launched] if launched else [])]
    if script.suffix == ".py" and script.is_relative_to(ROOT / "projects"):
        files += script.parent.glob("*.py")
    if script.name == "quickstart.sh":
        files += (ROOT / "projects/quickstart").glob("*.py")
    return "".join(file.read_text() for file in files)


def check_fields(config: Path, words: list[str]) -> None:
    """Each KEY=VALUE after --cfg-options is a field of the config, or a new leaf."""
    cfg = Config.fromfile(config)
    for word in words[words.index("--cfg-options") + 1 :]:
        key = word.partition("=")[0]
        node = cfg
        for part in key.split(".")[:-1]:
            node = node[int(part)] if part.isdecimal() else node[part]
        assert "=" in word and isinstance(node, dict), word


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_what_exists(path):
    for words in commands(path.read_text()):
        script = script_of(words)
        if script is None or "mim/tools" in str(script):
            continue
        assert script.is_file(), words
        source = options_of(script)
        ours = (
            words[: words.index("--cfg-options")] if "--cfg-options" in words else words
        )
        for option in (w for w in ours[2:] if re.match(r"--(?!help)[a-z]", w)):
            assert option.partition("=")[0] in source, (option, words)
        configs = [w for w in words if re.match(r"configs/.*\.py$", w)]
        for config in configs:
            assert "{" in config or (ROOT / config).is_file(), words
        if configs and "--cfg-options" in words:
            check_fields(ROOT / configs[0], words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        if file.startswith("http"):
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.M)
            slugs = {
                re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings
            }
            assert anchor in slugs, link
