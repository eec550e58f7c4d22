"""Where the emulators take what AWS refuses: refused here as AWS does.

Sources: S3 API reference (`CompletedPart`, `UploadPartCopy`, `CopyObject`);
Lambda developer guide, "Lambda quotas".
"""

import json

# The source of a part may be a range only of what has more bytes.
NO_RANGE_UP_TO = 5 << 20

# Bytes of a function's answer, as JSON.
MOST_OF_AN_ANSWER = 6 << 20


def refuse_in_s3() -> None:
    from localstack.aws import handlers
    from localstack.aws.api.core import CommonServiceException
    from localstack.services.s3.models import s3_stores
    from localstack.services.s3.utils import extract_bucket_key_version_id_from_copy_source

    def bucket(context, name):
        return s3_stores[context.account_id][context.region].buckets.get(name)

    def exists(context, name, key):
        found = bucket(context, name)
        return found.objects.get(key) if found else None

    def copy(context, asked):
        condition = context.request.headers.get("If-None-Match")
        if condition and exists(context, asked["Bucket"], asked["Key"]):
            raise CommonServiceException(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
            )

    def copy_part(context, asked):
        name, key, _ = extract_bucket_key_version_id_from_copy_source(asked["CopySource"])
        source = exists(context, name, key)
        if asked.get("CopySourceRange") and source and source.size <= NO_RANGE_UP_TO:
            raise CommonServiceException(
                "InvalidRequest", "The specified copy source is not supported as a byte-range copy source", 400
            )

    def complete(context, asked):
        found = bucket(context, asked["Bucket"])
        upload = found.multiparts.get(asked["UploadId"]) if found else None
        numbers = [part.get("PartNumber") for part in asked.get("MultipartUpload", {}).get("Parts", [])]
        if not upload or not upload.checksum_algorithm:
            return
        if numbers != list(range(1, len(numbers) + 1)):
            raise CommonServiceException(
                "InvalidPartOrder", "Part numbers must be consecutive and begin with 1", 400
            )

    checks = {"CopyObject": copy, "UploadPartCopy": copy_part, "CompleteMultipartUpload": complete}

    def check(_chain, context, _response) -> None:
        operation = context.operation.name if context.operation else ""
        if operation in checks:
            checks[operation](context, context.service_request or {})

    handlers.serve_custom_service_request_handlers.append(check)


def refuse_large_answers() -> None:
    from ministack.services import lambda_svc

    # The one point that every invocation passes, whoever asked for it.
    dispatch = lambda_svc._execute_function_dispatch

    def limited(*arguments):
        answer = dispatch(*arguments)
        # It has been read already: written again, it has its size on the wire.
        text = json.dumps(answer.get("body"), ensure_ascii=False, separators=(",", ":"), default=str)
        if len(text.encode()) <= MOST_OF_AN_ANSWER:
            return answer
        message = f"Response payload size exceeded maximum allowed payload size ({MOST_OF_AN_ANSWER} bytes)."
        refused = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
        return answer | {"error": True, "function_error": "Unhandled", "body": refused}

    lambda_svc._execute_function_dispatch = limited


def name_throttles() -> None:
    """A call beyond a function's reserved concurrency reaches a state machine under AWS's name, not as `Lambda.Unknown`."""
    from ministack.services import lambda_svc

    throttled = lambda_svc._throttle_response

    def named(*arguments, **options):
        answer = throttled(*arguments, **options)
        answer["body"]["errorType"] = "Lambda.TooManyRequestsException"
        return answer

    lambda_svc._throttle_response = named
