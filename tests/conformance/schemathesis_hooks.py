"""What schemathesis isn't told by the document."""

import schemathesis

# Changes of an image are JSON.
schemathesis.serializer.alias(
    [f"application/openstack-images-{version}-json-patch" for version in ("v2.0", "v2.1")],
    "application/json",
)
