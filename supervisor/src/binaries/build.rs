//! Tells one build of a binary from another: by the build id that the linker wrote into it (`readelf -n`), or by a hash of the file when there is none.
//!
//! The id is a hash of what was linked, 20 bytes in the first pages of the file: reading it costs nothing, where hashing four debug builds took half a second
//! of every start.

use std::{fmt::Write as _, fs::File, io, os::unix::fs::FileExt as _};

use sha2::{Digest as _, Sha256};

/// As many bytes of it as people compare.
const SHOWN: usize = 4;
/// `PT_NOTE`.
const NOTE_SEGMENT: u32 = 4;
/// `NT_GNU_BUILD_ID`.
const BUILD_ID: u32 = 3;
/// More than any binary has.
const MOST_HEADERS: u16 = 128;
const MOST_NOTES: u64 = 64 << 10;

/// `1a2b3c4d`.
pub(super) fn id(file: &File) -> io::Result<String> {
    let id = match linked(file) {
        Some(id) => id,
        None => hash(file)?,
    };
    Ok(id.iter().take(SHOWN).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    }))
}

/// The note in a 64-bit little-endian ELF file.
fn linked(file: &File) -> Option<Vec<u8>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (u64_at(&header, 0x20)?, u16_at(&header, 0x36)?, u16_at(&header, 0x38)?.min(MOST_HEADERS));
    (0..u64::from(count)).find_map(|i| {
        let mut segment = [0; 56];
        file.read_exact_at(&mut segment, table.checked_add(i * u64::from(size))?).ok()?;
        let (offset, length) = (u64_at(&segment, 8)?, u64_at(&segment, 32)?);
        if u32_at(&segment, 0)? != NOTE_SEGMENT || length > MOST_NOTES {
            return None;
        }
        let mut notes = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut notes, offset).ok()?;
        build_id(&notes)
    })
}

fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (name_length, length, kind) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize, u32_at(notes, 8)?);
        let begin = 12 + name_length.next_multiple_of(4);
        let name = notes.get(12..12 + name_length)?;
        let description = notes.get(begin..begin + length)?;
        if name == b"GNU\0" && kind == BUILD_ID {
            return Some(description.to_owned());
        }
        notes = notes.get(begin + length.next_multiple_of(4)..)?;
    }
}

fn hash(file: &File) -> io::Result<Vec<u8>> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hash.finalize().to_vec()),
            length => {
                hash.update(&buffer[..length]);
                at += length as u64;
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn without_a_note_it_is_the_beginning_of_the_file_s_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        fs::write(&path, "abc").unwrap();
        assert_eq!(id(&File::open(&path).unwrap()).unwrap(), "ba7816bf");
    }

    #[test]
    fn a_linked_binary_has_the_id_that_the_linker_gave_it() {
        // Ours have one because the linker driver asks for it.
        let own = File::open("/proc/self/exe").unwrap();
        let linked = linked(&own).unwrap();
        assert!(linked.len() >= 8, "{linked:?}");
        assert!(linked != hash(&own).unwrap()[..linked.len()]);
    }

    #[test]
    fn notes_are_read_to_the_one_that_counts_and_never_beyond_their_end() {
        let note = |name: &[u8], kind: u32, description: &[u8]| {
            let mut bytes = Vec::new();
            for number in [name.len(), description.len(), kind as usize] {
                bytes.extend(u32::try_from(number).unwrap().to_le_bytes());
            }
            for part in [name, description] {
                bytes.extend(part);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            bytes
        };
        let notes = [note(b"GNU\0", 1, &[9; 16]), note(b"Go\0", 3, &[7; 5]), note(b"GNU\0", 3, &[1, 2, 3, 4, 5])].concat();
        assert_eq!(build_id(&notes), Some(vec![1, 2, 3, 4, 5]));
        for length in 0..notes.len() - 3 {
            assert_eq!(build_id(&notes[..length]), None, "{length}");
        }
    }
}
