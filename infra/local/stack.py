"""What the local stack asks of AWS's control plane, by boto3.

    stack.py finish STACK BUCKET...  after `sam deploy`: does what MiniStack leaves
                                     out of the template, makes the further buckets,
                                     prints the stack's resources as JSON
    stack.py logs STACK DIR REGION   writes each function's log to
                                     DIR/<logical id>-REGION.log

Region, credentials and endpoints (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3) come
from the environment.
"""

import json
import os
import pathlib
import sys

import boto3
from botocore.exceptions import ClientError


def resources(stack):
    pages = boto3.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    return {
        r["LogicalResourceId"]: {"type": r["ResourceType"], "id": r["PhysicalResourceId"]}
        for page in pages
        for r in page["StackResourceSummaries"]
    }


def set_ttl(stack, found):
    """MiniStack ignores TimeToLiveSpecification: take it from the processed template."""
    template = boto3.client("cloudformation").get_template(StackName=stack, TemplateStage="Processed")["TemplateBody"]
    if isinstance(template, str):
        template = json.loads(template)
    dynamodb = boto3.client("dynamodb")
    for logical, resource in template["Resources"].items():
        ttl = resource.get("Properties", {}).get("TimeToLiveSpecification")
        if resource["Type"] == "AWS::DynamoDB::Table" and ttl:
            spec = {"AttributeName": ttl["AttributeName"], "Enabled": str(ttl["Enabled"]).lower() == "true"}
            dynamodb.update_time_to_live(TableName=found[logical]["id"], TimeToLiveSpecification=spec)


def make_buckets(names):
    """CloudFormation makes buckets in MiniStack's own S3; functions use LocalStack's."""
    region = os.environ["AWS_REGION"]
    s3 = boto3.client("s3")
    for name in names:
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            s3.create_bucket(Bucket=name, **where)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise


def finish(stack, *extra_buckets):
    found = resources(stack)
    set_ttl(stack, found)
    buckets = [r["id"] for r in found.values() if r["type"] == "AWS::S3::Bucket"]
    make_buckets(buckets + list(extra_buckets))
    json.dump(found, sys.stdout)


def logs(stack, directory, region):
    client = boto3.client("logs")
    for logical, resource in resources(stack).items():
        if resource["type"] != "AWS::Lambda::Function":
            continue
        pages = client.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{resource['id']}")
        try:
            lines = [event["message"].rstrip("\n") for page in pages for event in page["events"]]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":  # never called, no log group
                raise
            continue
        pathlib.Path(directory, f"{logical}-{region}.log").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    {"finish": finish, "logs": logs}[sys.argv[1]](*sys.argv[2:])
