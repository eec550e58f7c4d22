//! What a person can do with the running stack: lines that work when pasted.

use std::fmt::Write;
use std::path::Path;

use image_tasks_local::Coordinates;

pub(super) fn text(coordinates: &Coordinates, path: &Path) -> String {
    let mut text = String::new();
    for deployment in &coordinates.deployments {
        let endpoint = &deployment.endpoint;
        let _infallible = write!(
            text,
            r#"
Image Tasks in {region}: {endpoint}
Identity is for development: the token says who you are, user:project[:role].

  curl -s {endpoint}/v2/tasks -H 'X-Auth-Token: demo:demo' -H 'Content-Type: application/json' \
    -d '{{"type":"import","input":{{"import_from":"https://download.cirros-cloud.net/0.6.2/cirros-0.6.2-x86_64-disk.img","image_properties":{{"name":"cirros"}}}}}}'
  curl -s {endpoint}/v2/tasks -H 'X-Auth-Token: demo:demo'
  curl -s {endpoint}/v2/images -H 'X-Auth-Token: demo:demo'

  pip install python-glanceclient python-openstackclient
  glance --os-image-url {endpoint} --os-auth-token demo:demo task-list
  openstack --os-auth-type admin_token --os-endpoint {endpoint}/v2 --os-token demo:demo image task list
"#,
            region = deployment.region,
        );
    }
    let _infallible = write!(
        text,
        r"
Emulators: AWS_ENDPOINT_URL={} AWS_ENDPOINT_URL_S3={} (any credentials)
Objects that imports may read: s3://{}/
Where exports may go: s3://{}/
Coordinates for tests: {}={}
Logs: {}

Ctrl-C stops everything.
",
        coordinates.aws_endpoint,
        coordinates.s3_endpoint,
        coordinates.source_bucket,
        coordinates.export_bucket,
        image_tasks_local::COORDINATES_VARIABLE,
        path.display(),
        coordinates.logs.display(),
    );
    text
}
