//! The hostile set: every image is refused with its own code, in few reads and little memory, and the sound images they are made from are read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use disk_image::{
    Decoder, Error, Extent, Fetch, Format, Inspection, Layout, Limits, Regions,
    drive::{DriveError, MAX_OPEN_BYTES, ReadAt, drive, walk},
    inspect,
};
use disk_image_fixtures::Sparse;
use support::Counting;

/// Every step that an import makes, to the last byte: inspect, open, walk, fetch, decode.
fn import(file: &Sparse, declared: Option<Format>) -> (Result<u64, DriveError>, Counting<&Sparse>) {
    let mut source = Counting::new(file);
    let mut disk = || {
        let mut regions = Regions::new(source.size());
        let Inspection::Disk(format) = drive(&mut source, &mut regions, |r| inspect(r, declared))? else {
            panic!("no hostile image is a stream")
        };
        let limits = Limits::default();
        let layout = drive(&mut source, &mut regions, |r| Layout::open(r, format, &limits))?;
        let mut extents: Vec<Extent> = Vec::new();
        walk(&mut source, &layout, |extent| {
            extents.push(extent);
            Ok(())
        })?;
        let mut decoder = Decoder::new();
        for window in extents.chunk_by(|a, b| a.source().is_some() == b.source().is_some()) {
            let start = window[0].start;
            let len = window.iter().map(|e| e.len).sum::<u64>();
            if window[0].source().is_none() {
                continue;
            }
            let len = usize::try_from(len.min(8 << 20)).unwrap();
            let fetch = Fetch::plan(start, len, window.iter().copied()).map_err(refusal)?;
            let mut bytes = vec![0; len];
            for read in fetch.reads() {
                let stored = source.read_range(read.range())?;
                read.decode(&stored, &mut bytes, &mut decoder).map_err(refusal)?;
            }
        }
        Ok(layout.virtual_size())
    };
    let result = disk();
    (result, source)
}

fn refusal(error: Error) -> DriveError {
    match error {
        Error::Refused(refusal) => refusal.into(),
        Error::Need(_) => panic!("planning and decoding need nothing"),
    }
}

#[test]
fn every_hostile_image_is_refused_with_its_own_code() {
    let all = disk_image_fixtures::all();
    let mut wrong = Vec::new();
    for hostile in &all {
        let (result, source) = import(&hostile.file, hostile.declared);
        match result {
            Err(DriveError::Refused(refusal)) if refusal.code == hostile.code => {
                assert!(refusal.message.len() > 15 && refusal.message.len() < 300, "{}", refusal.message);
            }
            other => wrong.push(format!("{}: {other:?}, expected {}", hostile.name, hostile.code)),
        }
        // Metadata is at most what opening may hold; nothing asks for more bytes than a few times the file.
        assert!(source.largest <= MAX_OPEN_BYTES as u64, "{}", hostile.name);
        assert!(source.requests <= 64, "{}: {} requests", hostile.name, source.requests);
        assert!(source.bytes <= 4 * hostile.file.len() + 65536, "{}: {} bytes", hostile.name, source.bytes);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(all.len() >= 80, "{} images", all.len());
    let names: BTreeSet<_> = all.iter().map(|h| &h.name).collect();
    assert_eq!(names.len(), all.len(), "names are unique");
}

#[test]
fn what_they_are_made_from_is_accepted() {
    for sound in disk_image_fixtures::sound() {
        let (result, _) = import(&sound.file, Some(sound.format));
        assert!(result.is_ok(), "{}: {result:?}", sound.name);
    }
}
