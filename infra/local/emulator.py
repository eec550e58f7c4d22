"""Start one emulator of the local stack: `emulator.py ministack|s3`.

Settings come from the environment, which crates/local/src/runner/emulator.rs
makes. What is done here has no option in the emulators:

- it ends when the process that started it ends, however that ended;
- LocalStack listens on the loopback interface only. Its server passes no
  interface to the listener, so GATEWAY_LISTEN=127.0.0.1:... still opens every
  interface to anonymous requests;
- LocalStack keeps objects in TMPDIR. Its directory is fixed, and /tmp may be
  memory.
"""

import ctypes
import functools
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # the parent ended before the call
        sys.exit(1)


def ministack() -> None:
    from ministack.app import main

    sys.argv = ["ministack"]
    main()


def s3() -> None:
    from localstack.services.s3 import provider
    from twisted.internet import endpoints

    listen = endpoints.TCP4ServerEndpoint
    endpoints.TCP4ServerEndpoint = functools.partial(listen, interface="127.0.0.1")
    provider.DEFAULT_S3_TMP_DIR = os.path.join(os.environ["TMPDIR"], "s3-objects")
    sys.argv = ["localstack"]
    runpy.run_module("localstack.runtime.main", run_name="__main__")


if __name__ == "__main__":
    end_with_parent()
    {"ministack": ministack, "s3": s3}[sys.argv[1]]()
