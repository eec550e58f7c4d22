"""Waits by openstacksdk, first for a task and then for an image: a line of JSON each time it begins, and when it ends.

    waits.py KEYSTONE PROJECT USER PASSWORD
"""

import json
import sys

import openstack

INTERVAL, LONGEST = 0.2, 120


def tell(thing):
    print(json.dumps({"id": thing.id, "status": thing.status, "token": cloud.session.get_token()}), flush=True)


keystone, project, user, password = sys.argv[1:]
cloud = openstack.connect(
    auth_url=keystone,
    project_id=project,
    username=user,
    password=password,
    user_domain_id="default",
    region_name="RegionOne",
)
task = cloud.image.create_task(type="import", input={"import_from": "https://example.com/a.qcow2"})
tell(task)
tell(cloud.image.wait_for_task(task, interval=INTERVAL, wait=LONGEST))
image = cloud.image.create_image(name="waited for", container_format="bare", disk_format="raw")
tell(image)
tell(cloud.image.wait_for_status(image, "active", interval=INTERVAL, wait=LONGEST))
