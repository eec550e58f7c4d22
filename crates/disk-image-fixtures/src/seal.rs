//! Checksums and copies that would stop a changed image at the door.
//!
//! Goal: what a fuzzer changes behind a checksum reaches the parser.

use std::io;

use disk_image::{ByteRange, Format, drive::ReadAt};

use crate::{vhd, vhdx};

/// What to write, and where, so that the checksums of a changed VHD or VHDX hold and its copies are alike; nothing for the others.
///
/// # Errors
/// The file's.
pub fn seal(format: Format, file: &mut dyn ReadAt) -> io::Result<Vec<(u64, Vec<u8>)>> {
    match format {
        Format::Vhd => vhd_seal(file),
        Format::Vhdx => vhdx_seal(file),
        _ => Ok(Vec::new()),
    }
}

fn vhd_seal(file: &mut dyn ReadAt) -> io::Result<Vec<(u64, Vec<u8>)>> {
    // A footer may lack its last byte, as in `vhd.rs`.
    let Some(end) = file.size().next_multiple_of(512).checked_sub(512) else { return Ok(Vec::new()) };
    let len = usize::try_from(file.size() - end).unwrap_or(512);
    if file.size() < 512 {
        return Ok(Vec::new());
    }
    let head = file.read_range(ByteRange { start: 0, end: 512 })?;
    if !head.starts_with(b"conectix") {
        let mut footer = file.read_range(ByteRange { start: end, end: file.size() })?;
        footer.resize(512, 0);
        return Ok(vec![(end, vhd::sealed(footer, vhd::SUM)[..len].to_vec())]);
    }
    let place: [u8; 8] = head[16..24].try_into().unwrap_or_default();
    let place = u64::from_be_bytes(place);
    let footer = vhd::sealed(head, vhd::SUM);
    let mut seals = vec![(0, footer.clone()), (end, footer[..len].to_vec())];
    if place >= 512 && place.checked_add(1024).is_some_and(|to| to <= end) {
        let header = file.read_range(ByteRange { start: place, end: place + 1024 })?;
        seals.push((place, vhd::sealed(header, vhd::HEADER_SUM)));
    }
    Ok(seals)
}

fn vhdx_seal(file: &mut dyn ReadAt) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut seals = Vec::new();
    if file.size() < vhdx::LOG {
        return Ok(seals);
    }
    for at in vhdx::HEADERS {
        seals.push((at, vhdx::sealed(file.read_range(ByteRange { start: at, end: at + 4096 })?)));
    }
    let [first, second] = vhdx::REGIONS;
    let table = vhdx::sealed(file.read_range(ByteRange { start: first, end: second })?);
    seals.extend([(first, table.clone()), (second, table)]);
    Ok(seals)
}

/// The same for a disk with a GPT.
///
/// # Errors
/// The file's.
pub fn seal_gpt(file: &mut dyn ReadAt) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut seals = Vec::new();
    for sector in [512, 4096] {
        let end = sector + 512;
        if file.size() < end {
            continue;
        }
        let mut header = file.read_range(ByteRange { start: sector, end })?;
        let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let place = u64::from_le_bytes(header[72..80].try_into().unwrap_or_default());
        let (len, bytes) = (field(12) as usize, u64::from(field(80)) * u64::from(field(84)));
        let entries = place.checked_mul(sector).and_then(|at| ByteRange::at(at, bytes));
        let entries = entries.filter(|entries| entries.end <= file.size() && !entries.is_empty());
        let Some(entries) = entries.filter(|_| header.starts_with(b"EFI PART") && len <= 512) else {
            continue;
        };
        let sum = libdeflater::crc32(&file.read_range(entries)?).to_le_bytes();
        header[88..92].copy_from_slice(&sum);
        header[16..20].fill(0);
        let header_sum = libdeflater::crc32(&header[..len]).to_le_bytes();
        seals.extend([(sector + 88, sum.to_vec()), (sector + 16, header_sum.to_vec())]);
    }
    Ok(seals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_image_is_sealed_and_a_changed_one_becomes_so() {
        let mut seen = 0;
        for sound in crate::sound().iter().filter(|s| matches!(s.format, Format::Vhd | Format::Vhdx)) {
            // Not the copies: images with one copy get the other one back.
            let kept = seal(sound.format, &mut &sound.file).unwrap();
            let file = kept.iter().fold(sound.file.clone(), |file, (at, bytes)| file.with(*at, bytes));
            // In a header's unused bytes, and in the footer's.
            let place = if sound.format == Format::Vhdx { 65_636 } else { 100 };
            let changed = file.clone().with(place, &[2]).with(file.len() - 100, &[1]);
            let sealed = seal(sound.format, &mut &changed).unwrap();
            let sealed = sealed.iter().fold(changed, |file, (at, bytes)| file.with(*at, bytes));
            assert!(
                crate::import(&mut crate::Counting::new(&sealed), Some(sound.format)).is_ok(),
                "{}",
                sound.name
            );
            seen += 1;
        }
        assert!(seen >= 6);
    }
}
