"""Where the emulators refuse what AWS takes: taken here as AWS does."""

import functools
import threading


def take_parts_without_checksums() -> None:
    """Of an upload whose checksum is the full object's, parts need none of their own: S3 takes them itself (S3 user
    guide, "Checking object integrity", full object checksums). LocalStack refuses such a part.
    """
    from localstack.services.s3 import provider
    from localstack.services.s3.utils import get_s3_checksum_algorithm_from_request

    taken_here = threading.local()

    class Part(provider.S3Part):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self.checksum_algorithm = getattr(taken_here, "algorithm", None) or self.checksum_algorithm

    upload_part = provider.S3Provider.upload_part

    @functools.wraps(upload_part)
    def with_checksum(self, context, request):
        _, bucket = self._get_cross_account_bucket(context, request["Bucket"])
        upload = bucket.multiparts.get(request.get("UploadId"))
        own = get_s3_checksum_algorithm_from_request(request) or context.request.headers.get("x-amz-trailer")
        if not upload or upload.checksum_type != "FULL_OBJECT" or own:
            return upload_part(self, context, request)
        taken_here.algorithm = upload.checksum_algorithm
        try:
            answer = upload_part(self, context, request)
        finally:
            taken_here.algorithm = None
        part = upload.parts[request["PartNumber"]]
        with self._storage_backend.get_multipart(request["Bucket"], upload).open(part) as stored:
            part.checksum_value = stored.checksum
        return answer

    provider.S3Part = Part
    provider.S3Provider.upload_part = with_checksum


def complete_an_upload_once() -> None:
    """Calls that complete the same upload side by side: S3 makes one object of all its parts. LocalStack joins the parts
    for each call, and the call that comes second finds none any more and empties the object.
    """
    from localstack.services.s3 import provider

    guard, locks = threading.Lock(), {}
    complete = provider.S3Provider.complete_multipart_upload

    @functools.wraps(complete)
    def alone(self, context, *arguments, upload_id, **named):
        with guard:
            lock = locks.setdefault(upload_id, threading.Lock())
        with lock:
            # Who comes second is told that the upload is gone, as who comes later.
            answer = complete(self, context, *arguments, upload_id=upload_id, **named)
        with guard:
            locks.pop(upload_id, None)
        return answer

    provider.S3Provider.complete_multipart_upload = alone


def leave_paths_to_apis() -> None:
    """MiniStack is a registry of container images too, and answers its paths whatever host is asked. On AWS a registry has
    hosts of its own, and `/v2` of an API is the API's.
    """
    from ministack import app

    app._is_ecr_registry_path = lambda path: False
