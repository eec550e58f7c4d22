//! Requests of imports, and what tasks keep of them.

use super::*;
use crate::regions::Region;
use crate::time::Timestamp;

/// What is known here: a bucket, two regions of this cloud, and two Glances elsewhere, of which one has a name.
struct Operator(SourcePolicy, Regions, GlanceEndpoints);

impl Operator {
    fn new(buckets: &[&str]) -> Self {
        let there = Region {
            name: "eu-west-1".into(),
            endpoint: "https://images.eu.example.com".into(),
            images_bucket: "images-eu".into(),
            images_table: "images".into(),
        };
        let buckets = buckets.iter().map(|bucket| (*bucket).to_owned()).collect();
        Self(
            SourcePolicy { buckets, ..SourcePolicy::default() },
            Regions::new("us-east-1", vec![there]).unwrap(),
            GlanceEndpoints::parse("RegionTwo=https://glance.example.org, https://unnamed.example").unwrap(),
        )
    }

    fn known(&self) -> Known<'_> {
        Known { sources: &self.0, regions: &self.1, glances: &self.2 }
    }
}

fn method(body: &Value) -> Checked<ImportMethod> {
    ImportMethod::parse(body, Operator::new(&["sources"]).known())
}

fn input(input: &Value) -> Checked<ImageImport> {
    ImageImport::parse(input, Operator::new(&["sources"]).known())
}

const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

fn of_glance(region: &str) -> Value {
    json!({"method": {"name": "glance-download", "glance_region": region, "glance_image_id": ID}})
}

#[test]
fn a_request_names_a_method_and_what_that_needs() {
    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}, "all_stores": false});
    let source = SourceLocation::S3 { bucket: "sources".into(), key: "a".into() };
    assert_eq!(method(&web).unwrap(), ImportMethod::WebDownload(source.clone()));
    assert_eq!(method(&ImageImport::direct()).unwrap(), ImportMethod::GlanceDirect);
    for (body, parameter) in [
        (json!([]), "The request body"),
        (json!({}), "method"),
        (json!({"method": "web-download"}), "method"),
        (json!({"method": {}}), "method.name"),
        (json!({"method": {"name": "copy-image"}}), "method.name"),
        (json!({"method": {"name": "web-download"}}), "method.uri"),
        (json!({"method": {"name": "web-download", "url": "s3://sources/a"}}), "method.uri"),
        (json!({"method": {"name": "web-download", "uri": 5}}), "method.uri"),
        (json!({"method": {"name": "web-download", "uri": "file:///etc/passwd"}}), "method.uri"),
        (json!({"method": {"name": "web-download", "uri": "http://169.254.169.254/"}}), "method.uri"),
        (json!({"method": {"name": "web-download", "uri": "s3://others/a"}}), "method.uri"),
    ] {
        assert_eq!(method(&body).unwrap_err().parameter, parameter, "{body}");
    }
}

#[test]
fn another_image_is_named_by_a_region_that_is_known() {
    let image: ImageId = ID.parse().unwrap();
    for region in ["eu-west-1", "us-east-1"] {
        let source = CloneSource::Region { region: region.into(), image };
        assert_eq!(method(&of_glance(region)).unwrap(), ImportMethod::GlanceDownload(source));
    }
    let there = CloneSource::Glance(GlanceImage::new("https://glance.example.org", image));
    for region in ["RegionTwo", "REGIONTWO"] {
        assert_eq!(method(&of_glance(region)).unwrap(), ImportMethod::GlanceDownload(there.clone()));
    }
    let mut public = of_glance("RegionTwo");
    public["method"]["glance_service_interface"] = json!("public");
    assert_eq!(method(&public).unwrap(), ImportMethod::GlanceDownload(there));
    for (key, value, told, taken) in [
        ("glance_region", json!(null), "is required: one of us-east-1, eu-west-1, RegionTwo", false),
        ("glance_region", json!("mars"), "one of us-east-1, eu-west-1, RegionTwo, not \"mars\"", true),
        ("glance_region", json!("https://unnamed.example"), "must be one of", true),
        ("glance_image_id", json!(null), "is required", false),
        ("glance_image_id", json!("cirros"), "image id does not look like a UUID: \"cirros\"", false),
        ("glance_image_id", json!(7), "string", false),
        ("glance_service_interface", json!("internal"), "must be public, not \"internal\"", true),
    ] {
        let mut body = of_glance("RegionTwo");
        match value.is_null() {
            true => drop(body["method"].as_object_mut().unwrap().remove(key)),
            false => body["method"][key] = value,
        }
        let refused = match (method(&body), taken) {
            (Ok(ImportMethod::UnknownGlance(why)), true) | (Err(why), false) => why,
            (other, _) => panic!("{body}: {other:?}"),
        };
        let task = json!({"image_id": ID, "import_req": body});
        assert_eq!(input(&task).unwrap_err().message, refused.message, "{body}");
        assert_eq!(refused.parameter, format!("method.{key}"), "{body}");
        assert!(refused.message.contains(told), "{body}: {}", refused.message);
    }
}

#[test]
fn a_record_takes_over_what_says_how_the_guest_runs() {
    let now = Timestamp::from_epoch(0);
    let image = Image::queued(ImageId(Uuid::from_u128(7)), "demo", now);
    let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
    let names = ["hw_disk_bus", "trait:A", "os_distro", "os_version", "os_glance_x", "myhw_x"];
    let source = Image { properties: named(&names), ..image.clone() };
    let taken = taken_over(&source);
    assert_eq!(taken, named(&["hw_disk_bus", "os_distro", "trait:A"]));
    check_taken_over(&image, &taken).unwrap();
    let names: Vec<String> = (0..126).map(|n| format!("p{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let full = Image { properties: named(&names), ..image };
    let told = check_taken_over(&full, &taken).unwrap_err().to_string();
    assert!(told.contains("129 extra properties"), "{told}");
}

#[test]
fn bytes_come_into_the_store_that_is_here() {
    for stores in [json!({}), json!({"stores": []}), json!({"stores": ["here"]})] {
        check_stores(&stores, "here").unwrap();
    }
    for stores in [json!("here"), json!(["there"]), json!(["here", "there"]), json!([1]), json!(null)] {
        let refused = check_stores(&json!({"stores": stores}), "here").unwrap_err();
        assert_eq!(refused.parameter, "stores", "{stores}");
    }
}

#[test]
fn misspelt_keys_are_hinted_at_or_remarked_on() {
    for (body, hint) in [
        (json!({"methd": {}}), "; \"methd\" is not known, did you mean method?"),
        (json!({"method": {"names": "web-download"}}), "\"names\" is not known, did you mean name?"),
        (json!({"method": {"name": "web-download", "url": "x"}}), "\"url\" is not known, did you mean uri?"),
    ] {
        let told = method(&body).unwrap_err().message;
        assert!(told.contains(hint), "{body}: {told}");
    }
    let taken = json!({"method": {"name": "glance-direct", "Name": "x"}, "all_store": false, "note": 1});
    assert!(method(&taken).is_ok());
    assert_eq!(
        ImportMethod::remarks(&taken),
        [
            "all_store is not known and was ignored; did you mean all_stores?",
            "method.Name is not known and was ignored; did you mean name?",
        ]
    );
    assert_eq!(ImportMethod::remarks(&ImageImport::direct()), [""; 0]);
    for other in [json!(null), json!([1]), json!({"method": 5})] {
        assert_eq!(ImportMethod::remarks(&other), [""; 0], "{other}");
    }
}

#[test]
fn a_tasks_input_is_read_as_it_was_written() {
    let (image, staged) = (ImageId(Uuid::from_u128(7)), StagedBytes(Uuid::from_u128(8)));
    let task = ImageImport::input(image, &ImageImport::direct(), Some(staged));
    let read = input(&task).unwrap();
    assert_eq!(read, ImageImport { image, from: ImportedFrom::Staged(staged) });
    let mut record = Image::queued(image, "demo", Timestamp::from_epoch(0));
    assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "container_format");
    record.container_format = Some("bare".into());
    assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "disk_format");
    record.disk_format = Some("qcow2".into());
    let import = read.of_record(&record, "work").unwrap();
    let key = format!("staging/{image}/{}", staged.0);
    assert_eq!(import.source, SourceLocation::Staged { bucket: "work".into(), key });
    assert_eq!((import.declared_format, import.image.disk_format), (Some("qcow2"), None));
    record.container_format = Some("ova".into());
    assert_eq!(read.of_record(&record, "work").unwrap().declared_format, Some("ova"));

    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
    let task = ImageImport::input(image, &web, None);
    assert_eq!(input(&task).unwrap().staged(), None);
    let narrowed = ImageImport::parse(&task, Operator::new(&[]).known()).unwrap_err();
    assert_eq!((narrowed.parameter.as_str(), ImageImport::is_of_image(&task)), ("method.uri", false));

    let task = ImageImport::input(image, &of_glance("eu-west-1"), None);
    let source = CloneSource::Region { region: "eu-west-1".into(), image: ID.parse().unwrap() };
    let read = input(&task).unwrap();
    assert_eq!((&read.from, read.staged()), (&ImportedFrom::Image(source), None));
    assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "import_req");
    assert!(ImageImport::is_of_image(&task) && !ImageImport::is_of_image(&json!({})));
}
