"""Packaging of nlcl_plugin; settings of tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "nlcl_plugin/version.py").read_text(encoding="utf-8"))

EXTRAS = {
    "report": ["jinja2", "matplotlib"],  # pages and plots; torch and MMEngine bring them anyway
    "demo": ["gradio>=6"],  # the page of `basicsr demo`
    "video": ["av>=17.1"],
    "export": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.18"],  # ONNX in and out
    "spandrel": ["spandrel>=0.4"],  # nlcl_plugin.spandrel_support
}

setup(
    name="nlcl_plugin",
    version=VERSION.group(1),
    description="Unpaired image deraining (NLCL) as a plugin for BasicSR",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="nlcl_plugin developers",
    keywords=["deraining", "image restoration", "unpaired", "contrastive learning", "BasicSR", "MMEngine", "PyTorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    # BasicSR 1.4.2, its last release, cannot be built on Python 3.13.
    python_requires=">=3.10,<3.13",
    packages=[*find_packages(include=["nlcl_plugin", "nlcl_plugin.*"]), "nlcl_plugin.options"],
    package_dir={"nlcl_plugin.options": "options"},  # `basicsr options` finds them in a wheel too
    package_data={
        "nlcl_plugin": ["py.typed", "report/page.*", "weights/*.safetensors"],
        "nlcl_plugin.options": ["*.yml", "mmengine/*.py", "mmengine/_base_/*.py"],
    },
    install_requires=[
        "basicsr==1.4.2",
        "mmengine>=0.10.7",
        "torch>=2.3",
        "torchvision>=0.18",
        "opencv-python",
        "lmdb",
        "addict",
        "pyyaml",
        "numpy",
        "pillow>=11",  # which reads and writes XMP
        "pydantic>=2",
        "safetensors>=0.4",
        "filelock>=4",  # torch brings it anyway
        "scipy",  # BasicSR brings it anyway
        "scikit-image>=0.22",  # the demo's photographs are inside its wheel
        "tifffile",  # scikit-image brings it anyway
        "tqdm",
        "shtab",  # completes commands at a shell's prompt
    ],
    extras_require={
        **EXTRAS,
        "test": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "import-linter",
            "types-PyYAML",
            "types-tqdm",
            "scikit-dimension",
        ]
        + [package for packages in EXTRAS.values() for package in packages],
    },
    entry_points={"console_scripts": ["basicsr=nlcl_plugin.cli:main"]},
)
