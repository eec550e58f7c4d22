//! A disk that boots, and says over the serial port what it read.
//!
//! Goal: a test sees that an image which was converted, exported or copied still *runs*: the firmware finds the boot sector, and a
//! sector at the far end of the disk is where the BIOS looks for it.
//!
//! Sector 0 is code for a PC in real mode. It sets up COM1, prints [`BOOTED`], reads the disk's last sector by INT 13h function 42h
//! (extended read, by LBA), prints the text it holds ([`FAR`]), and ends: it writes to port 0xf4 (QEMU's `isa-debug-exit`, a port
//! that does nothing elsewhere) and halts. If the read fails, it prints [`FAILED`] instead.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use crate::{Sparse, partitioned::LOADED};

/// Printed first.
pub const BOOTED: &str = "boot sector runs\r\n";
/// What the last sector holds, printed once it was read.
pub const FAR: &str = "far sector read\r\n";
/// Printed if the BIOS can't read the last sector.
pub const FAILED: &str = "far sector not readable\r\n";
/// The status QEMU ends with given `-device isa-debug-exit,iobase=0xf4,iosize=4`: (value << 1) | 1.
pub const EXIT_STATUS: i32 = 0x21;

const SECTOR: u64 = 512;
/// Keeps a guest that hangs from hanging the tests; a boot takes seconds even without KVM.
const TOO_LONG: Duration = Duration::from_secs(300);
/// Where the BIOS loads the boot sector.
const ORIGIN: u16 = 0x7c00;
/// Where the far sector is read to: right behind.
const BUFFER: u16 = ORIGIN + 512;

/// A bootable disk of `size` bytes, whole sectors and at least two of them; all but the first and the last is zeros.
pub fn bootable_disk(size: u64) -> Sparse {
    let size = (size / SECTOR).max(2) * SECTOR;
    let far = size - SECTOR;
    let text = [FAR.as_bytes(), &[0]].concat();
    Sparse::zeros(size).with(0, &boot_sector(far / SECTOR)).with(far, &text)
}

/// Starts QEMU without KVM from a file with a [`bootable_disk`] in it; whether the disk booted and its far end was read, or else
/// what happened. `None` where QEMU isn't installed, which is said on the standard error stream.
///
/// # Errors
/// QEMU can't be run.
pub fn boot(file: &Path, format: &str) -> io::Result<Option<Result<(), String>>> {
    let drive = format!("file={},format={format},if=ide", file.display());
    start(&["-m", "32", "-drive", &drive], &format!("{BOOTED}{FAR}"))
}

/// The same by UEFI, from an NVMe disk whose loader is a [`program`](crate::partitioned::program). `None` also where that
/// firmware isn't installed.
///
/// # Errors
/// QEMU can't be run.
pub fn boot_by_uefi(file: &Path, format: &str) -> io::Result<Option<Result<(), String>>> {
    const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";
    if !Path::new(FIRMWARE).exists() {
        return skipped(FIRMWARE, "ovmf");
    }
    let drive = format!("file={},format={format},if=none,id=disk", file.display());
    let disk = ["-drive", &drive, "-device", "nvme,drive=disk,serial=1"];
    start(&[&["-m", "256", "-bios", FIRMWARE], &disk[..]].concat(), LOADED)
}

/// Said past the test harness, which keeps what `println!` says of a test that passes.
fn skipped<T>(missing: &str, package: &str) -> io::Result<Option<T>> {
    let line = format!("SKIPPED boot test: {missing} is not installed (Debian: {package})\n");
    io::stderr().write_all(line.as_bytes()).map(|()| None)
}

fn start(machine: &[&str], says: &str) -> io::Result<Option<Result<(), String>>> {
    let started = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(machine)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    match started {
        Ok(guest) => watch(guest, says).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => skipped("qemu-system-x86_64", "qemu-system-x86"),
        Err(e) => Err(e),
    }
}

fn watch(mut guest: Child, says: &str) -> io::Result<Result<(), String>> {
    let mut serial = guest.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut said = Vec::new();
        let read = serial.read_to_end(&mut said);
        // The other end may have given up.
        let _ = send.send(read.map(|_| String::from_utf8_lossy(&said).into_owned()));
    });
    let Ok(said) = receive.recv_timeout(TOO_LONG) else {
        guest.kill()?;
        guest.wait()?;
        return Ok(Err("the guest did not end".to_owned()));
    };
    let (said, status) = (said?, guest.wait()?);
    // The firmware may say something of its own first.
    let booted = said.ends_with(says) && status.code() == Some(EXIT_STATUS);
    Ok(if booted { Ok(()) } else { Err(format!("the guest ended with {status} and said {said:?}")) })
}

/// Code, texts, and the address packet of the read.
fn boot_sector(lba: u64) -> Vec<u8> {
    // Texts lie at fixed places behind the code.
    const BOOTED_AT: u16 = ORIGIN + 0x100;
    const FAILED_AT: u16 = ORIGIN + 0x140;
    const PACKET_AT: u16 = ORIGIN + 0x180;
    let [booted_lo, booted_hi] = BOOTED_AT.to_le_bytes();
    let [failed_lo, failed_hi] = FAILED_AT.to_le_bytes();
    let [packet_lo, packet_hi] = PACKET_AT.to_le_bytes();
    let [buffer_lo, buffer_hi] = BUFFER.to_le_bytes();

    let code: &[&[u8]] = &[
        // Segments 0, stack below the code. The BIOS leaves the drive's number in DL.
        &[0xfa],             // 00 cli
        &[0x31, 0xc0],       // 01 xor ax, ax
        &[0x8e, 0xd8],       // 03 mov ds, ax
        &[0x8e, 0xc0],       // 05 mov es, ax
        &[0x8e, 0xd0],       // 07 mov ss, ax
        &[0xbc, 0x00, 0x7c], // 09 mov sp, 0x7c00
        &[0xfb],             // 0c sti
        &[0xfc],             // 0d cld
        &[0x52],             // 0e push dx
        // COM1: no interrupts, 115200 baud (divisor 1), 8n1.
        &[0xba, 0xf9, 0x03],           // 0f mov dx, 0x3f9
        &[0x30, 0xc0],                 // 12 xor al, al
        &[0xee],                       // 14 out dx, al
        &[0xba, 0xfb, 0x03],           // 15 mov dx, 0x3fb
        &[0xb0, 0x80],                 // 18 mov al, 0x80
        &[0xee],                       // 1a out dx, al
        &[0xba, 0xf8, 0x03],           // 1b mov dx, 0x3f8
        &[0xb0, 0x01],                 // 1e mov al, 1
        &[0xee],                       // 20 out dx, al
        &[0x42],                       // 21 inc dx
        &[0x30, 0xc0],                 // 22 xor al, al
        &[0xee],                       // 24 out dx, al
        &[0xba, 0xfb, 0x03],           // 25 mov dx, 0x3fb
        &[0xb0, 0x03],                 // 28 mov al, 3
        &[0xee],                       // 2a out dx, al
        &[0xbe, booted_lo, booted_hi], // 2b mov si, BOOTED
        &[0xe8, 0x1e, 0x00],           // 2e call 4f
        // Extended read of one sector.
        &[0x5a],                       // 31 pop dx
        &[0xbe, packet_lo, packet_hi], // 32 mov si, PACKET
        &[0xb4, 0x42],                 // 35 mov ah, 0x42
        &[0xcd, 0x13],                 // 37 int 0x13
        &[0xbe, buffer_lo, buffer_hi], // 39 mov si, BUFFER
        &[0x73, 0x03],                 // 3c jnc 41
        &[0xbe, failed_lo, failed_hi], // 3e mov si, FAILED
        &[0xe8, 0x0b, 0x00],           // 41 call 4f
        // Ends QEMU where it was given the device, else halts for good.
        &[0xba, 0xf4, 0x00], // 44 mov dx, 0xf4
        &[0xb0, 0x10],       // 47 mov al, 0x10
        &[0xee],             // 49 out dx, al
        &[0xfa],             // 4a cli
        &[0xf4],             // 4b hlt
        &[0xeb, 0xfc],       // 4c jmp 4a
        &[0x90],             // 4e nop
        // Prints the text at SI: waits until the port's transmitter is empty before each byte.
        &[0xac],             // 4f lodsb
        &[0x84, 0xc0],       // 50 test al, al
        &[0x74, 0x12],       // 52 jz 66
        &[0x88, 0xc4],       // 54 mov ah, al
        &[0xba, 0xfd, 0x03], // 56 mov dx, 0x3fd
        &[0xec],             // 59 in al, dx
        &[0xa8, 0x20],       // 5a test al, 0x20
        &[0x74, 0xfb],       // 5c jz 59
        &[0xba, 0xf8, 0x03], // 5e mov dx, 0x3f8
        &[0x88, 0xe0],       // 61 mov al, ah
        &[0xee],             // 63 out dx, al
        &[0xeb, 0xe9],       // 64 jmp 4f
        &[0xc3],             // 66 ret
    ];

    // Disk address packet (Enhanced Disk Drive specification): length, 0, sectors, offset and segment of the buffer, LBA.
    let packet = [&[16, 0, 1, 0, buffer_lo, buffer_hi, 0, 0], &lba.to_le_bytes()[..]].concat();
    let mut sector = vec![0; 512];
    let mut put = |at: u16, bytes: &[u8]| {
        let at = usize::from(at - ORIGIN);
        sector[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(ORIGIN, &code.concat());
    put(BOOTED_AT, BOOTED.as_bytes());
    put(FAILED_AT, FAILED.as_bytes());
    put(PACKET_AT, &packet);
    put(ORIGIN + 510, &[0x55, 0xaa]);
    sector
}
