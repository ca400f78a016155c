"""Packaging of autodim; every value comes from settings.ini, which nbdev reads too."""
import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("autodim needs Python 3.11, 3.12 or 3.13; this is Python %d.%d." % sys.version_info[:2])

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
settings = ConfigParser()
settings.read(ROOT / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

onnx, test = cfg["onnx_requirements"].split(), cfg["test_requirements"].split()
setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=cfg["requirements"].split(),
    extras_require={"onnx": onnx, "test": test, "dev": test + cfg["dev_requirements"].split()},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
