"""Every example compiles as its first comment says, with gcc and clang, and no warning."""

import os
import re
import subprocess

import harness
from harness import BUILD, EXAMPLES, expect, expect_equal, test

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-g", "-O1"]


def build_line(source):
    """The command in the example's first comment."""
    with open(os.path.join(EXAMPLES, source), encoding="utf-8") as file:
        found = re.search(r"^ \* Build:  cc (.+) -o (\w+)$", file.read(), re.MULTILINE)
    expect(found, source, "does not say how it is built")
    expect_equal(found.group(2) + ".c", source, "what the comment builds")
    return found.group(1)


def build(compiler, source, *more, name=None):
    folder = os.path.join(BUILD, compiler)
    os.makedirs(folder, exist_ok=True)
    line = " ".join([compiler, *WARNINGS, *more, build_line(source), "-o",
                     os.path.join(folder, name or source[:-2])])
    environment = dict(os.environ, PKG_CONFIG_PATH=os.path.join(harness.prefix, "lib", "pkgconfig"))
    done = subprocess.run(["sh", "-c", line], cwd=EXAMPLES, env=environment, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, line, "\n", done.stdout, done.stderr)


def register(compiler, source):
    def build_example():
        build(compiler, source)

    build_example.__name__ = f"build_{source[:-2]}_with_{compiler}"
    test(build_example)


for example in sorted(os.listdir(EXAMPLES)):
    if example.endswith(".c"):
        register("gcc", example)
        register("clang", example)


@test
def build_http_server_for_systems_without_openat2():
    build("gcc", "http_server.c", "-DHTTP_SERVER_NO_OPENAT2", name="http_server_walking")


@test
def build_all_examples_that_the_readme_names():
    with open(os.path.join(EXAMPLES, "README.md"), encoding="utf-8") as file:
        named = set(re.findall(r"\((\w+\.c)\)", file.read()))
    there = {name for name in os.listdir(EXAMPLES) if name.endswith(".c")}
    expect_equal(named, there, "examples in README.md")
