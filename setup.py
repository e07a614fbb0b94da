"""The one compiled part; everything else about the package is in pyproject.toml."""

from glob import glob

from setuptools import Extension, setup

_ENGINE = "uproxy/transport/native/"

setup(
    ext_modules=[
        Extension(
            "uproxy.transport.native._engine",
            [f"{_ENGINE}_engine.pyx"],
            depends=[*glob(f"{_ENGINE}*.px[di]"), *glob(f"{_ENGINE}*.h")],
            include_dirs=[_ENGINE],
            extra_compile_args=["-O2", "-g1", "-fno-strict-aliasing", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ]
)
