//! What we write boots in QEMU.

use std::{
    io::{ErrorKind, Read, Write},
    process::{Command, Stdio},
    sync::mpsc::channel,
    time::Duration,
};

use disk_image::{ByteRange, write::qcow2::Geometry};
use disk_image_fixtures::bootable::{BOOTED, EXIT_STATUS, FAR, bootable_disk};

use crate::{
    CODECS,
    harness::{Disk, export},
};

/// Keeps a guest that hangs from hanging the tests; a boot takes seconds even without KVM.
const TOO_LONG: Duration = Duration::from_secs(300);

#[test]
fn an_exported_disk_boots_and_reads_its_far_end() {
    let dir = tempfile::tempdir().unwrap();
    // The last sector lies beyond what a 32-bit byte offset reaches.
    let size = 6u64 << 30;
    let bootable = bootable_disk(size);
    let piece = |start| (start, bootable.read(ByteRange { start, end: start + 512 }));
    let disk = Disk { size, data: vec![piece(0), piece(size - 512)] };
    for codec in CODECS {
        let path = dir.path().join("boot.qcow2");
        let done = export(&disk, Geometry::new(size, codec).unwrap(), &[3 << 30], &path);
        done.assert_is(&disk);
        let drive = format!("file={},format=qcow2,if=ide", path.display());
        let machine = [
            "-accel", "tcg", "-m", "32", "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic",
            "none",
        ];
        let started = Command::new("qemu-system-x86_64")
            .args(machine)
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", &drive])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut guest = match started {
            Ok(guest) => guest,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Past the test harness, which keeps what `println!` says of a test that passes.
                let line =
                    b"SKIPPED boot test: qemu-system-x86_64 is not installed (Debian: qemu-system-x86)\n";
                std::io::stderr().write_all(line).unwrap();
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let mut serial = guest.stdout.take().unwrap();
        let (send, receive) = channel();
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            let read = serial.read_to_end(&mut said);
            // The other end may have given up.
            let _ = send.send(());
            read.map(|_| String::from_utf8_lossy(&said).into_owned())
        });
        let in_time = receive.recv_timeout(TOO_LONG).is_ok();
        if !in_time {
            guest.kill().unwrap();
        }
        let status = guest.wait().unwrap();
        let said = reader.join().unwrap().unwrap();
        assert!(in_time, "the guest did not end; it said: {said:?}");
        // The firmware may say something of its own first.
        assert!(said.ends_with(&format!("{BOOTED}{FAR}")), "{said:?}");
        assert_eq!(status.code(), Some(EXIT_STATUS));
    }
}
