"""Start one emulator of the local stack: `emulator.py ministack|s3`.

Settings come from the environment, which crates/local/src/runner/emulator.rs
makes. What is done here has no option in the emulators:

- it ends when the process that started it ends, however that ended;
- LocalStack listens on the loopback interface only. Its server passes no
  interface to the listener, so GATEWAY_LISTEN=127.0.0.1:... still opens every
  interface to anonymous requests;
- LocalStack keeps objects in TMPDIR. Its directory is fixed, and /tmp may be
  memory;
- LocalStack answers in any region for a bucket of any. S3 answers 301
  (PermanentRedirect) where a request isn't signed for the bucket's own;
- S3 writes down each request with what was sent and received (REQUESTS), and
  calls can be held, or made to fail in any way of S3's, also inside a 200
  (DISTURBANCES), so that tests can count bytes and be in the middle of a copy.
  crates/local/src/s3.rs is the other side;
- what AWS refuses and the emulators take is refused (strict.py), and what AWS
  takes and they refuse is taken (lenient.py).
"""

import collections
import contextlib
import ctypes
import functools
import json
import os
import re
import runpy
import signal
import sys
import threading
import time

import lenient
import strict

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # the parent ended before the call
        sys.exit(1)


def ministack() -> None:
    from ministack.app import main

    strict.refuse_large_answers()
    strict.name_throttles()
    lenient.leave_paths_to_apis()
    sys.argv = ["ministack"]
    main()


def watch_s3(requests: str, disturbances: str) -> None:
    from localstack.aws import handlers
    from localstack.aws.api.core import CommonServiceException

    log = open(requests, "a", buffering=1)
    lock = threading.Lock()
    turns = collections.Counter()

    def asked(context) -> dict:
        parameters = context.service_request or {}
        # A link is signed in its query; by the time it comes here it has a header too.
        is_link = "X-Amz-Signature" in context.request.args
        signature = "" if is_link else context.request.headers.get("Authorization", "")
        signed_by = re.search(r"Credential=([^/,]*)", signature)
        return {
            "operation": context.operation.name if context.operation else "",
            "bucket": parameters.get("Bucket") or "",
            "key": parameters.get("Key") or "",
            "copy_source": parameters.get("CopySource") or "",
            "access_key": signed_by[1] if signed_by else "",
        }

    def write(record: dict) -> None:
        with lock:
            log.write(json.dumps(record) + "\n")

    def answered(_chain, context, response) -> None:
        head = context.request.method == "HEAD"
        sent = int(context.request.headers.get("Content-Length") or 0)
        received = 0 if head else int(response.headers.get("Content-Length") or 0)
        write(asked(context) | {"status": response.status_code, "sent": sent, "received": received})

    def wanted(record: dict) -> list[tuple[str, dict]]:
        """What tests want done to a call, by the file that says so."""
        found = []
        for entry in os.scandir(disturbances):
            if entry.name.endswith(".draft"):
                continue
            # Gone meanwhile: it is over.
            with contextlib.suppress(FileNotFoundError), open(entry.path) as file:
                found.append((entry.path, json.load(file)))
        about = record["copy_source"] or f"{record['bucket']}/{record['key']}"
        return [
            (path, one)
            for path, one in found
            if record["operation"] in one["operations"] and re.fullmatch(one["about"], about)
        ]

    def disturb(_chain, context, _response) -> None:
        record = asked(context)
        for path, one in wanted(record):
            with lock:
                turns[path] += 1
                turn = turns[path] - one["pass"]
            if turn <= 0:
                continue
            if not one["code"]:
                write(record | {"status": 0, "sent": 0, "received": 0})
                while os.path.exists(path):
                    time.sleep(0.02)
            elif turn <= one["times"]:
                raise CommonServiceException(one["code"], "made for a test", status_code=one["status"])

    handlers.run_custom_response_handlers.append(answered)
    handlers.serve_custom_service_request_handlers.append(disturb)


def keep_regions_apart() -> None:
    from localstack.aws import handlers
    from localstack.aws.api.core import CommonServiceException
    from localstack.services.s3.models import s3_stores

    # Those that S3 answers anywhere, or that make the bucket.
    anywhere = {"CreateBucket", "HeadBucket", "GetBucketLocation"}

    def check_region(_chain, context, _response) -> None:
        if not context.operation or context.operation.name in anywhere:
            return
        buckets = s3_stores[context.account_id][context.region].buckets
        bucket = buckets.get((context.service_request or {}).get("Bucket"))
        if bucket and bucket.bucket_region != context.region:
            raise CommonServiceException(
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified endpoint.",
                status_code=301,
            )

    handlers.serve_custom_service_request_handlers.append(check_region)


def s3() -> None:
    from localstack.services.s3 import provider
    from twisted.internet import endpoints

    listen = endpoints.TCP4ServerEndpoint
    endpoints.TCP4ServerEndpoint = functools.partial(listen, interface="127.0.0.1")
    provider.DEFAULT_S3_TMP_DIR = os.path.join(os.environ["TMPDIR"], "s3-objects")
    keep_regions_apart()
    strict.refuse_in_s3()
    lenient.take_parts_without_checksums()
    lenient.complete_an_upload_once()
    watch_s3(os.environ["REQUESTS"], os.environ["DISTURBANCES"])
    sys.argv = ["localstack"]
    runpy.run_module("localstack.runtime.main", run_name="__main__")


if __name__ == "__main__":
    end_with_parent()
    {"ministack": ministack, "s3": s3}[sys.argv[1]]()
