"""Serve Keystone on a free loopback port: `keystone_server.py CONFIG`.

Its log says where ("Listening at"). It ends when the process that started it ends, however that ended.
"""

import ctypes
import signal
import sys

from gunicorn.app.base import BaseApplication

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Keystone(BaseApplication):
    def __init__(self, config_file: str) -> None:
        self.config_file = config_file
        super().__init__()

    def load_config(self) -> None:
        self.cfg.set("bind", "127.0.0.1:0")
        self.cfg.set("graceful_timeout", 1)

    def load(self):
        # Keystone reads its options from the arguments of whatever process it is in.
        sys.argv = ["keystone", "--config-file", self.config_file]
        from keystone.server.wsgi import initialize_public_application

        return initialize_public_application()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    Keystone(sys.argv[1]).run()
