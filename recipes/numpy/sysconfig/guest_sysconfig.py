"""The guest's Python as sysconfig describes it (_PYTHON_SYSCONFIGDATA_NAME names this module): all that meson asks."""

import os

build_time_vars = {
    "EXT_SUFFIX": ".cpython-314-wasm32-wasi.so",
    "INCLUDEPY": os.environ["GUEST_SYSROOT"] + "/include/python3.14",
    "LIBPYTHON": "",  # extensions are not linked to it
    "installed_base": os.environ["GUEST_SYSROOT"],
    "installed_platbase": os.environ["GUEST_SYSROOT"],
    "py_version_short": "3.14",
}
