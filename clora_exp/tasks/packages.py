"""Where raw material that comes as an installed package lies, and what identifies its content."""

import hashlib
from importlib import metadata
from pathlib import Path

from clora_exp.errors import DataError


def _distribution(package: str) -> metadata.Distribution:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise DataError(f"the package {package!r} is not installed; run: pip install {package}") from None


def package_fingerprint(package: str, suffix: str = "") -> str:
    """Return the SHA-256 over the hashes that the package's own RECORD holds of its files, all or those with `suffix`.

    The RECORD lists each file's SHA-256, so the fingerprint is that of the content, without reading 170 MB of it.

    Raises:
        DataError: the package is not installed, or has no such record.
    """
    distribution = _distribution(package)
    files = distribution.files or []
    content = (f for f in files if f.name.endswith(suffix) and ".dist-info" not in f.parts[0])
    hashes = sorted(f"{f} {f.hash.value}" for f in content if f.hash)
    if not hashes:
        raise DataError(f"the package {package!r} has no record of its files; reinstall it with pip")
    return hashlib.sha256("\n".join([distribution.version, *hashes]).encode()).hexdigest()


def package_folder(package: str, folder: str) -> Path:
    """Return an installed package's folder, e.g. ("licensedcode-data", "licensedcode/data").

    Raises:
        DataError: the package or the folder is not there.
    """
    path = Path(str(_distribution(package).locate_file(folder)))
    if not path.is_dir():
        raise DataError(
            f"the package {package!r} has no folder {folder!r}; reinstall it: pip install --force-reinstall {package}"
        )
    return path
