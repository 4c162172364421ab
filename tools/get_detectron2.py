"""Installs detectron2: upstream's Python package without a compiler, or upstream built from source.

detectron2 is not on PyPI under its own name. The wheel `sal-detectron2` holds upstream's commit a59f056, and is tagged
cp310 only for its optional C++ extension (deformable convolution, rotated boxes; ROIAlign and NMS come from
torchvision). Without that extension, everything is plain Python. So the wheel is re-tagged py3-none-any and installed
by pip under the same name, and `pip uninstall sal-detectron2` works.

SALMASK_DETECTRON2=source builds the pinned upstream commit instead; that takes a compiler, GitHub and 3-4 minutes.
"""

import base64
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME, VERSION = "sal-detectron2", "0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
SOURCE = "git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def repack(wheel: Path, folder: Path) -> Path:
    """Writes a wheel anew, without its compiled parts and tagged for any Python 3.

    Args:
        wheel: The downloaded wheel, for CPython 3.10.
        folder: The folder for the new wheel.

    Returns:
        The path of the new wheel.
    """
    target = folder / f"sal_detectron2-{VERSION}-py3-none-any.whl"
    record = f"sal_detectron2-{VERSION}.dist-info/RECORD"
    rows = []
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            # Upstream's training scripts lie outside of the package, and would be installed as a package `tools`.
            if name.endswith((".so", "/RECORD", "/")) or name.startswith("tools/"):
                continue
            data = old.read(name)
            if name.endswith("/METADATA"):
                # It runs with NumPy 2; and only `LazyConfig.to_py` needs black, which nothing here calls.
                data = data.replace(b"Requires-Dist: numpy<2\n", b"").replace(b"Requires-Dist: black\n", b"")
            elif name.endswith("/WHEEL"):
                data = re.sub(rb"Tag: .*", b"Tag: py3-none-any", data)
                data = data.replace(b"Root-Is-Purelib: false", b"Root-Is-Purelib: true")
            elif name.endswith("/top_level.txt"):
                data = b"detectron2\n"
            new.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}")
        # RECORD lists every file with its hash, for pip to remove them; its own line has none (PEP 376).
        new.writestr(record, "\n".join([*rows, f"{record},,", ""]))
    return target


def install_wheel() -> None:
    """Downloads the wheel, checks it against the hash above, and installs it without its compiled parts."""
    with tempfile.TemporaryDirectory() as folder:
        # Downloaded as if for the Python that the wheel is tagged for: pip would refuse it to any other.
        download = [*PIP, "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.10"]
        download += ["--implementation", "cp", "--abi", "none", "--platform", "any", "-d", folder, f"{NAME}=={VERSION}"]
        subprocess.run(download, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            sys.exit(f"get_detectron2: {wheel.name} has an unexpected sha256; refusing to install it")
        subprocess.run([*PIP, "install", "-q", "--no-deps", str(repack(wheel, Path(folder)))], check=True)


def install_source() -> None:
    """Builds the pinned commit and installs it; removes the installed wheel only once the new one is built."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, SOURCE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        subprocess.run([*PIP, "uninstall", "-q", "-y", NAME], check=True)
        subprocess.run([*PIP, "install", "-q", "--no-deps", str(wheel)], check=True)


def main() -> None:
    """Installs detectron2 unless it is there; a build from source also replaces the pure-Python wheel."""
    source = os.environ.get("SALMASK_DETECTRON2", "wheel") == "source"
    if importlib.util.find_spec("detectron2") and not (source and importlib.util.find_spec("detectron2._C") is None):
        return
    print(f"setup: installing detectron2 from {'source (3-4 minutes)' if source else 'its pure-Python wheel'}")
    try:
        if source:
            install_source()
        else:
            install_wheel()
    except subprocess.CalledProcessError as error:
        mend = "check the network" if not source else "check GitHub and the compiler, or unset SALMASK_DETECTRON2"
        sys.exit(f"get_detectron2: `{' '.join(error.cmd[:5])} …` failed; mend: {mend}, then run make again")


if __name__ == "__main__":
    main()
