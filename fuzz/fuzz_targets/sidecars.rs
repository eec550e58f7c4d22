//! Range maps and allocation maps, read back from any bytes.
#![no_main]

use disk_image::{AllocationMap, ExtentMap, Regions};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(map) = AllocationMap::decode(bytes) {
        assert_eq!(AllocationMap::decode(&map.encode()), Ok(map));
    }
    let mut regions = Regions::new(bytes.len() as u64);
    regions.insert(0, bytes.to_vec());
    if let Ok(map) = ExtentMap::open(&regions)
        && let Ok(extents) = map.extents(&regions, 0..map.virtual_size)
    {
        assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), map.virtual_size);
    }
});
