#!/usr/bin/env bash
# Install everything this repository needs; quick if nothing has changed.
#
#   source tools/setup_env.sh                   # and stay in the environment
#   bash tools/setup_env.sh                     # install only
#   bash tools/setup_env.sh --host openmmlab    # the original releases
#
# The default host goes into the active virtualenv or conda environment, or else
# into .venv. The host openmmlab always gets .venv-openmmlab, because both hosts
# use the same import names.

# Functions with () run in a subshell: nothing leaks into a shell that sources this.

_mcl_fail() {
    echo "setup_env.sh: $1" >&2
    return 1
}

# 0: Python 3.10 to 3.12 that can make environments; 3: the same, but it cannot.
_mcl_python_check='
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(1)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(3)
'

_mcl_find_python() (
    lacking=""
    for name in python3.12 python3.11 python3.10 python3 python; do
        # Being on the PATH is not enough: pyenv leaves names there that do not run.
        "$name" -c "$_mcl_python_check" >/dev/null 2>&1 && echo "$name" && return 0
        [ $? -ne 3 ] || lacking="${lacking:-$name}"
    done
    if [ -n "$lacking" ]; then
        _mcl_fail "$lacking cannot make virtual environments; install its venv \
module (Debian, Ubuntu: apt install $lacking-venv)."
    else
        _mcl_fail "no Python 3.10, 3.11 or 3.12 was found; install one of them or \
activate an environment that has it."
    fi
)

# Print the folder of the environment to use; make it if need be.
_mcl_environment() (
    root="$1" host="$2" folder=".venv"
    active="${VIRTUAL_ENV:-}"
    if [ -z "$active" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
        active="${CONDA_PREFIX:-}"
    fi
    if [ "$host" = default ] && [ -n "$active" ]; then
        echo "$active"
        return 0
    fi
    [ "$host" = default ] || folder=".venv-$host"
    if [ ! -e "$root/$folder" ]; then
        python="$(_mcl_find_python)" || return 1
        echo "setup_env.sh: making $folder with $("$python" --version)" >&2
        "$python" -m venv "$root/$folder" >&2 || return 1
    fi
    echo "$root/$folder"
)

# Say in one clause why installing into this environment would break something.
_mcl_environment_check='
import sys
from importlib.metadata import PackageNotFoundError, version

def installed(*names):
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return ", ".join(found)

original = installed("mmengine", "mmcv", "mmcv-lite", "mmdet", "mmpretrain")
torch = installed("torch")
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    print("has Python " + sys.version.split()[0] + "; use one with 3.10, 3.11 or 3.12.")
elif sys.argv[1] == "default" and original:
    print(f"holds {original}, whose import names the maintained distributions share; "
          "use a fresh environment, or --host openmmlab.")
elif torch and tuple(map(int, torch.split()[1].split(".")[:2])) < (2, 4):
    print(f"holds {torch}, mcl needs 2.4 or newer; update torch and torchvision "
          "together, or use a fresh environment.")
'

_mcl_check_environment() (
    env="$1" host="$2"
    if ! "$env/bin/python" -c "" 2>/dev/null; then
        _mcl_fail "$env has no working Python; delete that folder and run this again."
        return 1
    fi
    problem="$("$env/bin/python" -c "$_mcl_environment_check" "$host")" || return 1
    [ -z "$problem" ] || _mcl_fail "$env $problem"
)

# opencv-python needs the system's libGL, which a bare machine lacks; the headless
# build of the same version does not, and fills the same folder.
_mcl_check_cv2() (
    python="$1"
    error="$("$python" -c "import cv2" 2>&1)" && return 0
    case "$error" in
    *libGL* | *libEGL* | *libgthread* | *libSM* | *libXext* | *libxcb*) ;;
    *) _mcl_fail "import cv2 fails: ${error##*$'\n'}" || return 1 ;;
    esac
    version="$("$python" -c \
        'from importlib.metadata import version; print(version("opencv-python"))')"
    echo "setup_env.sh: ${error##*$'\n'}; installing opencv-python-headless $version \
over opencv-python, it does without"
    "$python" -m pip install --quiet --force-reinstall --no-deps \
        "opencv-python-headless==$version" || return 1
    "$python" -c "import cv2"
)

_mcl_install() (
    set -eu
    root="$1" host="$2" python="$3/bin/python"
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    requirements="$root/requirements.txt"
    [ "$host" = default ] || requirements="$root/requirements/$host.txt"
    pins="$(mktemp)"
    trap 'rm -f "$pins"' EXIT
    # A torch that is there, with CUDA or a special build, stays what it is.
    "$python" -m pip list --format freeze 2>/dev/null | grep '^torch==' >"$pins" || true
    "$python" -m pip install --quiet --constraint "$pins" \
        -r "$requirements" -r "$root/requirements/tests.txt"
    # The requirements are in; --no-deps, since setup.cfg names the default host's.
    "$python" -m pip install --quiet --no-deps -e "$root"
    _mcl_check_cv2 "$python"
)

# What an up-to-date environment was made from.
_mcl_fingerprint() (
    cd "$1" && echo "$2 $1" &&
        cat requirements.txt requirements/*.txt setup.cfg pyproject.toml \
            tools/setup_env.sh | cksum
)

# Print the folder of a complete environment on the last line.
_mcl_setup() (
    root="$1" host=default
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
        --host)
            host="${2:-}"
            [ $# -lt 2 ] || shift
            ;;
        --host=*) host="${1#--host=}" ;;
        *) _mcl_fail "unknown argument '$1'; the only one is --host." || return 2 ;;
        esac
        shift
    done
    case "$host" in
    default | openmmlab) ;;
    *) _mcl_fail "--host '$host' is not one of: default, openmmlab." || return 2 ;;
    esac
    env="$(_mcl_environment "$root" "$host")" || return 1
    stamp="$env/.mcl-setup-$host"
    fingerprint="$(_mcl_fingerprint "$root" "$host")" || return 1
    if [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ]; then
        _mcl_check_environment "$env" "$host" || return 1
        echo "setup_env.sh: installing into $env (some minutes the first time)" >&2
        _mcl_install "$root" "$host" "$env" >&2 || return 1
        echo "$fingerprint" >"$stamp"
    fi
    echo "$env"
)

_mcl_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
# The last command gives the verdict, whether this file is sourced or run.
if ! _mcl_env="$(_mcl_setup "$_mcl_root" "$@")"; then
    false
elif [ "$_mcl_env" != "${VIRTUAL_ENV:-}" ] && [ "$_mcl_env" != "${CONDA_PREFIX:-}" ]; then
    # shellcheck source=/dev/null
    . "$_mcl_env/bin/activate"
fi
