//! Whether bytes that are stored already may be published as what they are called.
//!
//! Goal: nobody who looks at the stored object takes it for anything else, whatever was read to make it.
//!
//! Threat model: [`inspect`] sees what a source shows beforehand. A server may send other bytes later, and a sound
//! image may hold a *disk* that begins like another image: stored raw, that disk is probed as the inner image, with the
//! backing file it names (CVE-2024-32498). So the judge looks at the output itself, after its last byte was written.
//!
//! A guest's own structures are no format around a disk: partition tables, file systems, volume managers and the file
//! systems of optical media stay allowed on a raw disk. Kernels and ramdisks may be compressed: no program looks for a disk
//! in them.

use crate::{
    error::{Code, Error, Result},
    format::Format,
    formats::{ova::UNTAR, view::View},
    inspect::{Inspection, ends, inspect},
    regions::Regions,
    signatures::{self, Meaning},
};

/// Tells whether these bytes are what they are to be published as, and nothing else.
///
/// # Errors
/// [`Error::Need`] for head and tail, as [`inspect`] has it. For an opaque format [`Code::Polyglot`] where a program could
/// take the disk for another format; for all others the refusals of [`inspect`], and [`Code::FormatMismatch`] for a
/// compressed stream.
pub fn judge(regions: &Regions, stored_as: Format) -> Result<()> {
    if stored_as.is_opaque() {
        return opaque(regions, stored_as);
    }
    match inspect(regions, Some(stored_as))? {
        Inspection::Disk(_) => Ok(()),
        Inspection::Stream(stream) => Err(Error::refused(
            Code::FormatMismatch,
            format!("stored as {stored_as}, but the bytes are a {stream} stream"),
        )),
    }
}

fn opaque(regions: &Regions, stored_as: Format) -> Result<()> {
    let found = signatures::all(&ends(View::whole(regions))?);
    let Some(seen) = found.iter().find(|seen| !seen.meaning.is_part_of(stored_as)) else {
        return Ok(());
    };
    let (begins, name) = (if seen.at_end { "ends" } else { "begins" }, seen.meaning.name());
    let send = match seen.meaning {
        Meaning::Packed(_, by) => format!("unpack it ({by}) and send what is inside"),
        Meaning::Disk(Format::Ova) => UNTAR.to_owned(),
        _ => "send it by itself and in its own format".to_owned(),
    };
    Err(Error::refused(
        Code::Polyglot,
        format!(
            "the disk {begins} like {name}, so stored as {stored_as} it would be taken for {name}; \
             if it is that, {send}; if not, overwrite the signature"
        ),
    ))
}
