"""Builds the examples and runs their tests; see run.sh."""

import sys

import harness

if __name__ == "__main__":
    harness.prefix = sys.argv[1]
    import test_build  # noqa: F401 - each module registers its tests, in this order
    import test_small  # noqa: F401
    import test_statsd  # noqa: F401
    import test_local  # noqa: F401
    import test_terminal  # noqa: F401
    import test_http  # noqa: F401
    import test_http_safety  # noqa: F401
    import test_http_life  # noqa: F401
    import test_http_stall  # noqa: F401
    import test_valgrind  # noqa: F401

    sys.exit(harness.run(sys.argv[2]))
