//! The binary and the libraries of a process: how to unwind their frames, and what their functions are called.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use framehop::{ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, Unwinder as _, UnwinderNative};
use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind,
    read::{ReadCache, elf::ElfFile64},
};

/// What framehop unwinds with.
pub(super) type Frames = UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>;

type Elf<'a> = ElfFile64<'a, object::Endianness, &'a ReadCache<File>>;

/// One file that is mapped with code.
#[derive(Debug)]
struct Mapped {
    name: String,
    /// By which the very file is opened, even when another has taken its path.
    file: PathBuf,
    /// From the first mapping to the last.
    range: Range<u64>,
    /// What is to be added to an address in the file.
    bias: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Modules {
    mapped: Vec<Mapped>,
    /// Where each mapping ends, by where it begins.
    mappings: BTreeMap<u64, u64>,
}

/// `symbol + offset`, or the file and the address in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) function: Option<(String, u64)>,
    pub(super) module: Option<(String, u64)>,
}

impl Modules {
    /// Of a process as it is now, into an unwinder.
    pub(super) fn read(pid: i32, unwinder: &mut Frames) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mut modules = Self::default();
        let mut files: BTreeMap<(u64, &str), Vec<Mapping>> = BTreeMap::new();
        for mapping in maps.lines().filter_map(Mapping::parse) {
            modules.mappings.insert(mapping.range.start, mapping.range.end);
            if mapping.name.starts_with('/') {
                files.entry((mapping.inode, mapping.name)).or_default().push(mapping);
            }
        }
        for ((inode, name), mappings) in files {
            if mappings.iter().any(|mapping| mapping.executable)
                && let Some(mapped) = load(pid, inode, name, &mappings, unwinder)
            {
                modules.mapped.push(mapped);
            }
        }
        modules
    }

    /// How far up a stack goes that is at `address` now.
    pub(super) fn end_of_mapping(&self, address: u64) -> Option<u64> {
        let (_, end) = self.mappings.range(..=address).next_back()?;
        (*end > address).then_some(*end)
    }

    /// What stands at these addresses. Each symbol table is read once.
    pub(super) fn places(&self, addresses: impl IntoIterator<Item = u64>) -> HashMap<u64, Place> {
        let mut places = HashMap::new();
        let mut wanted: Vec<Vec<u64>> = vec![Vec::new(); self.mapped.len()];
        for address in addresses {
            let module = self.mapped.iter().position(|mapped| mapped.range.contains(&address));
            let at = module.map(|i| {
                wanted[i].push(address);
                let mapped = &self.mapped[i];
                (mapped.name.clone(), address.wrapping_sub(mapped.bias))
            });
            places.insert(address, Place { function: None, module: at });
        }
        for (mapped, wanted) in self.mapped.iter().zip(wanted) {
            if !wanted.is_empty() {
                name(mapped, &wanted, &mut places);
            }
        }
        places
    }
}

struct Mapping<'a> {
    range: Range<u64>,
    executable: bool,
    offset: u64,
    inode: u64,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    /// `7f..-7f.. r-xp 00028000 fe:00 1234   /usr/lib/…` (proc(5)).
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (permissions, offset) = (fields.next()?, hex(fields.next()?)?);
        let inode = fields.nth(1)?.parse().ok()?;
        let name = fields.next().unwrap_or_default().trim_start();
        Some(Self { range: hex(start)?..hex(end)?, executable: permissions.contains('x'), offset, inode, name })
    }
}

fn load(pid: i32, inode: u64, name: &str, mappings: &[Mapping<'_>], unwinder: &mut Frames) -> Option<Mapped> {
    let (first, last) = (mappings.first()?, mappings.last()?);
    let range = first.range.start..last.range.end;
    // Root and the process itself may open what is mapped; anybody the path, if it is still the same file.
    let link = PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", first.range.start, first.range.end));
    let exe = PathBuf::from(format!("/proc/{pid}/exe"));
    let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == inode);
    let file = [link, exe, PathBuf::from(name)].into_iter().find(is_it)?;
    let cache = ReadCache::new(File::open(&file).ok()?);
    let elf = Elf::parse(&cache).ok()?;
    let code = mappings.iter().find(|mapping| mapping.executable)?;
    // The kernel maps whole pages, so that a segment's own offset lies within the mapping.
    let segment = elf.segments().find(|segment| {
        let (offset, size) = segment.file_range();
        offset < code.offset + (code.range.end - code.range.start) && code.offset < offset + size && is_executable(segment)
    })?;
    let bias = code.range.start.wrapping_sub(code.offset).wrapping_sub(segment.address().wrapping_sub(segment.file_range().0));
    let section = |name: &str| {
        let section = elf.section_by_name(name)?;
        let data = section.data().ok()?.to_vec();
        Some((section.address()..section.address() + section.size(), data))
    };
    let address = |name: &str| elf.section_by_name(name).map(|section| section.address()..section.address() + section.size());
    let (eh_frame_svma, eh_frame) = section(".eh_frame").unzip();
    let (eh_frame_hdr_svma, eh_frame_hdr) = section(".eh_frame_hdr").unzip();
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: address(".text"),
        got_svma: address(".got"),
        eh_frame_svma,
        eh_frame,
        eh_frame_hdr_svma,
        eh_frame_hdr,
        ..ExplicitModuleSectionInfo::default()
    };
    unwinder.add_module(Module::new(name.to_owned(), range.clone(), bias, sections));
    let name = name.rsplit('/').next().unwrap_or(name).to_owned();
    Some(Mapped { name, file, range, bias })
}

fn is_executable<'a>(segment: &impl object::ObjectSegment<'a>) -> bool {
    matches!(segment.flags(), object::SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_X.0 != 0)
}

/// Finds the functions of a module's addresses.
fn name(mapped: &Mapped, wanted: &[u64], places: &mut HashMap<u64, Place>) {
    let Ok(file) = File::open(&mapped.file) else { return };
    let cache = ReadCache::new(file);
    let Ok(elf) = Elf::parse(&cache) else { return };
    let mut wanted: Vec<_> = wanted.iter().map(|address| address.wrapping_sub(mapped.bias)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    // Stripped libraries have their dynamic symbols left.
    for symbol in elf.symbols().chain(elf.dynamic_symbols()) {
        let (begin, size) = (symbol.address(), symbol.size());
        if symbol.kind() != SymbolKind::Text || size == 0 {
            continue;
        }
        let first = wanted.partition_point(|address| *address < begin);
        for address in wanted[first..].iter().take_while(|address| **address < begin + size) {
            if let (Ok(name), Some(place)) = (symbol.name(), places.get_mut(&address.wrapping_add(mapped.bias))) {
                place.function.get_or_insert_with(|| (format!("{:#}", rustc_demangle::demangle(name)), address - begin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_with_or_without_a_name() {
        let line = "7f0000028000-7f00001bd000 r-xp 00028000 fe:00 1234                       /usr/lib/a b.so (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.range, mapping.executable, mapping.offset), (0x7f00_0002_8000..0x7f00_001b_d000, true, 0x28000));
        assert_eq!((mapping.inode, mapping.name), (1234, "/usr/lib/a b.so (deleted)"));
        assert_eq!(Mapping::parse("7ffc0-7ffd0 rw-p 00000000 00:00 0 ").unwrap().name, "");
        assert!(Mapping::parse("nonsense").is_none());
    }
}
