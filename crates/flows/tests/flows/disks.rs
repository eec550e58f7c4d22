//! Disks to export, and whether two files hold the same one.

use disk_image::drive::{drive, walk};
use std::sync::Arc;

use disk_image::write::qcow2::{Assembly, AssemblyStep, BlobWriter, Codec, File, Geometry};
use disk_image::write::rope::Rope;
use disk_image::{Decoder, Extent, Fetch, Format, Layout, Limits, Regions, Stored};

/// Data of a sparse disk: where it is.
pub(crate) type Islands = Vec<(u64, Vec<u8>)>;

pub(crate) fn qcow2(size: u64, islands: &Islands) -> Vec<u8> {
    let geometry = Geometry::new(size, Codec::Zlib).unwrap();
    let mut writer = BlobWriter::new(geometry, 0).unwrap();
    let mut blob = Rope::default();
    for (at, bytes) in islands {
        writer.zeros(at - writer.position(), &mut blob).unwrap();
        writer.write(&bytes.clone().into(), &mut blob).unwrap();
    }
    writer.zeros(size - writer.position(), &mut blob).unwrap();
    let index = writer.finish(&mut blob).unwrap();
    let made = Arc::new(File::new(geometry, vec![index.summary()]).unwrap());
    let blob = blob.into_iter().collect::<Vec<_>>().concat();
    let mut assembly = Assembly::new(Arc::clone(&made), 0..made.len()).unwrap();
    let mut file = Vec::new();
    loop {
        match assembly.step().unwrap() {
            AssemblyStep::Bytes(bytes) => file.extend(bytes),
            AssemblyStep::Index(k) => assembly.give(k, index.clone()).unwrap(),
            AssemblyStep::Blob(_, range) => {
                let [start, end] = [range.start, range.end].map(|n| usize::try_from(n).unwrap());
                file.extend_from_slice(&blob[start..end]);
            }
            AssemblyStep::Done => return file,
        }
    }
}

/// The data of an image's disk, as our reader sees it.
pub(crate) fn islands(mut file: &[u8], format: &str) -> (u64, Islands) {
    let format = Format::from_name(format).unwrap();
    let whole = file;
    let mut regions = Regions::new(file.len() as u64);
    let limits = Limits { max_virtual_size: 1 << 50 };
    let layout = drive(&mut file, &mut regions, |r| Layout::open(r, format, &limits)).unwrap();
    let mut extents: Vec<Extent> = Vec::new();
    walk(&mut file, &layout, |extent| {
        extents.push(extent);
        Ok(())
    })
    .unwrap();
    let mut found: Islands = Vec::new();
    for extent in extents.iter().filter(|e| e.stored != Stored::Zero) {
        let len = usize::try_from(extent.len).unwrap();
        let fetch = Fetch::plan(extent.start, len, [*extent]).unwrap();
        let mut window = vec![0; len];
        for read in fetch.reads() {
            let range = read.range();
            let bytes = &whole[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            read.decode(bytes, &mut window, &mut Decoder::new()).unwrap();
        }
        match found.last_mut() {
            Some((at, bytes)) if *at + bytes.len() as u64 == extent.start => bytes.extend(window),
            _ => found.push((extent.start, window)),
        }
    }
    (layout.virtual_size(), found)
}

/// The same disk, whatever zeros are told or stored.
pub(crate) fn assert_same_disk(a: &[u8], a_format: &str, b: &[u8], b_format: &str, context: &str) {
    let ((a_size, a), (b_size, b)) = (islands(a, a_format), islands(b, b_format));
    assert_eq!(a_size.next_multiple_of(512), b_size.next_multiple_of(512), "{context}");
    let covers = |one: &Islands, other: &Islands| {
        for (at, bytes) in one {
            for (n, chunk) in bytes.chunks(512).enumerate() {
                let start = at + n as u64 * 512;
                let seen = other.iter().find(|(at, bytes)| (*at..*at + bytes.len() as u64).contains(&start));
                let end = start + chunk.len() as u64;
                match seen {
                    Some((at, bytes)) => {
                        let from = usize::try_from(start - at).unwrap();
                        let to = usize::try_from(end - at).unwrap().min(bytes.len());
                        assert!(chunk[..to - from] == bytes[from..to], "{context}: at {start}");
                        assert!(chunk[to - from..].iter().all(|b| *b == 0), "{context}: at {start}");
                    }
                    None => assert!(chunk.iter().all(|b| *b == 0), "{context}: at {start}"),
                }
            }
        }
    };
    covers(&a, &b);
    covers(&b, &a);
}
