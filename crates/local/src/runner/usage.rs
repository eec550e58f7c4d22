//! What a person can do with the running stack: lines that work when pasted.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use image_tasks_local::{Coordinates, Deployment, Grant};

use super::layout::Layout;

/// Who the printed lines are for.
const USER: &str = "demo";

/// Lines for a shell after which stock clients need no flags.
pub(super) fn openrc(keystone: &str, region: &str) -> Result<String> {
    let grant = Grant::of(USER).context("the user of the examples is known to Keystone")?;
    // What a shell has said to image-tasks: clients would take it for a part of this login.
    let mut text = "unset OS_TOKEN OS_CLOUD\n".to_owned();
    for (name, value) in grant.environment(keystone, region) {
        let _infallible = writeln!(text, "export {name}={value}");
    }
    Ok(text)
}

pub(super) fn text(coordinates: &Coordinates, layout: &Layout, path: &Path) -> String {
    let mut text = String::new();
    for deployment in &coordinates.deployments {
        of_region(&mut text, deployment);
    }
    of_clients(&mut text, coordinates, layout);
    let _infallible = write!(
        text,
        r"
Emulators: AWS_ENDPOINT_URL={} AWS_ENDPOINT_URL_S3={} (any credentials)
Objects that imports may read: s3://{}/
Where exports may go: s3://{exports}/ (curl -O {s3}/{exports}/KEY fetches one)
Coordinates for tests: {}={}
Logs: {}

Ctrl-C stops everything.
",
        coordinates.aws_endpoint,
        coordinates.s3_endpoint,
        coordinates.source_bucket,
        image_tasks_local::COORDINATES_VARIABLE,
        path.display(),
        coordinates.logs.display(),
        exports = coordinates.export_bucket,
        s3 = coordinates.s3_endpoint,
    );
    text
}

fn of_region(text: &mut String, deployment: &Deployment) {
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
"#,
        region = deployment.region,
    );
}

fn of_clients(text: &mut String, coordinates: &Coordinates, layout: &Layout) {
    let users: Vec<_> = Grant::firsts().map(|grant| format!("{} ({})", grant.user, grant.project)).collect();
    let _infallible = write!(
        text,
        "\nKeystone: {keystone}/v3, users (and projects) {users}; a password is its user's name.\n\n  \
         pip install python-glanceclient python-openstackclient\n",
        keystone = coordinates.keystone_endpoint,
        users = users.join(", "),
    );
    if let Some(Ok(lines)) =
        coordinates.deployments.first().map(|one| openrc(&coordinates.keystone_endpoint, &one.region))
    {
        for line in lines.lines() {
            let _infallible = writeln!(text, "  {line}");
        }
    }
    let _infallible = write!(
        text,
        "  glance task-list\n  openstack image list\n\nThe same lines: . {}\nEvery user is a cloud of its own in \
         {clouds}, for a shell without the lines above:\n\n  OS_CLIENT_CONFIG_FILE={clouds} openstack --os-cloud bob image list\n",
        layout.openrc().display(),
        clouds = coordinates.clouds.display(),
    );
}
