"""The compiler that meson sees: zig's clang, but for shared objects.

Those go to wasm-ld alone: C and C++ libraries are in the component already, where componentize-py finds what stays
undefined here. Usage: cc.py ZIG cc|c++ ARGUMENT...
"""

import os
import sys

zig, tool, *arguments = sys.argv[1:]
if "-shared" in arguments:
    output = arguments[arguments.index("-o") + 1]
    inputs = [argument for argument in arguments if argument.endswith((".o", ".a")) and argument != output]
    tool = "wasm-ld"
    arguments = ["-shared", "--experimental-pic", "--unresolved-symbols=import-dynamic", "--strip-debug", "-o", output]
    arguments += inputs
os.execv(zig, [zig, tool, *arguments])
