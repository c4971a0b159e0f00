//! The floor of a boot: an initial file system whose only program ends the machine.

/// `reboot(2)` with LINUX_REBOOT_CMD_RESTART, which ends a QEMU that was started with
/// `-no-reboot`: the way our guest goes down too.
const CODE: [u8; 29] = [
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 672274793
    0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, 0x01234567
    0x4d, 0x31, 0xd2, // xor r10, r10
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp self
    0x90, 0x90, // nop, nop
];

const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// A `newc` archive with that program as `/init`.
pub(super) fn initramfs() -> Vec<u8> {
    let mut archive = entry("init", 0o100_755, &program());
    archive.extend(entry("TRAILER!!!", 0, &[]));
    archive
}

/// A static ELF file of one loaded segment.
fn program() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes()); // an executable
    file.extend(62u16.to_le_bytes()); // of x86-64
    file.extend(1u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes()); // entry
    file.extend(64u64.to_le_bytes()); // program headers
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes()); // a loaded segment
    file.extend(5u32.to_le_bytes()); // to read and execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file
}

fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let fields = [1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
    let mut out: Vec<u8> = b"070701".to_vec();
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    pad(&mut out);
    out.extend(data);
    pad(&mut out);
    out
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_what_its_headers_say() {
        let file = program();
        assert_eq!(file.len() as u64, HEADERS + CODE.len() as u64);
        assert_eq!(file[HEADERS as usize..], CODE);
        assert!(initramfs().len().is_multiple_of(4));
    }
}
