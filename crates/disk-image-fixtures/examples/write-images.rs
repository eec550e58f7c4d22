//! Writes every sound and hostile image to `DIR/<format>/<name>`: seeds for the fuzzers, files to try other programs with.

use std::{env, fs, io, path::PathBuf};

use disk_image::Format;

fn main() -> io::Result<()> {
    let dir =
        PathBuf::from(env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: write-images DIR"))?);
    let sound = disk_image_fixtures::sound().into_iter().map(|s| (s.name.to_owned(), Some(s.format), s.file));
    let hostile = disk_image_fixtures::all().into_iter().map(|h| (h.name, h.declared, h.file));
    let images =
        sound.chain(hostile).map(|(name, format, file)| (name, format.map_or("inspect", Format::name), file));
    let disks = disk_image_fixtures::partitioned::seeds().into_iter();
    for (name, target, file) in images.chain(disks.map(|(name, disk)| (name.to_owned(), "boot", disk))) {
        let dir = dir.join(target);
        fs::create_dir_all(&dir)?;
        file.write_to(&dir.join(name))?;
    }
    Ok(())
}
