"""Parameters that make deployments in several regions know each other.

    regions.py [--stack-name NAME] REGION[@PROFILE]... > regions.yaml
    sam deploy --region REGION --parameter-overrides file://regions.yaml   # in each

Reads the stack's outputs in each region, with the credentials of the profile
where one is named, and prints `Regions`, `CloneSourceBuckets` and
`CloneSourceTableArns` of template.yaml: as JSON, which is YAML too, as sam wants
it. They are the same for every region, so that each may clone from each other.
"""

import argparse
import json
import sys

import boto3


def look_up(place, stack):
    region, _, profile = place.partition("@")
    session = boto3.Session(region_name=region, profile_name=profile or None)
    found = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found["Outputs"]}
    parameters = {p["ParameterKey"]: p["ParameterValue"] for p in found.get("Parameters", [])}
    # arn:PARTITION:cloudformation:REGION:ACCOUNT:stack/...
    _, partition, _, _, account, _ = found["StackId"].split(":", 5)
    return {
        "region": region,
        "endpoint": parameters.get("PublicEndpoint") or outputs["ApiEndpoint"],
        "bucket": outputs["ImagesBucketName"],
        "table": outputs["ImagesTableName"],
        "table_arn": f"arn:{partition}:dynamodb:{region}:{account}:table/{outputs['ImagesTableName']}",
        "account": account,
    }


def parameters(places):
    # A table of another account is reached by its ARN alone; a name is shorter, and an environment holds 4 KB.
    table = "table" if len({place["account"] for place in places}) == 1 else "table_arn"
    regions = [
        {
            "region": place["region"],
            "endpoint": place["endpoint"],
            "images_bucket": place["bucket"],
            "images_table": place[table],
        }
        for place in places
    ]
    return {
        "Regions": json.dumps(regions, separators=(",", ":")),
        "CloneSourceBuckets": ",".join(place["bucket"] for place in places),
        "CloneSourceTableArns": ",".join(place["table_arn"] for place in places),
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Prints parameters that make deployments know each other.")
    arguments.add_argument("--stack-name", default="image-tasks")
    arguments.add_argument("regions", nargs="+", metavar="REGION[@PROFILE]")
    given = arguments.parse_args()
    json.dump(parameters([look_up(place, given.stack_name) for place in given.regions]), sys.stdout, indent=2)
    print()
