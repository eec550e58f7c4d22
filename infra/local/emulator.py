"""Start one emulator of the local stack: `emulator.py ministack|s3`.

Settings come from the environment, which crates/local/src/emulator.rs makes.
Two things are done here since neither emulator has an option for them:

- it ends when the process that started it ends, however that ended;
- LocalStack listens on the loopback interface only. Its server passes no
  interface to the listener, so GATEWAY_LISTEN=127.0.0.1:... still opens every
  interface to anonymous requests.
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
    from twisted.internet import endpoints

    listen = endpoints.TCP4ServerEndpoint
    endpoints.TCP4ServerEndpoint = functools.partial(listen, interface="127.0.0.1")
    sys.argv = ["localstack"]
    runpy.run_module("localstack.runtime.main", run_name="__main__")


if __name__ == "__main__":
    end_with_parent()
    {"ministack": ministack, "s3": s3}[sys.argv[1]]()
