//! Sources that give other bytes to the transfer than to the look before it: no image that harms its host gets active.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use disk_image::drive::{ReadAt, drive, walk};
use disk_image::{Format, Layout, Limits, Regions};
use disk_image_fixtures::{Sparse, nested};
use image_tasks_domain::{FailureCode, TaskStatus};
use image_tasks_flows::bounds::Cut;
use serde_json::{Value, json};

use crate::disks::qcow2;
use crate::faults::Hold;
use crate::glance;
use crate::lifecycle::phase;
use crate::sources::{Asked, Lie, Script};
use crate::world::{CUT, World, pattern, ticking};

/// How a server lies: what it says of its version, and when it gives the other bytes.
struct Mood {
    name: &'static str,
    etag: &'static str,
    last_modified: Option<&'static str>,
    hides_etag: bool,
    pace: Duration,
    when: fn(&Asked) -> bool,
}

const fn mood(name: &'static str, when: fn(&Asked) -> bool) -> Mood {
    Mood { name, etag: "\"v1\"", last_modified: None, hides_etag: false, pace: Duration::ZERO, when }
}

const TIME: &str = "Tue, 01 Jul 2025 10:00:00 GMT";
/// A part, or a file, as opposed to a header or a table.
const LONG: usize = 64 << 10;

const MOODS: [Mood; 16] = [
    mood("same ETag", |asked| asked.stores),
    Mood { etag: "", ..mood("no validator", |asked| asked.stores) },
    Mood { etag: "W/\"v1\"", ..mood("weak ETag", |asked| asked.stores) },
    Mood { etag: "", last_modified: Some(TIME), ..mood("Last-Modified only", |asked| asked.stores) },
    Mood { hides_etag: true, ..mood("the ETag goes with the lie", |asked| asked.stores) },
    mood("honest at the first read of a range", |asked| asked.again || asked.range.len() > LONG),
    mood("lies at the start only", |asked| asked.stores && asked.range.start == 0),
    mood("lies behind the start only", |asked| asked.stores && asked.range.start > 0),
    mood("lies at the end only", |asked| asked.stores && asked.last),
    mood("lies after three reads", |asked| asked.number >= 3),
    mood("lies from the second part on", |asked| asked.number > 0 && asked.stores),
    mood("lies at every other read", |asked| asked.number % 2 == 1),
    mood("lies at two reads of three", |asked| asked.stores && asked.number % 3 != 0),
    Mood {
        pace: Duration::from_millis(1),
        ..mood("lies after a time", |asked| asked.elapsed >= Duration::from_millis(150))
    },
    mood("lies where it is read whole", |asked| asked.whole),
    mood("lies at long reads", |asked| asked.range.len() > LONG),
];

/// The way that bytes come in.
struct Way {
    name: &'static str,
    input: Value,
    ranges: bool,
    from_glance: bool,
    clean: Vec<u8>,
    evil: Vec<u8>,
}

fn bytes(file: &Sparse) -> Vec<u8> {
    file.read(disk_image::ByteRange { start: 0, end: file.len() })
}

/// As many bytes more as one is shorter than the other.
fn padded(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(bytes.len() <= len);
    bytes.resize(len, 0);
    bytes
}

/// Two gzip streams, with comments so that both have as many bytes.
fn packed(two: [&[u8]; 2]) -> [Vec<u8>; 2] {
    let pack = |bytes: &[u8], comment: usize| {
        let builder = flate2::GzBuilder::new().comment(vec![b'x'; comment]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let most = two.iter().map(|bytes| pack(bytes, 1).len()).max().unwrap();
    two.map(|bytes| pack(bytes, most + 1 - pack(bytes, 1).len()))
}

fn ways() -> Vec<Way> {
    const DISK: usize = 96 << 10;
    let found = |guests: Vec<nested::Guest>, name| {
        let guest = guests.into_iter().find(|guest| guest.name == name).unwrap();
        guest.disk[..DISK].to_vec()
    };
    let ordinary = found(nested::ordinary(), "noise");
    // As hard to compress.
    let header = [&found(nested::headers(), "qcow2-backing-file")[..4096], &ordinary[4096..]].concat();
    let inside =
        |disk: &[u8], name| nested::disks(disk).into_iter().find(|image| image.name == name).unwrap().file;
    let clean = bytes(&inside(&ordinary, "qcow2"));
    // It names a file of the host, and so does the disk that it holds.
    let secret = b"/etc/shadow";
    let evil = inside(&header, "qcow2").be64(8, 512).be32(16, 11).with(512, secret);
    let evil = bytes(&evil);
    let vmdk = bytes(&inside(&ordinary, "vmdk-sparse"));
    let (noise, len) = (pattern(evil.len()), vmdk.len().max(evil.len()));
    let [packed, evil_packed] = packed([&clean, &evil]);
    let way = |name, input, clean: &[u8], evil: &[u8]| Way {
        name,
        input,
        ranges: true,
        from_glance: false,
        clean: clean.to_vec(),
        evil: evil.to_vec(),
    };
    let to =
        |from: &str, to: &str| json!({"import_from_format": from, "image_properties": {"disk_format": to}});
    vec![
        way("as it is", json!({}), &clean, &evil),
        way("declared raw", json!({"import_from_format": "raw"}), &noise, &evil),
        way("to raw", to("qcow2", "raw"), &clean, &evil),
        way("to qcow2", to("vmdk", "qcow2"), &padded(vmdk, len), &padded(evil.clone(), len)),
        Way { ranges: false, ..way("spooled", json!({}), &clean, &evil) },
        way("unpacked", json!({}), &packed, &evil_packed),
        Way { from_glance: true, ..way("Glance", json!({}), &clean, &evil) },
        way("bucket", json!({"import_from": "s3://theirs/disk"}), &clean, &evil),
    ]
}

/// How much one call makes, and when hashes are made.
const SIZES: [(&str, Cut, u64); 3] = [
    (
        "one call",
        Cut { single_below: u64::MAX, part: 100_000, stage_part: 100_000, ..crate::world::CUT },
        u64::MAX,
    ),
    ("parts", Cut { single_below: 0, part: 70_000, stage_part: 100_000, ..crate::world::CUT }, u64::MAX),
    (
        "parts, hashed later",
        Cut { single_below: 0, part: 100_000, stage_part: 100_000, ..crate::world::CUT },
        0,
    ),
];

impl Way {
    async fn world(&self, script: Script, (_, cut, hash_before_active): (&str, Cut, u64)) -> World {
        let script = Script { ranges: self.ranges, ..script };
        let mut world = if self.from_glance {
            // A record that says no hashes: nothing but a look at the bytes can tell.
            let world = glance::world(script, |record| {
                record["disk_format"] = json!("qcow2");
                (record["checksum"], record["os_hash_value"]) = (Value::Null, Value::Null);
            });
            world.await
        } else {
            let world = World::new(Script::of(Vec::new()), self.input.clone(), CUT).await;
            let location = world.task().await.input["import_from"].as_str().unwrap().to_owned();
            *world.sources.scripts.lock().unwrap() = [(location, Arc::new(script))].into();
            world
        };
        world.policy.sources.buckets.insert("theirs".to_owned());
        (world.policy.cut, world.policy.hash_before_active) = (cut, hash_before_active);
        world
    }

    /// How many reads look at the source before anything of it is stored.
    async fn looks(&self) -> u64 {
        let world = self.world(Script::of(self.clean.clone()), SIZES[1]).await;
        ticking(phase(&world, json!({"phase": "plan"}))).await.unwrap();
        world.script().reads.load(Ordering::SeqCst)
    }

    fn script(&self, mood: &Mood, looks: u64) -> Script {
        let bytes = self.evil.clone().into();
        Script {
            etag: mood.etag.into(),
            // A stream is read once: so that it's asked for again, it breaks off.
            breaks: AtomicU64::new(u64::from(!self.ranges)),
            last_modified: mood.last_modified.map(str::to_owned),
            pace: mood.pace,
            lie: Some(Lie { bytes, when: mood.when, looks, hides_etag: mood.hides_etag }),
            ..Script::of(self.clean.clone())
        }
    }
}

/// What is stored is of that format and no other, whole, and names no other file.
fn assert_safe(mut file: &[u8], format: &str, context: &str) {
    let format = Format::from_name(format).unwrap();
    let mut regions = Regions::new(file.size());
    drive(&mut file, &mut regions, |regions| disk_image::judge(regions, format))
        .unwrap_or_else(|e| panic!("{context}: active, and {e}"));
    let limits = Limits { max_virtual_size: 1 << 40 };
    let layout = drive(&mut file, &mut regions, |regions| Layout::open(regions, format, &limits))
        .unwrap_or_else(|e| panic!("{context}: active, and {e}"));
    let whole = walk(&mut file, &layout, |_| Ok(()));
    whole.unwrap_or_else(|e| panic!("{context}: active, and {e}"));
    let is_qcow2 = file.starts_with(b"QFI\xfb");
    assert_eq!(is_qcow2, format == Format::Qcow2, "{context}: active, and begins like another format");
    assert!(!is_qcow2 || file[8..16] == [0; 8], "{context}: active, and names a backing file");
}

/// How the task has ended; none where its image is active, which then is safe.
async fn ended(world: &World, context: &str) -> Option<FailureCode> {
    let task = world.task().await;
    let image = world.image().await;
    let stored = match &image {
        Some(image) => {
            let key = image.id.object_key(world.id);
            let stored = world.objects.bytes("images", &key).unwrap_or_else(|| panic!("{context}: {task:?}"));
            assert_safe(&stored, image.disk_format.as_deref().unwrap(), context);
            stored
        }
        None => bytes::Bytes::new(),
    };
    if world.check_ended(&stored, context).await == TaskStatus::Success {
        return None;
    }
    let code = FailureCode::from_name(task.message.split(": ").next().unwrap()).unwrap();
    use FailureCode::*;
    let of_the_source = [
        SourceChanged,
        BackingFile,
        Polyglot,
        FormatMismatch,
        UnknownFormat,
        BadHeader,
        BadTable,
        OutOfBounds,
        UnsupportedFeature,
        Corrupt,
        BadData,
    ];
    assert!(of_the_source.contains(&code), "{context}: {}", task.message);
    Some(code)
}

#[tokio::test(start_paused = true)]
async fn no_lie_becomes_an_active_image_that_harms() {
    let mut combinations = BTreeSet::new();
    let mut told = BTreeMap::<_, BTreeMap<_, u32>>::new();
    let mut refused = BTreeMap::<_, u32>::new();
    for way in ways() {
        let looks = way.looks().await;
        for size in SIZES {
            let world = way.world(Script::of(way.clean.clone()), size).await;
            world.run().await;
            let context = format!("{}, {}, honest", way.name, size.0);
            assert_eq!(ended(&world, &context).await, None, "{context}: {}", world.task().await.message);
        }
        for mood in &MOODS {
            for size in SIZES {
                let context = format!("{}, {}, {}", way.name, mood.name, size.0);
                let world = way.world(way.script(mood, looks), size).await;
                world.run().await;
                let code = ended(&world, &context).await;
                *told
                    .entry(way.name)
                    .or_default()
                    .entry(code.map_or("success", FailureCode::name))
                    .or_default() += 1;
                combinations.insert((way.name, mood.name));
                if code.is_some() {
                    *refused.entry(mood.name).or_default() += 1;
                    *refused.entry(way.name).or_default() += 1;
                }
            }
        }
    }
    println!("{} combinations of a way in and a lie, each in {} sizes:", combinations.len(), SIZES.len());
    told.iter().for_each(|(way, told)| println!("  {way}: {told:?}"));
    println!("  refused: {refused:?}");
    assert_eq!(combinations.len(), 128);
    // Where a qcow2 is made nothing that a server says is stored but the guest's bytes: each lie becomes a sound image.
    for name in MOODS.iter().map(|mood| mood.name).chain(ways().iter().map(|way| way.name)) {
        let least = if name == "to qcow2" { 0 } else { 3 };
        assert!(refused.get(name).is_some_and(|n| *n >= least) || least == 0, "{name}: {refused:?}");
    }
    assert!(refused.values().sum::<u32>() / 2 >= 200, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_another_size_is_another_image() {
    let disk = |gib: u64| qcow2(gib << 30, &vec![(0, pattern(200_000))]);
    let (clean, evil) = (disk(1), disk(2));
    let len = clean.len().max(evil.len());
    for way in ways().into_iter().filter(|way| ["as it is", "Glance", "bucket"].contains(&way.name)) {
        let way = Way { clean: padded(clean.clone(), len), evil: padded(evil.clone(), len), ..way };
        for size in SIZES {
            let context = format!("{}, {}", way.name, size.0);
            for (script, expected) in [
                (Script::of(way.clean.clone()), None),
                (way.script(&MOODS[0], 4), Some(FailureCode::SourceChanged)),
            ] {
                let mut world = way.world(script, size).await;
                world.policy.max_image_bytes = 4 << 30;
                world.run().await;
                assert_eq!(ended(&world, &context).await, expected, "{context}");
            }
        }
    }
}

/// Whoever opens the source second sees another one: of two twins, one.
const TWINS: [Mood; 3] = [
    mood("lies to every other", |asked| asked.opener % 2 == 1),
    mood("lies at every other read", |asked| asked.number % 2 == 1),
    mood("honest at the first read of a range", |asked| asked.again),
];

/// A world in which the first of these steps have been done, if they can be.
async fn after(way: &Way, mood: &Mood, size: (&str, Cut, u64), steps: &[Value]) -> Option<World> {
    let world = way.world(way.script(mood, 0), size).await;
    for step in steps {
        phase(&world, step.clone()).await.ok()?;
    }
    Some(world)
}

#[tokio::test(start_paused = true)]
async fn of_two_twins_that_are_told_different_things_neither_publishes_what_was_not_judged() {
    // By phase: how often two of it ended with an active image, and with none.
    let mut told = BTreeMap::<_, (u32, u32)>::new();
    for way in ways().iter().filter(|way| ["as it is", "declared raw", "to raw"].contains(&way.name)) {
        for mood in &TWINS {
            for size in [SIZES[0], SIZES[2]] {
                let honest = way.world(Script::of(way.clean.clone()), size).await;
                let planned = ticking(phase(&honest, json!({"phase": "plan"}))).await.unwrap();
                let mut steps = vec![json!({"phase": "plan"})];
                for item in planned["items"].as_array().into_iter().flatten() {
                    steps.push(json!({"phase": "round", "item": item}));
                }
                if steps.len() > 1 {
                    steps.push(json!({"phase": "next"}));
                }
                for (n, step) in steps.iter().enumerate() {
                    for hold in [Hold::Before, Hold::After] {
                        for place in 0.. {
                            let Some(world) = after(way, mood, size, &steps[..n]).await else { break };
                            let (first, second) = (phase(&world, step.clone()), phase(&world, step.clone()));
                            let both = world.faults.side_by_side(hold(place), first, second);
                            if ticking(both).await.is_none() {
                                break;
                            }
                            world.run().await;
                            let context =
                                format!("{}, {}, {}, {step}, {:?}", way.name, mood.name, size.0, hold(place));
                            let ends = told.entry(step["phase"].as_str().unwrap().to_owned()).or_default();
                            match ended(&world, &context).await {
                                None => ends.0 += 1,
                                Some(_) => ends.1 += 1,
                            }
                        }
                    }
                }
            }
        }
    }
    println!("twins whose image is active and sound, and those without one: {told:?}");
    for phase in ["plan", "round", "next"] {
        let (active, refused) = told[phase];
        assert!(active >= 30 && refused >= 30, "{phase}: {told:?}");
    }
}
